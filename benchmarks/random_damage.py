"""Change one random byte of a finished run, resume it, and look whether the change was found and what was played again.

    python benchmarks/random_damage.py --changes 1000 --out damage.jsonl

The run is a small one of digits. Each change is drawn by its number alone, and each is a line of the output, so the
same command goes on where it was stopped. A change counts as found where resume names it; of `suite.yaml`, which a run
writes anew, where `robustsuite report` would; of what runs share, where `robustsuite cache verify` would, since it is
checked whenever it is read. Harmless are those in files that no result is read from: logs, locks, how long work took.
Exits with 1 where a change was neither, or where the table afterwards is another one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from robustsuite.evaluation import record_files
from robustsuite.runner.run import run
from robustsuite.storage.store import Store
from robustsuite.suite.load import load_suite
from robustsuite.suite.schema import Suite

SUITE = """
name: damaged
dataset: {name: digits, train: 120, test: 30}
model: {name: logistic}
training: {epochs: 1, lr: 5.0e-3, batch_size: 32, validation: 0.0}
threat: {norm: linf, radius: 0.1, curve_samples: 0}
defenses: [none]
attacks: [noise, {pgd: {steps: 2, follow_up: false}}, {badnets: {fraction: 0.1, size: 2}}]
"""
TIMES = ("seconds", "milliseconds")
LOGS = (".lock", ".log", "timings.json")


def table(folder: Path) -> list[tuple[Any, ...]]:
    """All that a run found out, times aside, in plan order."""
    return [
        (
            *(record.key, record.order, record.defense, record.attack, record.radius, record.status, record.flags),
            {name: metric for name, metric in record.metrics.items() if metric.unit not in TIMES},
            dict(record.cost),
            record.samples_digest,
        )
        for record in record_files.read(folder / "records.jsonl")
    ]


def finished(home: Path) -> tuple[Suite, Path]:
    """The suite, and a run of it that is done."""
    home.mkdir(parents=True, exist_ok=True)
    path = home / "damaged.yaml"
    path.write_text(SUITE)
    suite = load_suite(path)
    assert run(suite, home / "whole", cached=False).errors == 0
    return suite, home / "whole"


def change(whole: Path, copy: Path, number: int) -> dict[str, Any]:
    """Copy the run and change a byte of it; returns which."""
    draw = random.Random(number)
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file() and path.stat().st_size)
    # A third of the changes more hits the records, for there it matters most.
    file = Path("records.jsonl") if draw.random() < 0.3 else draw.choice(files)
    shutil.copytree(whole, copy)
    content = bytearray((whole / file).read_bytes())
    place, by = draw.randrange(len(content)), draw.randrange(1, 256)
    content[place] ^= by
    (copy / file).write_bytes(content)
    return {"number": number, "file": file.as_posix(), "place": place, "by": by}


def look(suite: Suite, copy: Path, told: dict[str, Any], before: list[tuple[Any, ...]]) -> dict[str, Any]:
    """Resume the changed run; what was said, what was played, and whether all is as it was."""
    strange = record_files.inspect(copy / "records.jsonl").strange
    shared, damaged = copy / ".cache", []
    if told["file"].startswith(".cache/"):
        damaged = Store(shared).verify()
    else:
        shutil.rmtree(shared)  # else cells would be recalled from it, and not played
    outcome = run(suite, copy, cached=False)
    whole = table(copy) == before and not record_files.inspect(copy / "records.jsonl").faults
    whole = whole and not Store(copy).verify("models")
    said = [*outcome.mishaps, *filter(None, [strange]), *(f"{entry.kind}/{entry.key}" for entry in damaged)]
    return {**told, "found": bool(said), "harmless": told["file"].endswith(LOGS), "ran": outcome.ran, "same": whole}


def trial(home: Path, numbers: range, out: Path | None = None) -> list[dict[str, Any]]:
    """Make these changes, each on a copy of one finished run; those that `out` holds already are not made again."""
    done = [json.loads(line) for line in out.read_text().splitlines()] if out is not None and out.is_file() else []
    suite, whole = finished(home)
    before, known = table(whole), {line["number"] for line in done}
    for number in numbers:
        if number in known:
            continue
        copy = home / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        done.append(look(suite, copy, change(whole, copy, number), before))
        if out is not None:
            with out.open("a") as file:
                file.write(json.dumps(done[-1]) + "\n")
    return [line for line in done if line["number"] in numbers]


def wrong(line: dict[str, Any]) -> bool:
    """Whether a change was overlooked, or left another table."""
    return not line["same"] or not (line["found"] or line["harmless"])


def kind(line: dict[str, Any]) -> str:
    """What sort of file was hit."""
    return line["file"].partition("/")[0] if "/" in line["file"] else line["file"]


def main() -> int:
    """Run the trial and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    started = time.time()
    with tempfile.TemporaryDirectory() as home:
        os.environ["ROBUSTSUITE_CACHE"] = str(Path(home) / "cache")
        lines = trial(Path(home), range(asked.first, asked.first + asked.changes), asked.out)
    print("| file | changes | found | harmless | played again | other table |")
    print("|---|---|---|---|---|---|")
    for name in sorted({kind(line) for line in lines}):
        of = [line for line in lines if kind(line) == name]
        counts = Counter(what for line in of for what in ("found", "harmless", "same") if line[what])
        ran = sum(line["ran"] for line in of)
        print(f"| {name} | {len(of)} | {counts['found']} | {counts['harmless']} | {ran} | {len(of) - counts['same']} |")
    overlooked = [line for line in lines if wrong(line)]
    print(f"{len(lines)} changes in {time.time() - started:.0f} s; {len(overlooked)} wrong: {overlooked[:5]}")
    return int(bool(overlooked))


if __name__ == "__main__":
    sys.exit(main())
