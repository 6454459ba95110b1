"""Every evasion attack of ART, played through the adapter by name: which run, which do not and why.

Each is played with ART's own defaults but for `OPTIONS` on a few handwritten digits, in linf and in l2, in a process of
its own that is ended after a limit.

    python benchmarks/art_attacks.py --write benchmarks/ART.md
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

SAMPLES: Final = 4
QUERIES: Final = 2000
LIMIT: Final = 150  # seconds for one attack in one norm
BALLS: Final = {"linf": 0.3, "l2": 3.0}
OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "PixelAttack": {"es": 0},  # the other strategy needs the package cma
    "ThresholdAttack": {"es": 0},
    "ZooAttack": {"use_resize": False, "nb_parallel": 16},  # the defaults need inputs of 32 pixels and more
}
"""Options without which an attack cannot be played on small images, or needs a package that ART does not require."""


def play(name: str) -> Iterator[dict[str, Any]]:
    """In each ball: robust accuracy on digits that the network gets right, passes and seconds; or what went wrong."""
    import torch

    import robustsuite as rs
    from robustsuite.data.catalogue import DatasetSpec, load
    from robustsuite.models.build import ModelSpec
    from robustsuite.training.cache import Trainer
    from robustsuite.training.recipe import Recipe
    from robustsuite.training.settings import Training

    torch.set_num_threads(1)
    splits = load(DatasetSpec(name="digits"), seed=0)
    recipe = Recipe(build=ModelSpec("cnn"), training=Training(epochs=3, lr=3e-3))
    net = Trainer(0)(recipe, splits.train).model.network
    x, y = splits.test.inputs(), splits.test.y
    with torch.no_grad():
        right = (net(x).argmax(1) == y).nonzero()[:SAMPLES, 0]
    data, rules = (x[right], y[right]), {"query_budget": QUERIES, "follow_up": False}
    for norm, radius in BALLS.items():
        started = time.perf_counter()
        try:
            attack = rs.attack(f"art:{name}", **OPTIONS.get(name, {}))
            found = rs.evaluate(net, data, [attack], rs.Ball(norm, radius), rules=rules).records[1]
        except Exception as error:  # refused before anything was played
            yield {"norm": norm, "status": "error", "message": f"{type(error).__name__}: {error}"}
            continue
        told = {"norm": norm, "seconds": time.perf_counter() - started, "status": found.status}
        if found.status == "error":
            yield {**told, "message": found.message.strip().splitlines()[-1]}
        else:
            yield {**told, "cost": dict(found.cost), "robust": found.metrics["robust_accuracy"].value}


def apart(name: str) -> list[dict[str, Any]]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--play", name]
    limit = LIMIT * len(BALLS)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
        out, why = done.stdout, (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
    except subprocess.TimeoutExpired as ended:
        out, why = (ended.stdout or b"").decode(), f"not done after {limit} s"
    found = {told["norm"]: told for told in map(json.loads, filter(lambda s: s.startswith("{"), out.splitlines()))}
    return [found.get(norm, {"status": "error", "message": why}) for norm in BALLS]


def told(found: dict[str, Any]) -> str:
    if found["status"] == "error":
        return f"fails: {found['message'][:160]}".replace("|", "/")
    passes = sum(v for k, v in found["cost"].items() if k in ("forwards", "backwards", "queries")) / SAMPLES
    return f"{found['robust']:.2f}; {passes:.0f}; {found['seconds']:.1f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--play", help=argparse.SUPPRESS)
    parser.add_argument("--only", nargs="*", default=[], help="names to play; with --write the others keep their lines")
    parser.add_argument("--write", type=Path, help="file to write")
    asked = parser.parse_args()
    if asked.play:
        for found in play(asked.play):
            print(json.dumps(found), flush=True)
        return
    from robustsuite.plugins import registry

    offers = [offer for offer in registry.attacks.offers() if offer.name.startswith("art:")]
    known = asked.write.read_text().splitlines() if asked.only and asked.write else []
    lines = []
    for label, needed, _ in (offer for offer in offers if not offer.refused):
        name, access = label.removeprefix("art:"), registry.attacks.get(label).access
        if asked.only and name not in asked.only:
            lines += [line for line in known if line.startswith(f"| {label} |")]
            continue
        results = apart(name)
        options = ", ".join(f"{k}={v}" for k, v in OPTIONS.get(name, {}).items())
        needs = "; ".join(needed)
        lines.append(f"| {label} | {access} | {needs} | {options} | {' | '.join(map(told, results))} |")
        print(lines[-1], file=sys.stderr, flush=True)
    refused = [offer for offer in offers if offer.refused]
    ran = sum(line.count("| fails:") < len(BALLS) for line in lines)
    balls = " and ".join(f"{norm} {radius}" for norm, radius in BALLS.items())
    parts = [
        "# ART's evasion attacks through the adapter",
        "",
        f"ART {version('adversarial-robustness-toolbox')}, {SAMPLES} handwritten digits that a small CNN gets right, "
        f"{QUERIES} queries a sample where it asks for them, in {balls}: {ran} of {len(lines)} run, {len(refused)} are "
        "refused with a reason. Each cell: robust accuracy; passes and queries a sample; seconds.",
        "",
        f"| attack | knowledge | needs | options | {' | '.join(BALLS)} |",
        f"|---|---|---|---|{'---|' * len(BALLS)}",
        *lines,
        "",
        "| refused | why |",
        "|---|---|",
        *(f"| {offer.name} | {offer.refused} |" for offer in refused),
    ]
    text = "\n".join(parts) + "\n"
    print(text)
    if asked.write:
        asked.write.write_text(text)


if __name__ == "__main__":
    main()
