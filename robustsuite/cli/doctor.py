"""`robustsuite doctor`: what is installed, what is there, what would fail and how to mend it."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from robustsuite.cli.console import results, set_up
from robustsuite.core.version import __version__

OK: Final = "ok"
NOTE: Final = "note"
FAILS: Final = "fails"
_DATA: Final = ("mnist", "fashion-mnist", "kmnist", "cifar10", "cifar100", "svhn", "orl-faces")


@dataclass(frozen=True)
class Diagnosis:
    """One thing that was looked at: its state, and where it would fail how to mend it."""

    subject: str
    state: str
    detail: str
    remedy: str = ""


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Check the installation: versions, devices, data; exit 1 where something would fail."""
    set_up()
    findings = list(examine())
    if as_json:
        import dataclasses
        import json

        typer.echo(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        _print(findings)
    failing = [finding for finding in findings if finding.state == FAILS]
    if failing:
        raise typer.Exit(1)


def examine() -> Iterator[Diagnosis]:
    """Every finding, cheapest first."""
    yield Diagnosis("robustsuite", OK, f"{__version__} in {Path(__file__).resolve().parents[1]}")
    yield _python()
    broken = False
    for finding in _requirements():
        broken |= finding.state == FAILS
        yield finding
    if broken:
        yield Diagnosis("torch", NOTE, "not looked at, because a requirement is missing")
        return
    for subject, look in {"torch": _torch, "devices": _devices, "plugins": _plugins, "data": _data}.items():
        yield from _guarded(subject, look)
    yield _writable(Path.cwd())


def _guarded(subject: str, look: Callable[[], Iterator[Diagnosis]]) -> Iterator[Diagnosis]:
    """Findings of one look; what it raises is a finding too."""
    try:
        yield from look()
    except Exception as error:  # a broken installation raises anything
        yield Diagnosis(subject, FAILS, f"{type(error).__name__}: {error}", "reinstall the package that raised it")


def _python() -> Diagnosis:
    version = platform.python_version()
    return Diagnosis("python", OK, f"{version} on {platform.system()} {platform.machine()}")


def _requirements() -> Iterator[Diagnosis]:
    """Each declared requirement against what is installed."""
    try:
        declared = importlib.metadata.requires("robustsuite") or []
    except importlib.metadata.PackageNotFoundError:
        yield Diagnosis("requirements", FAILS, "robustsuite is not installed", "pip install -e . in the checkout")
        return
    for text in declared:
        if "extra ==" not in text:
            yield _requirement(text)


def _requirement(text: str) -> Diagnosis:
    name = re.split(r"[<>=!~;\[ ]", text, maxsplit=1)[0]
    wanted = text[len(name) :].partition(";")[0].strip()
    try:
        installed = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Diagnosis(name, FAILS, "not installed", f"pip install '{name}{wanted}'")
    if satisfies(installed, wanted):
        return Diagnosis(name, OK, f"{installed} ({wanted or 'any'})")
    return Diagnosis(name, FAILS, f"{installed}, but robustsuite needs {wanted}", f"pip install '{name}{wanted}'")


def satisfies(version: str, wanted: str) -> bool:
    """Whether a version meets a list of bounds such as `>=2.6,!=2.13.0`, compared by release numbers.

    Example:
        >>> satisfies("2.10.1+cpu", ">=2.6,!=2.13.0"), satisfies("2.5", ">=2.6")
        (True, False)
    """
    have = _release(version)
    for part in filter(None, (piece.strip() for piece in wanted.split(","))):
        match = re.fullmatch(r"(>=|<=|==|!=|>|<|~=)\s*([\w.]+)\*?", part)
        if match is None:
            continue
        bound = _release(match.group(2))
        width = max(len(have), len(bound))
        a, b = (numbers + (0,) * (width - len(numbers)) for numbers in (have, bound))
        meets = {">=": a >= b, "<=": a <= b, "==": a == b, "!=": a != b, ">": a > b, "<": a < b, "~=": a >= b}
        if not meets[match.group(1)]:
            return False
    return True


def _release(version: str) -> tuple[int, ...]:
    numbers = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in numbers.group().split(".")) if numbers else (0,)


