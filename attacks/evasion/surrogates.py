"""Networks that stand in for a victim: named by the user, or learnt from the victim's answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustsuite.access import Transfer
from robustsuite.core import Streams, checks
from robustsuite.core.isolation import differentiable, out_of_memory, seeded
from robustsuite.models.build import ModelSpec

_BATCH: Final = 64
_RATE: Final = 3e-3


class Together(nn.Module):
    """The logarithm of several networks' geometric mean: their log-probabilities, averaged.

    References:
        Dong et al., CVPR 2018, arXiv:1710.06081 (ensembles in logits).
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self._networks = tuple(networks)  # not registered, so that nobody's modules change hands

    def forward(self, x: Tensor) -> Tensor:
        """Raw inputs `(n, …)` to `(n, classes)`."""
        mean: Tensor = torch.stack([network(x).log_softmax(1) for network in self._networks]).mean(0)
        return mean


def named(target: str, view: Transfer) -> nn.Module:
    """The network that a factory makes, in evaluation mode.

    Raises:
        RequestError: A factory that does not give a module.
    """
    network = made(target, view.classes, tuple(view.x.shape[1:]), view.ball.bounds or (0.0, 1.0))
    return network.to(view.x.device, view.x.dtype)


def made(target: str, classes: int, shape: tuple[int, ...], bounds: tuple[float, float]) -> nn.Module:
    """The network that a factory makes for such data, in evaluation mode.

    Raises:
        RequestError: A factory that does not give a module.
    """
    return ModelSpec(factory=target)(classes, shape, bounds).eval()


def fits(network: nn.Module, x: Tensor, classes: int, name: str) -> None:
    """Refuse a surrogate that takes other inputs than the victim, or tells other classes apart.

    Args:
        network: In evaluation mode.
        x: An input of the victim's `(1, …)`.
        classes: Those of the victim.
        name: The option that gave it.

    Raises:
        RequestError: The shape of its answer, or what it raised.
    """
    try:
        with torch.no_grad():
            answer = network(x)
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        expected = f"a surrogate that takes inputs of shape {tuple(x.shape)}, as the victim does"
        told = str(error).strip().splitlines()[0]
        raise checks.fail(expected, name, type(network).__name__, f"it raised {told!r}: take another") from error
    shape = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
    if shape != (1, classes):
        expected = f"a surrogate with logits (N, {classes}), as the victim has {classes} classes"
        raise checks.fail(expected, name, shape, "name one that was trained on the same classes")


def usual(shape: tuple[int, ...]) -> tuple[str, ...]:
    """Networks that are learnt where none is named."""
    return ("cnn", "mlp") if len(shape) == 3 and min(shape[1:]) >= 8 else ("mlp", "logistic")


def learnt(name: str, view: Transfer, x: Tensor, told: Tensor, *, epochs: int, streams: Streams) -> nn.Module:
    """A network fitted to a victim's answers.

    Args:
        name: As in a suite's `model`.
        view: Whose victim it is a surrogate of.
        x: Inputs `(n, …)`.
        told: The victim's probabilities for them `(n, classes)`.
        epochs: Passes over them.
        streams: Keys weights and order.
    """
    with differentiable(), seeded(streams.child(name).key):
        made = ModelSpec(name)(view.classes, tuple(x.shape[1:]), view.ball.bounds or (0.0, 1.0))
        network = made.to(x.device, x.dtype).train()
        x, told = x.clone(), told.clone()  # what was made in inference mode cannot be trained on
        steps = epochs * -(-len(x) // _BATCH)
        optimizer = torch.optim.Adam(network.parameters(), _RATE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=max(2, steps + 1))
        for _ in range(epochs):
            for rows in torch.split(torch.randperm(len(x)), _BATCH):
                optimizer.zero_grad(set_to_none=True)
                F.cross_entropy(network(x[rows]), told[rows]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
    return network.eval().requires_grad_(False)


def material(view: Transfer, most: int, streams: Streams) -> tuple[Tensor, Tensor]:
    """Inputs to learn from and what the victim says of them: known ones, and each once more with noise of the ball.

    Args:
        view: With what is known.
        most: Known inputs to use at most.
        streams: Keys which, and the noise.
    """
    if view.auxiliary is None:
        remedy = "give a surrogate, or data that the adversary holds"
        raise checks.fail("data to learn a surrogate from", "known", None, remedy)
    samples = view.auxiliary.samples
    chosen = torch.randperm(len(samples), generator=streams.child("known").generator())[:most].sort().values
    batch = samples.batch(chosen, view.x.device)
    x = batch.x.to(view.x.dtype)
    x = torch.cat([x, view.ball.sample(x, batch.ids, streams.child("noise"))])
    told = torch.cat([view.answers(part) for part in torch.split(x, 4 * _BATCH)])
    heard = told.sum(1) > 0  # a rejected input tells nothing
    return x[heard], told[heard]
