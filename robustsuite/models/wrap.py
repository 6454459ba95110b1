"""Declare what a user's model takes and returns, so that it goes from raw inputs to logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from robustsuite.core import checks
from robustsuite.core.errors import ModelError
from robustsuite.models.probabilities import are_probabilities

OUTPUTS: Final = ("logits", "probabilities", "binary-logit")


class Wrapped(nn.Module):
    """A model from raw inputs to logits around a model that wants or gives something else.

    Args:
        model: The user's network; not copied.
        mean: Per-channel means, or none.
        std: Per-channel deviations, or none.
        bounds: Least and greatest raw input value.
        output: What the model returns.
        classes: How many classes it scores, where that is to be checked.
    """

    def __init__(
        self,
        model: nn.Module,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        bounds: tuple[float, float],
        output: str,
        classes: int | None,
    ) -> None:
        super().__init__()
        self.model = model
        self.mean, self.std = mean, std
        self.bounds, self.output, self.classes = bounds, output, classes
        self._checked = False
        self.training = bool(getattr(model, "training", False))

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(N, classes)` of raw inputs.

        Raises:
            RequestError: As many means or deviations as there are no channels (first call).
            ModelError: The model returns something other than what was declared.
        """
        if not self._checked:
            self._check_channels(x)
        answer = self.model(self._normalised(x))
        if not isinstance(answer, Tensor):
            raise ModelError(
                f"expected a tensor of {self.output}, got {type(answer).__name__}; wrap the model in a module that "
                f"returns the tensor alone"
            )
        if not self._checked:
            self._check_output(answer, len(x))
            self._checked = True
        return self._logits(answer)

    def _normalised(self, x: Tensor) -> Tensor:
        sides = [1, -1] + [1] * (x.dim() - 2)
        # Made anew in the input's dtype, so that float64 inputs are not normalised by rounded float32 constants.
        if self.mean:
            x = x - x.new_tensor(self.mean).reshape(sides)
        if self.std:
            x = x / x.new_tensor(self.std).reshape(sides)
        return x

    def _logits(self, answer: Tensor) -> Tensor:
        if self.output == "logits":
            return answer
        if self.output == "binary-logit":
            half = answer.reshape(-1) / 2
            return torch.stack([-half, half], dim=1)
        return _rows(answer).clamp_min(torch.finfo(answer.dtype).tiny).log()

    def _check_channels(self, x: Tensor) -> None:
        channels = x.shape[1] if x.dim() > 1 else 1
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (0, 1, channels):
                remedy = f"give one value, or one for each of the {channels} channels of inputs {tuple(x.shape)}"
                raise checks.fail(f"a {name} per channel", name, values, remedy)

    def _check_output(self, answer: Tensor, n: int) -> None:
        shape = tuple(answer.shape)
        if self.output == "binary-logit":
            if shape not in ((n,), (n, 1)):
                raise ModelError(
                    f"expected one logit a sample, of shape ({n},) or ({n}, 1), got shape={shape}; leave out "
                    f'output="binary-logit"'
                )
            return
        single = self.output == "probabilities" and shape in ((n,), (n, 1))
        if self.classes is not None and shape != (n, self.classes) and not (single and self.classes == 2):
            raise ModelError(f"expected {self.output} of shape ({n}, {self.classes}), got shape={shape}; mend classes")
        if self.output == "probabilities":
            if not single and answer.dim() != 2:
                raise ModelError(f"expected probabilities (N, classes), got shape={shape}; return one per class")
            _check_probabilities(_rows(answer.detach()))


def _rows(answer: Tensor) -> Tensor:
    """Probabilities `(N, classes)`; one number a sample is that of class 1."""
    if answer.dim() == 2 and answer.shape[1] > 1:
        return answer
    one = answer.reshape(-1)
    return torch.stack([1 - one, one], dim=1)


def _check_probabilities(answer: Tensor) -> None:
    least, sums = float(answer.min()), answer.double().sum(1)
    off = float((sums - 1).abs().max())
    if not (least >= 0 and (off < 1e-2 or are_probabilities(answer))):
        raise ModelError(
            f"expected probabilities, got rows with a least value of {least:g} and sums up to {off:g} from 1; leave "
            f'out output="probabilities" where the model returns logits'
        )


def wrap(
    model: nn.Module,
    *,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    output: str = "logits",
    classes: int | None = None,
) -> Wrapped:
    """Make a model that goes from raw inputs to logits.

    Args:
        model: Any network; it is not copied, and shares its weights and mode.
        mean: Subtracted from each channel; one value or one per channel.
        std: What each channel is then divided by, positive; one value or one per channel.
        bounds: Least and greatest raw input value, such as (0, 255).
        output: `logits`; `probabilities`, whose logarithm is then the logits (one number a sample is the probability of
            class 1); or `binary-logit`, one number z that becomes the two logits (-z/2, z/2), so that sigmoid(z) is the
            probability of class 1.
        classes: How many classes the model scores; checked at the first call where given.

    Raises:
        RequestError: No module, an unknown output, bounds that are no interval, deviations that are not positive.

    Example:
        >>> model = wrap(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 1)), output="binary-logit")
        >>> model(torch.zeros(3, 1, 2, 2)).shape
        torch.Size([3, 2])
    """
    if not isinstance(model, nn.Module):
        raise checks.fail("a torch.nn.Module", "model", type(model).__name__, "wrap the function in a module")
    checks.one_of("output", output, OUTPUTS)
    if classes is not None:
        checks.integer("classes", classes, low=2)
    return Wrapped(model, constants("mean", mean), constants("std", std), interval_of(bounds), output, classes)


def interval_of(bounds: Sequence[float]) -> tuple[float, float]:
    """`bounds` as two numbers.

    Raises:
        RequestError: They are no interval.
    """
    numbers = [checks.real("bounds", b) for b in bounds] if isinstance(bounds, (tuple, list)) else []
    if len(numbers) != 2 or not numbers[0] < numbers[1]:
        raise checks.fail("bounds (low, high) with low < high", "bounds", bounds, "swap or widen them")
    return numbers[0], numbers[1]


def constants(name: str, value: float | Sequence[float] | None) -> tuple[float, ...]:
    """`mean` or `std` as numbers, one or one per channel; empty for None.

    Raises:
        RequestError: No finite numbers, or deviations that are not positive.
    """
    if value is None:
        return ()
    listed = value.tolist() if hasattr(value, "tolist") else value
    values = tuple(listed) if isinstance(listed, Sequence) else (listed,)
    positive = name == "std"
    return tuple(checks.real(name, v, low=0.0 if positive else -float("inf"), open_low=positive) for v in values)
