"""Looks at a training when its epochs are done, and says what went wrong in it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from torch import nn

from robustsuite.core.errors import RobustsuiteError
from robustsuite.core.isolation import out_of_memory
from robustsuite.core.samples import Samples
from robustsuite.core.streams import Streams
from robustsuite.training.diagnosis import FACT, UNSEEN, written
from robustsuite.training.parts import training_loss
from robustsuite.training.probe import probe
from robustsuite.training.settings import Training
from robustsuite.training.symptoms import Observed, diagnosed

_log = logging.getLogger(__name__)
_MOST: Final = 512  # samples of the look; its distances between samples grow with their square
_SHARE: Final = 100  # a look costs a batch and one in so many of the training's passes


def look_at(
    network: nn.Module,
    training: Training,
    history: Sequence[Mapping[str, float]],
    train: Samples,
    held_out: Samples | None,
    streams: Streams,
    device: Any,
    *,
    accounted: bool,
) -> dict[str, Any]:
    """The diagnoses of a training, as facts; where the network cannot be looked at, why not (and a warning).

    Where privacy is accounted for, held-out samples alone are looked at, which lie outside of the guarantee anyway.

    Args:
        network: As the epochs left it.
        training: The settings.
        history: One row of figures per epoch.
        train: What was trained on.
        held_out: What was held out; None for nothing.
        streams: Key the choice of samples.
        device: Where the network is.
        accounted: Whether the update accounts for privacy.
    """
    shown = held_out if accounted else train
    if shown is None:
        return {}
    many = min(len(shown), _MOST, training.batch_size + training.epochs * len(train) // _SHARE)
    some = shown.take(streams.child("probe").permutation(len(shown))[:many].sort().values)
    try:
        seen = probe(network, some, training_loss(training, shown), device, training.batch_size)
        kept = None if held_out is None else held_out.y
        case = Observed(
            training=training, history=history, probe=seen, labels=shown.y, held_out=kept, learnt=not accounted
        )
        return {FACT: written(diagnosed(case))}
    except Exception as error:  # advice about a network that anybody may have written must not cost the training
        why = f"{type(error).__name__}: {error}"
        _log.warning("a training could not be looked at, so nothing is said of what went wrong in it: %s", why)
        return {UNSEEN: why}


@contextmanager
def naming_memory(training: Training) -> Iterator[None]:
    """Say in this block which settings to change where memory runs out.

    Raises:
        RobustsuiteError: Memory ran out.
    """
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise RobustsuiteError(
            f"expected a batch that fits into memory, got batch_size={training.batch_size}; lower batch_size and raise "
            f"accumulate by as much (dp-sgd: set max_physical_batch), or find the greatest with `--find batch-size`",
            name="batch_size",
        ) from error
