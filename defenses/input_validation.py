"""Input validation: reject what is malformed, out of distribution, or looks adversarial."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from robustsuite.core import Deployed, Outputs, checks
from robustsuite.core.deployed import door
from robustsuite.core.door import working
from robustsuite.core.isolation import untouched
from robustsuite.core.rows import per_sample
from robustsuite.defenses.detectors import Detector, FeatureDistance, FeatureSqueezing
from robustsuite.plugins import register
from robustsuite.scenarios.protocol import Terms
from robustsuite.training import Context, Recipe

DETECTORS: Final = ("range", "feature-distance", "feature-squeezing")
_ROUNDING: Final = 1e-9  # of products such as 0.05 * 20


@register.defense("input-validation", taxonomy=("AML.M0015", "NISTAML.022", "ML01:2023"))
@dataclass(frozen=True, kw_only=True)
class InputValidation:
    """Check every input before it is answered, and reject what is malformed, strange or looks adversarial.

    It wraps the deployed model. `range` rejects inputs of another shape or dtype than the model's, with NaN or infinite
    values, or outside the data's bounds; it is a check, not an estimate, and such inputs never reach the network.
    `feature-distance` rejects inputs far from the calibration samples in the network's last hidden layer (the distance
    to the k-th nearest), `feature-squeezing` inputs whose answer changes when they get fewer grey levels or a median
    filter. The two are calibrated together on the part
    `calibration` of the data set: each gets the same rate, chosen so that both together
    reject at most `false_alarm_rate` of ordinary inputs, however few
    there are. A rejection is an answer, not an
    exception; rejected malformed inputs have logits of zero.

    Detectors stop attacks that do not know of them. The surrogate that white-box attacks differentiate is the network
    alone, so their results are flagged `not-adaptive`: the name *robust* is not earned by them.

    Args:
        detectors: Any of `range`, `feature-distance`, `feature-squeezing`.
        false_alarm_rate: Share of ordinary inputs that the detectors may reject, in (0, 0.5]; k calibrated detectors
            need at least k / false_alarm_rate - 1 calibration samples.
        neighbours: k of the feature distance, at least 1.
        bit_depth: Bits that squeezing keeps, 1 to 8; None for the fewest that keep 95 % of the predictions.
        median_window: Side of squeezing's median filter on images, at least 1 (1 for none); None for 2 where that keeps
            95 % of the predictions.

    Raises:
        RequestError: An unknown detector, or too few calibration samples for the rate.

    References:
        Xu et al., NDSS 2018, arXiv:1704.01155; Sun et al., ICML 2022, arXiv:2204.06507.
    """

    detectors: tuple[str, ...] = DETECTORS
    false_alarm_rate: float = 0.05
    neighbours: int = 5
    bit_depth: int | None = None
    median_window: int | None = None

    def __post_init__(self) -> None:
        for name in self.detectors:
            checks.one_of("detectors", name, DETECTORS)
        if not self.detectors or len(set(self.detectors)) < len(self.detectors):
            raise checks.fail("distinct detectors", "detectors", self.detectors, f"choose of {', '.join(DETECTORS)}")
        checks.real("false_alarm_rate", self.false_alarm_rate, low=0.0, high=0.5, open_low=True)
        checks.integer("neighbours", self.neighbours, low=1)
        if self.bit_depth is not None:
            checks.integer("bit_depth", self.bit_depth, low=1, high=8)
        if self.median_window is not None:
            checks.integer("median_window", self.median_window, low=1)

    def check(self, recipe: Recipe, terms: Terms) -> None:  # noqa: ARG002  # the sizes are known from the terms
        """Refuse too few samples to calibrate on, and a median filter of what is no image."""
        if self.detectors != ("range",) and terms.parts.get("calibration"):
            self.enough(terms.parts["calibration"])
        window, sides = self.median_window or 1, terms.shape[-2:]
        if "feature-squeezing" in self.detectors and window > 1 and (len(terms.shape) < 2 or min(sides) < window):
            expected = f"images of at least {window} x {window} for the median filter, not inputs {terms.shape}"
            raise checks.fail(expected, "median_window", window, "set it to 1, or leave it out")

    def enough(self, n: int) -> None:
        """Refuse to calibrate on so few samples.

        Raises:
            RequestError: How many are needed.
        """
        calibrated = len(set(self.detectors) - {"range"})
        needed = max(math.ceil(calibrated / self.false_alarm_rate - _ROUNDING) - 1, self.neighbours + 1)
        if n < needed:
            raise checks.fail(
                f"at least {needed} samples to calibrate false_alarm_rate={self.false_alarm_rate} with "
                f"neighbours={self.neighbours} for {calibrated} detector{'s' if calibrated > 1 else ''}",
                "calibration",
                n,
                "set dataset.calibration, or raise the rate",
            )

    def __call__(self, recipe: Recipe) -> Recipe:
        """The recipe with one more wrapper around the deployed model."""
        return recipe.with_serve(Validation(rules=self))


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Wrap a deployed model by checks and calibrated detectors.

    Args:
        rules: What is checked.
    """

    rules: InputValidation

    @property
    def needs(self) -> tuple[str, ...]:
        """Parts of the data set that it asks for: none where nothing is calibrated."""
        return () if self.rules.detectors == ("range",) else ("calibration",)

    def __call__(self, model: Deployed, context: Context) -> Deployed:
        """The wrapped model, calibrated on samples that it was not trained on.

        Raises:
            RequestError: Too few calibration samples.
        """
        expected = _Expected.of(model, context)
        strict = "range" in self.rules.detectors
        if not self.needs:
            return Validated(model, expected, strict, {}, {})
        calibration = context.part("calibration")
        self.rules.enough(len(calibration))
        detectors = self._detectors(door(model.network), context.bounds)
        with untouched(model.network), torch.no_grad():
            x = calibration.inputs().to(expected.device, expected.dtype)
            scores = {name: detector.calibrate(x) for name, detector in detectors.items()}
        thresholds = joint_thresholds(scores, self.rules.false_alarm_rate)
        return Validated(model, expected, strict, detectors, thresholds)

    def _detectors(self, network: nn.Module, bounds: tuple[float, float]) -> dict[str, Detector]:
        rules = self.rules
        made: dict[str, Detector] = {}
        if "feature-distance" in rules.detectors:
            made["feature-distance"] = FeatureDistance(network, rules.neighbours)
        if "feature-squeezing" in rules.detectors:
            made["feature-squeezing"] = FeatureSqueezing(network, bounds, rules.bit_depth, rules.median_window)
        return made


