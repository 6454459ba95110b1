"""Suites that ship with the package; run them by name."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True)
class BuiltinSuite:
    """A suite that ships with the package: its name, and what it is for in one line."""

    name: str
    summary: str


def builtin_suites() -> list[BuiltinSuite]:
    """The suites that ship with the package, by name; the first comment line of each describes it."""
    names = sorted(item.name for item in resources.files(__name__).iterdir() if item.name.endswith(".yaml"))
    found = []
    for name in (file.removesuffix(".yaml") for file in names):
        first = builtin_text(name).partition("\n")[0]
        found.append(BuiltinSuite(name, first.removeprefix("#").strip()))
    return found


def builtin_text(name: str) -> str:
    """The YAML of a built-in suite."""
    return resources.files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
