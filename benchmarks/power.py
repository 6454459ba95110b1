"""Attack power on the gauntlet: of adversarial examples that were planted, what each evaluation finds, at what cost.

python benchmarks/power.py --write benchmarks/RESULTS.md
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from pathlib import Path

from peers import versions

import robustsuite as rs
from robustsuite.core.metrics import FOLLOWED_UP
from robustsuite.evaluation.records import Record

TITLE = "## Attack power"
POWER = "attack_power"
RATES = ("robust_accuracy", "robust_accuracy" + FOLLOWED_UP)
ATTACKS = "attacks=[{pgd: {steps: 20}}, cascade]"


def percent(record: Record, name: str) -> str:
    """A rate in percent with its interval; empty where it was not measured."""
    metric = record.metrics.get(name)
    if metric is None or metric.low is None or metric.high is None:
        return ""
    return f"{100 * metric.value:.0f} [{100 * metric.low:.0f}, {100 * metric.high:.0f}]"


def passes(record: Record, *parts: str) -> int:
    return sum(record.cost.get(f"{part}{kind}", 0) for part in parts for kind in ("forwards", "backwards"))


def line(record: Record) -> str:
    """One verdict, the power behind it, and what that took."""
    found = record.review.get("power", {})
    share = passes(record, "power_") / max(1, passes(record, "", "sanity_", "follow_up_"))
    robust = "; ".join(f"{100 * record.metrics[name].value:.1f}" for name in RATES if name in record.metrics)
    cells = (
        record.defense,
        record.attack,
        robust,
        percent(record, POWER),
        percent(record, POWER + FOLLOWED_UP),
        str(found.get("planted", found.get("error", ""))),
        f"{100 * found['random']:.0f}" if "random" in found else "",
        f"{share:.1%}",
        "low-power" if "low-power" in record.flags else "",
    )
    return "| " + " | ".join(cells) + " |"


def section(records: list[Record]) -> str:
    text = (
        f"The `gauntlet` suite with follow-up attacks behind both attacks; {os.cpu_count()}-core "
        f"{platform.machine().replace('_', '-')} CPU, 1 thread; {versions()}. Power: planted adversarial examples that "
        f"are found, in percent, with its interval; random: those that ten random points of the ball hold too. Passes: "
        f"what looking for them took beside the evaluation."
    )
    heads = ("defence", "attack", "robust %: alone; with follow-ups", "power alone", "power with follow-ups", "planted",
             "random %", "passes", "flag")  # fmt: skip
    head = "| " + " | ".join(heads) + " |"
    lines = [line(record) for record in records if record.attack in ("pgd", "cascade")]
    return "\n".join([TITLE, "", text, "", head, "|---|---|---|---|---|---|---|---|---|", *lines]) + "\n"


def write(path: Path, text: str) -> None:
    """Replace this script's section of the results file, or append it."""
    known = path.read_text() if path.is_file() else "# Measured\n"
    before, _, rest = known.partition(TITLE)
    after = rest.partition("\n## ")
    path.write_text(before.rstrip() + "\n\n" + text + (f"\n## {after[2]}" if after[1] else ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", default="gauntlet")
    parser.add_argument("--set", action="append", default=[], help="keys of the suite, as in `robustsuite run`")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "robustsuite-benchmarks" / "power")
    parser.add_argument("--write", type=Path, help="file whose section is replaced")
    options = parser.parse_args()
    report = rs.run(options.suite, options.out, overrides=[ATTACKS, *options.set])
    text = section(list(report.records))
    print(text)
    if options.write:
        write(options.write, text)


if __name__ == "__main__":
    main()
