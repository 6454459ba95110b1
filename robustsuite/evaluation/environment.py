"""What a record must say of where it was made."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from typing import Any, Final

from robustsuite.core import checks
from robustsuite.plugins import provenance
from robustsuite.plugins.trust import held

_PACKAGES: Final = ("robustsuite", *provenance.LIBRARIES)


@cache
def environment(device: str, threads: int) -> dict[str, Any]:
    """Versions, device, threads, a digest of the code, and the git revision of the working folder where it has one.

    Whether files differ from that revision is said where the code of the working folder may run: to find out, git runs
    commands that a repository may name for itself (`core.fsmonitor`, filters).
    """
    versions = {name: provenance.version(name) for name in _PACKAGES}
    facts = {"python": platform.python_version(), "machine": platform.machine(), "system": platform.system()}
    place = {"device": device, "threads": threads, "revision": _revision(), "code": provenance.code()}
    return {**facts, "versions": versions, **place}


def _revision() -> str:
    trust = held()
    dirty = ["--dirty"] if trust is not None and trust.folder is not None else []
    try:
        done = subprocess.run(
            ["git", "-c", "core.fsmonitor=false", "describe", "--always", "--abbrev=12", *dirty],
            env={**os.environ, "GIT_ALLOW_PROTOCOL": "none"},  # nothing is fetched for what a repository lacks
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def resolve_device(name: str) -> str:
    """`auto` becomes the fastest device that is there; any other name must be there.

    Raises:
        RequestError: A device that torch does not see.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind = name.partition(":")[0]
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present.get(kind, False):
        there = ", ".join(k for k, v in present.items() if v)
        raise checks.fail("a device that is there", "device", name, f"choose one of auto, {there}")
    return name
