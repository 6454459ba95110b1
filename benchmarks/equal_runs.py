"""Whether two runs came to the same figures, bit for bit: records, history, cost, per-sample files, the CSV.

Reads the files as they lie and imports nothing of the suite, so it can tell what a change to the suite did. It
reads one table of it, of what things were called before: both runs are compared in the words of now.

    python benchmarks/equal_runs.py OLD NEW

Exits with 1 where they differ. Times, keys, code digests, revisions and digests of files that hold times are left out.
"""

from __future__ import annotations

import csv
import json
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

IGNORED = {"key", "environment", "samples", "samples_digest", "version"}
TIMES = {"seconds", "train_seconds", "latency_ms", "key"}
SHOWN = 20  # differences
WORDS = runpy.run_path(str(Path(__file__).parent.parent / "robustsuite" / "core" / "renamed.py"))


def differences(old: Any, new: Any, place: str) -> Iterator[str]:
    """Where two JSON values differ, by their path."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted({*old, *new} - TIMES):
            if name not in old or name not in new:
                yield f"{place}.{name}: only in the {'old' if name in old else 'new'} run"
            else:
                yield from differences(old[name], new[name], f"{place}.{name}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (a, b) in enumerate(zip(old, new, strict=True)):
            yield from differences(a, b, f"{place}[{i}]")
    elif old != new:
        yield f"{place}: {str(old)[:80]} -> {str(new)[:80]}"


def records(folder: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The last line of each cell, by what names it."""
    raw = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines() if line]
    labels = WORDS["labels_of"]([(line["attack"], line["attack_parameters"].get("is", "")) for line in raw])
    lines = [in_words({**line, "attack": label}) for line, label in zip(raw, labels, strict=True)]
    named = ("suite", "model", "defense", "attack", "norm", "radius", "repeat", "order")
    return {tuple(line.get(name) for name in named): line for line in lines}


def in_words(line: dict[str, Any]) -> dict[str, Any]:
    """A record in the words of now; flags that a message lists by name stand in another order under other names."""
    line = {name: value for name, value in WORDS["current"](line).items() if name not in ("after", "seal")}
    line["message"] = re.sub(r"(?<=followed up \()[^)]*|(?<=unresolved: )[\w, -]*", _sorted, line["message"])
    return line


def _sorted(found: re.Match[str]) -> str:
    return ", ".join(sorted(found[0].split(", ")))


def tensors(folder: Path, record: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The per-sample columns, empty where none were kept."""
    return load_file(folder / record["samples"]) if record.get("samples") else {}


def of_samples(old: dict[str, torch.Tensor], new: dict[str, torch.Tensor], place: str) -> Iterator[str]:
    """Where per-sample columns differ in a single bit."""
    for name in sorted({*old, *new}):
        if name not in old or name not in new:
            yield f"{place}.{name}: only in the {'old' if name in old else 'new'} run"
        elif old[name].dtype != new[name].dtype or old[name].shape != new[name].shape:
            yield f"{place}.{name}: {old[name].dtype} {tuple(old[name].shape)} -> {new[name].dtype}"
        elif not torch.equal(old[name].contiguous().view(torch.uint8), new[name].contiguous().view(torch.uint8)):
            yield f"{place}.{name}: {int((old[name] != new[name]).sum())} of {old[name].numel()} values differ"


def of_tables(old: Path, new: Path) -> Iterator[str]:
    """Where the CSV files differ, times and keys apart."""
    tables = []
    for folder in (old, new):
        with (folder / "results.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["metric"] not in TIMES]
            tables.append([of_row({k: v for k, v in row.items() if k not in TIMES}) for row in rows])
    if len(tables[0]) != len(tables[1]):
        yield f"results.csv: {len(tables[0])} rows -> {len(tables[1])}"
    for i, (a, b) in enumerate(zip(*tables, strict=False)):
        yield from differences(a, b, f"results.csv row {i + 2}")


def of_row(row: dict[str, str]) -> dict[str, str]:
    """A row of the CSV in the words of now."""
    line = in_words({**row, "flags": row["flags"].split(";")})
    line["attack"] = WORDS["renamed_label"](row["attack"], row["attack"])
    line["knowledge"] = "+".join(WORDS["ACCESSES"].get(one, one) for one in row["knowledge"].split("+"))  # of a verdict
    costs = {**WORDS["COSTS"]}
    row = {name: line[name] for name in row} | {"metric": costs.get(row["metric"], row["metric"])}
    return {**row, "flags": ";".join(row["flags"])}


def compare(old: Path, new: Path) -> list[str]:
    """All differences of two runs' folders."""
    found: list[str] = []
    before, after = records(old), records(new)
    for name in [*before, *(name for name in after if name not in before)]:
        place = " ".join(str(part) for part in name if part not in (None, ""))
        if name not in before or name not in after:
            found.append(f"{place}: only in the {'old' if name in before else 'new'} run")
            continue
        a, b = before[name], after[name]
        kept = [{k: v for k, v in line.items() if k not in IGNORED} for line in (a, b)]
        found += differences(kept[0], kept[1], place)
        found += of_samples(tensors(old, a), tensors(new, b), f"{place} samples")
    return found + list(of_tables(old, new))


def main() -> None:
    old, new = (Path(argument) for argument in sys.argv[1:])
    found = compare(old, new)
    for line in found[:SHOWN]:
        print(line)
    cells = len(records(new))
    print(f"{cells} cells, {len(found)} differences" if found else f"{cells} cells equal, bit for bit")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