def joint_thresholds(scores: Mapping[str, Tensor], rate: float) -> dict[str, float]:
    """One threshold per detector, such that at most `rate` of fresh inputs exceed at least one of them.

    Every detector cuts at the same rank. Of M calibration samples and a fresh one, exchangeable, each is as likely as
    any other to be the fresh one. So if never more than `rate` (M + 1) of them lie above the cut of some detector,
    ranks taken among all M + 1, a fresh one does with a chance of at most `rate`, whatever the detectors have to do
    with one another. The cut is the lowest at which the calibration samples leave no room for more, wherever a fresh
    input that is rejected may lie: beside that input, those above the cut by the detector that rejects it, and, since a
    fresh input may push another up by one rank, those above one rank less by the others.

    With one detector this is the usual conformal rank. With k of them some cut is found from M = k / rate - 1 on, for
    any scores; below, the thresholds may be infinite, and nothing is rejected.

    Args:
        scores: Detector -> calibration scores `(M,)`. Equal scores may share a rank only if neither is rejected, so
            they are told apart by their order, and a threshold rejects what is greater.
        rate: In (0, 1).
    """
    ordered = {name: values.sort(stable=True) for name, values in scores.items()}
    ranks = torch.stack([found.indices.argsort() + 1 for found in ordered.values()])
    allowed = math.floor(rate * (ranks.shape[1] + 1) + _ROUNDING)
    worth_trying = range(max(1, ranks.shape[1] + 1 - allowed), ranks.shape[1] + 1)
    cut = next((rank for rank in worth_trying if _most_above(ranks, rank) <= allowed), None)
    if cut is None:
        return dict.fromkeys(ordered, math.inf)
    return {name: float(found.values[cut - 1]) for name, found in ordered.items()}


