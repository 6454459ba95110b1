"""A model that somebody already has, checked against its data before anything is played."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from robustsuite.core import checks
from robustsuite.core.ball import Ball, BallLike, as_ball
from robustsuite.core.deployed import Deployed, Served, ask
from robustsuite.core.door import DTYPES, Door, weights_dtype
from robustsuite.core.errors import ModelError
from robustsuite.core.isolation import untouched
from robustsuite.core.pristine import unasked
from robustsuite.core.radii import refuse_vacuous
from robustsuite.core.samples import Samples, spread
from robustsuite.core.streams import Streams
from robustsuite.data.coerce import to_samples
from robustsuite.evaluation.environment import resolve_device
from robustsuite.models.answers import judgeable
from robustsuite.models.digest import network_digest
from robustsuite.models.output_kind import as_logits
from robustsuite.models.probabilities import are_probabilities
from robustsuite.models.wrap import Wrapped
from robustsuite.scenarios.victim import Victim
from robustsuite.training.cache import Trainer
from robustsuite.training.precision import settled
from robustsuite.training.recipe import Recipe

_TRIED: Final = 8  # samples of the trial run
_LOOKED_AT: Final = 256  # samples on which answers to floats and to integers are compared


def existing(
    model: nn.Module | Deployed,
    data: Any,
    *,
    ball: BallLike | None = None,
    device: str = "auto",
    classes: int | None = None,
    seed: int = 0,
    train: Any = None,
    public: Any = None,
    recipe: Recipe | None = None,
    trusted: Any = None,
    calibration: Any = None,
) -> Victim:
    """Put a user's model and data together, once they fit.

    A few samples are run through the model to see that it answers, and how many classes it scores.

    Args:
        model: From raw inputs `(N, …)` to logits `(N, classes)`; what answers every sample with probabilities, and
            does not say so, is read by their logarithms, under the flag `probabilities`.
        data: Whatever `to_samples` reads.
        ball: The threat, whose bounds must agree with those of the data.
        device: `auto` stays where the model is; on another device a copy is used.
        classes: Number of classes; None for as many as the model scores.
        seed: Seed of trainings that games may ask for.
        train: What the model was trained on.
        public: Data of the same kind that the model was not trained on: one half of each class is the adversary's, the
            other the judge's.
        recipe: How the model was trained; it trains again in a precision that the device has units for.
        trusted: Clean data for the repairs of that recipe.
        calibration: Data for the thresholds of its detectors.

    Raises:
        RequestError: Data that do not fit the model, the bounds or the ball.
        ModelError: A model that fails, or answers something other than finite logits.
    """
    ball = None if ball is None else as_ball(ball)
    deployed, where = _placed(model, device)
    network = deployed.network
    early = unasked(network)  # before the first query
    if recipe is not None:
        recipe = replace(recipe, training=settled(recipe.training, where)[0])
    bounds = input_bounds(model, data, ball)
    samples = to_samples(data, classes=classes, bounds=bounds)
    _agree(samples, bounds, ball)
    _usable_weights(deployed.network)
    if isinstance(deployed, Served) and weights_dtype(deployed.network) is None:
        deployed = _of_unknown_dtype(deployed, samples, where)
    if samples.whole is not None and isinstance(deployed, Served):
        deployed = _of_integers(deployed, samples, where)
    logits = _trial(deployed, samples, where)
    if are_probabilities(logits):
        deployed = as_logits(deployed, samples, where)
        logits = _trial(deployed, samples, where)
    count = _counted(logits, classes)
    checks.labels("y", samples.y, count)
    parts = {name: _beside(of, count, bounds) for name, of in (("trusted", trusted), ("calibration", calibration))}
    population = _beside(public, count, bounds)
    if population is not None:
        parts["adversary"], parts["judge"] = halves(population, seed)
    return Victim(
        deployed,
        replace(samples, classes=count),
        recipe=recipe,
        train=_beside(train, count, bounds),
        trainer=Trainer(seed, where, part=parts.get),
        device=where,
        part=parts.get,
        seed=seed,
        pristine=None if early is None else unasked(deployed, {id(network): early}),
    )


def halves(population: Samples, seed: int) -> tuple[Samples, Samples | None]:
    """The adversary's half and the judge's, which is empty where there is one sample; each class in its share."""
    order = spread(population.y, Streams(seed).child("data", "population").generator())
    of_judge = order[: len(order) // 2].sort().values
    adversary = population.take(order[len(order) // 2 :].sort().values)
    return adversary, population.take(of_judge) if len(of_judge) else None


def input_bounds(model: nn.Module | Deployed, data: Any, ball: Ball | None = None) -> tuple[float, float]:
    """Least and greatest raw input: what `rs.wrap` declares, else the samples, else the ball, else [0, 1].

    A foreign attribute called `bounds` may mean anything, and is not read.
    """
    network = model.network if isinstance(model, Deployed) else model
    if isinstance(network, Wrapped):
        return network.bounds
    if isinstance(data, Samples):
        return data.bounds
    return (ball.bounds if ball is not None else None) or (0.0, 1.0)


def model_digest(model: Deployed) -> str:
    """24 hexadecimal digits over all that the network is, but for its code."""
    return network_digest(model.network)


def _placed(model: nn.Module | Deployed, device: str) -> tuple[Deployed, str]:
    if not isinstance(model, (nn.Module, Deployed)):
        raise checks.fail("a torch.nn.Module", "model", type(model).__name__, "wrap the function in a module")
    network = model.network if isinstance(model, Deployed) else model
    at = next((str(tensor.device) for tensor in (*network.parameters(), *network.buffers())), None)
    if device == "auto" or at is None or device in (at, at.partition(":")[0]):
        where = at or resolve_device("cpu" if device == "auto" else device)
    elif isinstance(model, Deployed):
        raise checks.fail(f"the device of the deployed model ({at})", "device", device, "move it there first")
    else:
        where = resolve_device(device)
        model = copy.deepcopy(model).to(where)
    return (model if isinstance(model, Deployed) else Served(model)), where


def _agree(samples: Samples, bounds: tuple[float, float], ball: Ball | None) -> None:
    if samples.bounds != bounds:
        remedy = f"the model declares {bounds}: scale the inputs, or declare rs.wrap(model, bounds={samples.bounds})"
        raise checks.fail("samples with the model's bounds", "data.bounds", samples.bounds, remedy)
    if ball is None:
        return
    refuse_vacuous(ball, bounds, samples.shape)
    if ball.bounds is None:
        return
    if ball.bounds[0] < bounds[0] or ball.bounds[1] > bounds[1]:
        remedy = "leave them out, or declare the model's by rs.wrap(model, bounds=...)"
        raise checks.fail(f"a ball within the inputs' bounds {bounds}", "ball.bounds", ball.bounds, remedy)
    checks.within("x", samples.inputs(), ball.bounds)


def _counted(logits: Tensor, classes: int | None) -> int:
    """How many classes the model scores."""
    judgeable(logits, classes or 2)
    count = classes or int(logits.shape[1])
    if count != logits.shape[1]:
        remedy = f"the model scores {logits.shape[1]}: leave classes out, or wrap the model so that it scores as many"
        raise checks.fail("as many classes as the model scores", "classes", count, remedy)
    return count


def _usable_weights(network: nn.Module) -> None:
    for name, parameter in network.named_parameters():
        if is_lazy(parameter):
            raise checks.fail("initialised weights", f"model.{name}", "lazy", "run one batch through the model first")
        checks.finite(f"model.{name}", parameter.detach())
    for name, buffer in network.named_buffers():
        # Infinities stand in attention masks and in observers; what they do wrong shows in the logits.
        if buffer.is_floating_point() and bool(buffer.isnan().any()):
            checks.finite(f"model.{name}", buffer.detach().nan_to_num(nan=math.nan, posinf=0.0, neginf=0.0))


def _of_unknown_dtype(deployed: Served, samples: Samples, device: str) -> Served:
    """A network that shows no weights, as a frozen script, given what it takes; float32 where it takes nothing."""
    for dtype in DTYPES:
        tried = Served(Door(deployed.network, dtype), deployed.doubts)
        if _answers(tried, samples, device) is not None:
            return tried
    return deployed


def _of_integers(deployed: Served, samples: Samples, device: str) -> Served:
    """A network that is given whole numbers: as integers in the end where it takes them, as floats on the way there.

    Where floats of the same values get another answer, or none, it is given integers always, and has no gradient.
    """
    floats, door = _answers(deployed, samples, device), Door(deployed.network, samples.whole)
    integers = _answers(Served(door), samples, device)
    if integers is None:
        return deployed
    if floats is None or floats.shape != integers.shape or not torch.allclose(floats, integers.to(floats.dtype)):
        return Served(door, deployed.doubts)
    again = Door(deployed.network)
    again.whole = samples.whole
    return Served(again, deployed.doubts)


def _answers(deployed: Deployed, samples: Samples, device: str) -> Tensor | None:
    try:
        return _trial(deployed, samples, device, _LOOKED_AT)
    except ModelError:
        return None


def _trial(deployed: Deployed, samples: Samples, device: str, most: int = _TRIED) -> Tensor:
    """Logits of the first few samples."""
    dtype = deployed.dtype
    x = samples.batch(slice(0, most), device).x.to(dtype)
    with untouched(deployed.network), torch.no_grad():
        return ask(deployed, x, strict=True).logits


def _beside(data: Any, classes: int, bounds: tuple[float, float]) -> Samples | None:
    return None if data is None else to_samples(data, classes=classes, bounds=bounds)
