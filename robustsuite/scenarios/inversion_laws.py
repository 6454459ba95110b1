"""Laws of attacks that invert a model."""

from __future__ import annotations

from typing import Final

from robustsuite.scenarios.bench import Bench, Laws


def _shape_and_range(bench: Bench) -> None:
    """Reconstructions have the input's shape and range: the judge refuses others, so that playing shows it."""
    result = bench.play(bench.victim(60))
    bench.require(0 <= result.values["inversion_accuracy"].value <= 1, "accuracy is a rate", result.values)


LAWS: Final[Laws] = {"shape-and-range": _shape_and_range}