def _most_above(ranks: Tensor, cut: int) -> int:
    """The most of M calibration samples and one that is rejected that lie above a cut of ranks `(k, M)`."""
    lower = ranks > cut - 1
    others = [lower[torch.arange(len(ranks)) != i] for i in range(len(ranks))]
    return 1 + max(int((ranks[i] > cut).logical_or(others[i].any(0)).sum()) for i in range(len(ranks)))


@dataclass(frozen=True)
class _Expected:
    """What a well-formed input looks like."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    bounds: tuple[float, float]
    device: torch.device

    @classmethod
    def of(cls, model: Deployed, context: Context) -> _Expected:
        weight = next(model.network.parameters(), torch.zeros(()))
        return cls(context.shape, working(model.dtype), context.bounds, weight.device)

    def well_formed(self, x: Tensor) -> Tensor:
        """Which rows are finite and within bounds; none where shape or dtype differ."""
        if tuple(x.shape[1:]) != self.shape or x.dtype != self.dtype:
            return torch.zeros(len(x), dtype=torch.bool, device=x.device)
        low, high = self.bounds
        slack = 1e-6 * max(1.0, high - low)
        flat = x.flatten(1)  # NaN compares false, so it is out of bounds
        return ((flat >= low - slack) & (flat <= high + slack)).all(1)


class Validated(Deployed):
    """A deployed model behind checks and detectors; the same input always gets the same answer from them.

    Args:
        inner: The model that answers.
        expected: What a well-formed input looks like.
        strict: Whether malformed inputs are rejected.
        detectors: Name -> detector.
        thresholds: Name -> score above which an input is rejected.
    """

    fully_differentiable = False

    def __init__(
        self,
        inner: Deployed,
        expected: _Expected,
        strict: bool,
        detectors: Mapping[str, Detector],
        thresholds: Mapping[str, float],
    ) -> None:
        self._inner, self._expected, self._strict = inner, expected, strict
        self._detectors, self.thresholds = detectors, dict(thresholds)
        self.random = inner.random

    @property
    def network(self) -> nn.Module:
        """The network inside."""
        return self._inner.network

    def surrogate(self) -> nn.Module:
        """What the model inside offers; detectors and checks are not part of it."""
        return self._inner.surrogate()

    def __call__(self, x: Tensor) -> Outputs:
        """Answer, rejecting each malformed, strange or suspicious row on its own."""
        malformed = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        if self._strict:
            malformed = ~self._expected.well_formed(x)
            x = self._harmless(x, malformed)
        logits, rejected = self._inner(x)
        logits = logits.masked_fill(malformed[:, None], 0.0)
        rejected = rejected | malformed
        for name, scores in self.scores(x).items():
            rejected = rejected | (scores > self.thresholds[name])
        return Outputs(logits, rejected)

    def scores(self, x: Tensor) -> dict[str, Tensor]:
        """Each detector's scores `(N,)`, for a receiver operating characteristic."""
        with torch.no_grad():
            return {name: detector.scores(x) for name, detector in self._detectors.items()}

    def _harmless(self, x: Tensor, malformed: Tensor) -> Tensor:
        """The batch with malformed rows replaced by the lower bound, so that the network never meets them."""
        low = self._expected.bounds[0]
        if not malformed.any():
            return x
        if tuple(x.shape[1:]) != self._expected.shape or x.dtype != self._expected.dtype:
            return torch.full((len(x), *self._expected.shape), low, dtype=self._expected.dtype, device=x.device)
        return torch.where(per_sample(malformed, x), low, x)