def _torch() -> Iterator[Diagnosis]:
    import torch

    try:
        import torchvision
        from torchvision.ops import nms

        nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except Exception as error:  # mismatched binaries raise RuntimeError, OSError or AttributeError
        detail = f"torch {torch.__version__} and torchvision do not match ({type(error).__name__}: {error})"
        yield Diagnosis(
            "torch with torchvision", FAILS, detail, "install both from one index: pip install torch torchvision"
        )
        return
    yield Diagnosis("torch with torchvision", OK, f"{torch.__version__} and {torchvision.__version__} match")


def _devices() -> Iterator[Diagnosis]:
    import os

    import torch

    yield Diagnosis("cpu", OK, f"{os.cpu_count()} cores; torch uses {torch.get_num_threads()} threads by default")
    if not torch.cuda.is_available():
        built = "built without CUDA" if torch.version.cuda is None else f"CUDA {torch.version.cuda} sees no device"
        yield Diagnosis("cuda", NOTE, built)
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        memory = torch.cuda.get_device_properties(index).total_memory / 2**30
        (torch.ones(2, device=f"cuda:{index}") + 1).sum().item()
        yield Diagnosis(f"cuda:{index}", OK, f"{torch.cuda.get_device_name(index)}, {memory:.0f} GiB, computes")
    if torch.backends.mps.is_available():
        yield Diagnosis("mps", OK, "available")


def _plugins() -> Iterator[Diagnosis]:
    from robustsuite.plugins import registry

    attacks = [entry for entry in registry.attacks.all() if entry.access != "none"]
    defenses = registry.defenses.all()
    yield Diagnosis("plug-ins", OK, f"{len(attacks)} attacks, {len(defenses)} defences")


def _data() -> Iterator[Diagnosis]:
    from robustsuite.core.errors import RequestError, UntrustedFileError
    from robustsuite.data.catalogue import DatasetSpec, load
    from robustsuite.storage.places import VARIABLE, data_root

    root = data_root(None)
    yield Diagnosis("data folder", OK if root.is_dir() else NOTE, f"{root}{'' if root.is_dir() else ' is not there'}")
    load(DatasetSpec(name="digits"), seed=0)
    yield Diagnosis("digits", OK, "embedded in scikit-learn")
    for name in _DATA:
        try:
            splits = load(DatasetSpec(name=name, train=100, test=100), seed=0)
            yield Diagnosis(name, OK, f"found, inputs of {' x '.join(map(str, splits.train.shape))}")
        except RequestError as error:
            found = isinstance(error, UntrustedFileError)
            remedy = f"put it below ${VARIABLE} or set download: true in the suite"
            yield Diagnosis(name, FAILS if found else NOTE, str(error) if found else "not found", remedy)


def _writable(folder: Path) -> Diagnosis:
    import tempfile

    try:
        with tempfile.TemporaryFile(dir=folder):
            return Diagnosis("working folder", OK, f"{folder} can be written to")
    except OSError as error:
        return Diagnosis(
            "working folder", FAILS, f"{folder}: {error.strerror}", "change to a folder of yours, or use --out"
        )


def _print(findings: list[Diagnosis]) -> None:
    from rich.markup import escape
    from rich.table import Table

    style = {OK: "green", NOTE: "yellow", FAILS: "bold red"}
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(3):
        table.add_column(overflow="fold")
    for finding in findings:
        detail = escape(finding.detail) + (f"\n-> {escape(finding.remedy)}" if finding.remedy else "")
        table.add_row(f"[{style[finding.state]}]{finding.state}[/]", escape(finding.subject), detail)
    console = results()
    console.print(table)
    failing = sum(finding.state == FAILS for finding in findings)
    console.print("nothing would fail" if not failing else f"{failing} would fail", highlight=False)
