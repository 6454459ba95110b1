"""Everything that wants a GPU, in one script that ends within 8 minutes: one JSON and a Markdown table.

Each part runs in a process of its own within its own slice of time. One that fails or runs out of time says so, with
what it had measured, and the others go on; both files are written after each part.

    python benchmarks/gpu.py --out FOLDER                     # `gpu.json` and `gpu.md` in FOLDER
    python benchmarks/gpu.py --device cpu --toy --out FOLDER  # the same parts on tiny data: whether they run at all

`--stretch 5` multiplies the slices, for a machine that others use too.

To a machine that has torch and no network, carry wheels, this project's among them, made where there is one (`pip wheel
--no-deps -w .whl .`, and `pip download --no-deps -d .whl NAME` for each package that the script names as missing), and
run from the checkout:

    python -m pip install -q --no-index --no-deps --target /tmp/site .whl/*.whl
    PYTHONPATH=/tmp/site PYTHONUNBUFFERED=1 python benchmarks/gpu.py --out FOLDER

CIFAR-10 is read below `$ROBUSTSUITE_DATA`; without it the embedded digits take its place, and the table says so.

TF32: torch lets convolutions round float32 to 10 bits (`cudnn.allow_tf32`) and products not (`cuda.matmul`). The suite
leaves both as it finds them, and what it found stands in the JSON. Here `float32` means both off, `tf32` both on, and
`bf16` is `precision: fast` with both off. Verdicts are compared with those of float32, sample by sample.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
NEEDED: Final = (
    "annotated_types", "art", "cloudpickle", "filelock", "jinja2", "lightning_fabric", "opacus", "opt_einsum", "pandas",
    "pydantic", "pydantic_core", "pytest", "rich", "robustsuite.attacks", "safetensors", "scipy", "sklearn",
    "torchmetrics", "torchvision", "typer", "typing_inspection", "xdist", "yaml",
)  # fmt: skip
TOY_SUITE: Final = """
name: toy
dataset: {name: digits, train: 200, test: 40}
model: {name: logistic}
training: {epochs: 2, lr: 1.0e-2}
threat: {norm: linf, radius: 0.1, curve_samples: 0}
attacks: [fgsm]
"""
GPU_TESTS: Final = (
    "tests/training/test_training_on_cuda.py", "tests/contract/test_on_cuda.py", "tests/faults/test_faulty_plugins.py",
)  # fmt: skip
GRACE: Final = 5.0  # seconds that a part gets to end after its slice

Figures = dict[str, Any]
Tell = Callable[[Figures], None]


@dataclass(frozen=True)
class Place:
    """Where and on what the parts run."""

    device: str
    toy: bool
    folder: Path

    def measure(self) -> Any:
        """What measures on this device."""
        import gpu_parts

        return gpu_parts.Bench(self.device, self.toy, self.folder)


@dataclass(frozen=True)
class Part:
    """A piece of work with its slice of time in seconds."""

    name: str
    seconds: float
    run: Callable[[Place, float, Tell], Figures]


def tests(place: Place, seconds: float, tell: Tell) -> Figures:  # noqa: ARG001
    """The tests marked `gpu`, but for the one that trains for minutes; where there is no GPU they are collected."""
    command = [sys.executable, "-P", "-m", "pytest", "-m", "gpu", "-q", "--tb=short", "-p", "no:cacheprovider"]
    if place.toy:
        command += ["--collect-only", "-n", "0", GPU_TESTS[0]]
    else:
        command += ["-n", "4", *GPU_TESTS]
    done = _run(command, seconds, ROOT)
    said = (done.stdout.strip().splitlines() or [""])[-1]
    if done.returncode != 0:
        raise RuntimeError(f"{said}\n{done.stdout[-2000:]}\n{done.stderr[-1000:]}")
    return {"pytest": said}


def quickstart(place: Place, seconds: float, tell: Tell) -> Figures:  # noqa: ARG001
    """`robustsuite run` of the built-in suite, from a cold start."""
    with tempfile.TemporaryDirectory() as scratch:
        suite, out = "quickstart", Path(scratch) / "run"
        if place.toy:
            suite = str(Path(scratch) / "toy.yaml")
            Path(suite).write_text(TOY_SUITE)
        command = [sys.executable, "-P", "-m", "robustsuite", "run", suite, "--device", place.device, "--no-cache"]
        started = time.perf_counter()
        done = _run([*command, "--quiet", "--out", str(out)], seconds, scratch)
        spent = time.perf_counter() - started
        if done.returncode != 0:
            raise RuntimeError(f"exit {done.returncode}: {done.stdout[-1000:]}{done.stderr[-2000:]}")
        records = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
        return {"seconds": round(spent, 1), "cells": len(records), "errors": _errors(records)}


def _errors(records: Sequence[Figures]) -> int:
    return sum(record.get("status") == "error" for record in records)


def _run(command: list[str], seconds: float, folder: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=seconds, check=False)


PARTS: Final = (
    Part("tests marked gpu", 70, tests),
    Part("quickstart", 50, quickstart),
    Part("CIFAR-10 trainer", 90, lambda place, seconds, tell: place.measure().trainer(seconds, tell)),
    Part("fast adversarial training", 90, lambda place, seconds, tell: place.measure().hardened(seconds, tell)),
    Part("PGD and cascade", 90, lambda place, seconds, tell: place.measure().attacks(seconds, tell)),
    Part("DP-SGD over SGD", 40, lambda place, seconds, tell: place.measure().private(seconds, tell)),
)


def _child(part: Part, place: Place, end: Connection) -> None:
    """Run a part and send what it measures; the last message says how it ended."""
    try:
        end.send(("figures", part.run(place, part.seconds, lambda figures: end.send(("figures", figures)))))
        end.send(("ended", "ok"))
    except subprocess.TimeoutExpired:
        end.send(("ended", f"out of time after {part.seconds:.0f} s"))
    except BaseException:  # whatever it is, the other parts go on
        end.send(("ended", f"failed: {traceback.format_exc()[-3000:]}"))


def played(part: Part, place: Place) -> Figures:
    """What came of a part: `status` (`ok`, `failed: ...`, `out of time ...`), seconds and figures."""
    # Forked, so that a part pays for no imports; this process itself never touches the device.
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    started = time.perf_counter()
    process = context.Process(target=_child, args=(part, place, there))
    process.start()
    there.close()
    status, figures = "", {}
    try:
        while (left := started + part.seconds + GRACE - time.perf_counter()) > 0 and here.poll(left):
            kind, said = here.recv()
            if kind == "ended":
                status = said
                break
            figures.update(said)
        else:
            status = f"out of time after {part.seconds:.0f} s"
    except EOFError:
        process.join()
        status = f"failed: its process ended with {process.exitcode}"
    process.join(GRACE if status == "ok" else 0.1)
    process.kill()
    process.join()
    return {"status": status, "seconds": round(time.perf_counter() - started, 1), "figures": figures}


def environment(place: Place) -> Figures:
    """The machine, its software, and torch's TF32 policy as it was found."""
    import torch

    asked = [sys.executable, "-c", "import torch; print(torch.cuda.get_device_name())"]
    named = _run(asked, 60, ROOT).stdout.strip() if place.device.startswith("cuda") else platform.processor()
    versions = {}
    for package in ("torch", "torchvision", "opacus", "adversarial-robustness-toolbox"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "absent"
    return {
        "device": f"{place.device}, {named or platform.machine()}",
        "python": platform.python_version(),
        "versions": versions,
        "toy": place.toy,
        "tf32 as found": {
            "convolutions": torch.backends.cudnn.allow_tf32,
            "products": torch.backends.cuda.matmul.allow_tf32,
        },
    }


def table(result: Figures) -> str:
    """Markdown of a result."""
    told = result["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items())
    lines = [
        f"{told['device']}; Python {told['python']}, {versions}; TF32 as found: {told['tf32 as found']}"
        f"{'; toy size: nothing here is a measurement' if told['toy'] else ''}.",
        "",
        "| part | status | seconds | figure | value |",
        "|---|---|---|---|---|",
    ]
    for name, part in result["parts"].items():
        status = part["status"].splitlines()[-1 if part["status"].startswith("failed") else 0].replace("|", "/")
        status = status if not part["status"].startswith("failed") else f"failed: {status.removeprefix('failed: ')}"
        head = f"| {name} | {status} | {part['seconds']} "
        rows = list(_flat(part["figures"])) or [("", "")]
        for key, value in rows:
            lines.append(f"{head}| {key} | {value} |")
            head = "|  |  |  "
    return "\n".join(lines) + "\n"


def _flat(figures: Figures, above: str = "") -> Any:
    for key, value in figures.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}, ")
        else:
            yield f"{above}{key}", str(value).replace("|", "/").replace("\n", " ")


def write(result: Figures, folder: Path) -> None:
    """Both files, whole or as they were."""
    for name, text in (("gpu.json", json.dumps(result, indent=1)), ("gpu.md", table(result))):
        part = folder / f"{name}.part"
        part.write_text(text)
        part.replace(folder / name)


def play_all(parts: Sequence[Part], place: Place) -> Figures:
    """All parts in turn; the files are written after each."""
    place.folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(ImportError):  # once, before parts are forked; a part that cannot do without fails itself
        importlib.import_module("gpu_parts")
    result: Figures = {"environment": environment(place), "parts": {}}
    write(result, place.folder)
    for part in parts:
        result["parts"][part.name] = played(part, place)
        write(result, place.folder)
        print(f"{part.name}: {json.dumps(result['parts'][part.name])}", flush=True)
    return result


def missing() -> list[str]:
    """Modules that the parts need and that are not here."""
    absent = []
    for name in NEEDED:
        try:
            found = importlib.util.find_spec(name)
        except ImportError:
            found = None
        absent += [] if found else [name]
    return absent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs") / "gpu", help="folder of gpu.json and gpu.md")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--toy", action="store_true", help="tiny data, for a test of the script")
    parser.add_argument("--stretch", type=float, default=1.0, help="multiplies every slice of time, for a busy machine")
    parser.add_argument("--only", default="", help="parts whose name holds this text")
    options = parser.parse_args()
    if absent := missing():
        print(f"missing here, so some parts will fail: {', '.join(absent)}", file=sys.stderr, flush=True)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # of torch's deterministic products
    place = Place(options.device, options.toy, options.out.absolute())
    chosen = [replace(part, seconds=options.stretch * part.seconds) for part in PARTS if options.only in part.name]
    print(table(play_all(chosen, place)))


if __name__ == "__main__":
    main()
