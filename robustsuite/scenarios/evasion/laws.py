"""Laws of evasion attacks."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from robustsuite.core.ball import NORMS
from robustsuite.core.deployed import Served
from robustsuite.core.errors import RequestError
from robustsuite.core.metric import Metrics
from robustsuite.core.suspicions import Suspicion
from robustsuite.scenarios.bench import Bench, Laws
from robustsuite.scenarios.evasion.figures import ROBUST
from robustsuite.scenarios.victim import Victim


def _norms(bench: Bench, victim: Victim) -> list[tuple[str, Metrics]]:
    """Results in every norm that the attack has; one that it lacks must be refused as a request."""
    found = []
    for norm in NORMS:
        try:
            found.append((norm, bench.play(victim, norm=norm)))
        except RequestError:
            continue
    bench.require(bool(found), "an evasion attack has at least one norm", bench.entry.name)
    return found


def _in_the_ball(bench: Bench) -> None:
    """Artefacts lie in the ball and in bounds, for every norm and three input ranges, each in one of two precisions."""
    dtypes = torch.float32, torch.float64, torch.float32
    for bounds, dtype in zip(((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)), dtypes, strict=True):
        for norm, result in _norms(bench, bench.victim(24, bounds=bounds, dtype=dtype)):
            inside = Suspicion.OVER_BUDGET not in result.flags
            bench.require(inside, f"in the {norm} ball within {bounds}, {dtype}", result.message)


def _low_precision(bench: Bench) -> None:
    """Networks in 16 bits are attacked in the same ball: nothing is over budget, and steps are not swallowed."""
    for dtype in (torch.bfloat16, torch.float16):
        victim = bench.victim(24, dtype=dtype)
        result = bench.play(victim, scale=0.2)
        bench.require(Suspicion.OVER_BUDGET not in result.flags, f"in the ball in {dtype}", result.message)
        distance = result.per_sample["distance"]
        most = bench.radius(victim, scale=0.2) * (1 + 1e-3)
        if not bench.entry.minimum_norm:
            seen = float(distance[distance.isfinite()].max())
            bench.require(seen <= most, "what the network is given lies in the ball", seen)


def _answers_that_are_not_finite(bench: Bench) -> None:
    """A network that answers NaN off the data has no robust sample, and a flag says why."""
    victim = bench.victim(24)
    made = Victim(Served(_Lost(victim.model.network, victim.test.x)), victim.test, device=victim.device)
    result = bench.play(made)
    robust = result.values[ROBUST].value
    moved = bool((result.per_sample["distance"] > 0).any())
    bench.require(not moved or robust == 0, "what has no finite answer is broken", robust)
    bench.require(not moved or Suspicion.NON_FINITE_ANSWERS in result.flags, "a flag says so", result.flags)


class _Lost(nn.Module):
    """NaN for whatever is none of the data."""

    def __init__(self, inner: nn.Module, known: Tensor) -> None:
        super().__init__()
        self.inner, self._known = inner, known.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        off = torch.cdist(x.detach().flatten(1).double(), self._known.double()).amin(1) > 1e-9
        logits: Tensor = self.inner(x) + torch.where(off, torch.nan, 0.0).to(x.dtype)[:, None]
        return logits


def _default_dtype(bench: Bench) -> None:
    """Nothing is made in torch's default dtype: where that is float64, a float32 network gets the same verdicts."""
    usual, victim = bench.play(bench.victim(12)), bench.victim(12)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        other = bench.play(victim)
    finally:
        torch.set_default_dtype(before)
    same = torch.equal(usual.per_sample["robust"], other.per_sample["robust"])
    bench.require(same, "verdicts do not depend on torch's default dtype", other.values[ROBUST].value)


def _dtype_is_the_models(bench: Bench) -> None:
    """float64 stays float64, and nothing carries a graph: the judge refuses both, so that playing shows it."""
    bench.play(bench.victim(12, dtype=torch.float64))


def _batch_invariant(bench: Bench) -> None:
    """Batch sizes 1, 7 and 32 give the same verdicts, except where rounding decides."""
    whole = bench.play(bench.victim(40), rules={"batch_size": 32}).per_sample["robust"]
    for n, size in ((40, 7), (12, 1)):  # one at a time takes as long as all the others, so a few must do
        found = bench.play(bench.victim(n), rules={"batch_size": size}).per_sample["robust"]
        differ = int((found != whole[:n]).sum())
        bench.require(differ == 0, f"verdicts do not depend on the batch size, {size}", f"{differ} of {n} differ")


def _radius_zero(bench: Bench) -> None:
    """In a ball of radius 0 nothing moves, and robust accuracy is clean accuracy."""
    result = bench.play(bench.victim(40), scale=0.0)
    distance = result.per_sample["distance"]
    bench.require(bool((distance[distance.isfinite()] == 0).all()), "radius 0 is the identity", distance)
    robust, clean = result.values[ROBUST].value, result.values["clean_accuracy"].value
    bench.require(robust == clean, "radius 0 leaves the clean accuracy", (robust, clean))


def _classes(bench: Bench) -> None:
    """2, 3, 4 and 10 classes all run, and every rate lies in [0, 1] with N = 101."""
    for classes in (2, 3, 4, 10):
        result = bench.play(bench.victim(101, classes))
        for name, metric in result.values.items():
            if metric.unit == "rate":
                bench.require(0 <= metric.value <= 1, f"{name} is a rate with {classes} classes", metric)
        bench.require(result.values[ROBUST].n == 101, "all 101 samples are judged", result.values)


def _nothing_lost(bench: Bench) -> None:
    """An adversarial input found on the way is returned."""
    result = bench.play(bench.victim(60), scale=0.6)
    bench.require(Suspicion.FOUND_NOT_RETURNED not in result.flags, "no adversarial input is lost", result.flags)


LAWS: Final[Laws] = {
    "in-the-ball": _in_the_ball,
    "low-precision": _low_precision,
    "default-dtype": _default_dtype,
    "answers-that-are-not-finite": _answers_that_are_not_finite,
    "dtype-is-the-models": _dtype_is_the_models,
    "batch-invariant": _batch_invariant,
    "radius-zero": _radius_zero,
    "classes": _classes,
    "nothing-lost": _nothing_lost,
}
