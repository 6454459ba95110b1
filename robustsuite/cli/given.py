"""What `evaluate` is given: the data, what the model wants of them, the ball and the gates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustsuite.core.ball import Ball
    from robustsuite.core.gate import Gate
    from robustsuite.core.samples import Samples
    from robustsuite.data.catalogue import DatasetSpec


def dataset_spec(source: str, bounds: Sequence[float] | None = None) -> DatasetSpec:
    """A data set by name or path; a path without a test part is taken whole.

    Args:
        source: What the user typed.
        bounds: Least and greatest input value of an `.npz`; None for (0, 1).

    Raises:
        RequestError: Neither a known name nor data at that path.
    """
    from robustsuite.core import checks
    from robustsuite.data.catalogue import NAMES, DatasetSpec
    from robustsuite.models.wrap import interval_of
    from robustsuite.storage.files import absent
    from robustsuite.suite.problems import nearest

    if source in NAMES:
        return DatasetSpec(name=source)
    path = Path(source).expanduser()
    if path.suffix == ".npz" and path.is_file():
        span = None if bounds is None else interval_of(bounds)
        return DatasetSpec(name="npz", path=source, bounds=span, whole=True)
    if path.is_dir() or path.suffix == ".zip":
        return DatasetSpec(name="image-folder", path=source, whole=True)
    named = [name for name in NAMES if name not in ("npz", "image-folder", "factory")]
    tried = f"{absent(source)}; " if path.suffix or len(path.parts) > 1 else ""
    remedy = f"{tried}{nearest(source, named)}"
    raise checks.fail("a data set's name, a folder or .zip of images, or an .npz file", "data", source, remedy)


def declared(*, output: str | None = None, **numbers: str | None) -> dict[str, Any]:
    """What was typed of the model's inputs and outputs, as the `model` block of a suite writes it.

    Args:
        output: As it was typed.
        **numbers: Numbers or quotients with commas between them.

    Raises:
        RequestError: Something that is no number.
    """
    from robustsuite.core import checks

    given: dict[str, Any] = {
        name: [checks.fraction(name, part) for part in text.split(",")]
        for name, text in numbers.items()
        if text is not None
    }
    return given if output is None else {**given, "output": output}


def refuse_other_bounds(bounds: Sequence[float] | None, data: Samples, name: str) -> None:
    """Refuse bounds that are not those of the data: nothing is rescaled in silence.

    Args:
        bounds: As they were typed; None for nothing.
        data: The samples.
        name: What their set is called.

    Raises:
        RequestError: The data have others, or lie in [0, 1] where far more was declared.
    """
    from robustsuite.core import checks
    from robustsuite.models.wrap import interval_of

    if bounds is None:
        return
    low, high = interval_of(bounds)
    held = data.bounds
    if held == (low, high) and low == 0 and high > 2 and float(data.inputs().max()) <= 1:
        held = (0.0, 1.0)
    if held == (low, high):
        return
    scale = (held[1] - held[0]) / (high - low)
    remedy = (
        f"{name} holds inputs in [{held[0]:g}, {held[1]:g}]: leave --bounds out, and where the model wants "
        f"[{low:g}, {high:g}] let it take them there by --mean {held[0] - low * scale:g} --std {scale:.6g}"
    )
    raise checks.fail("the bounds of the data", "bounds", (low, high), remedy)


def read_ball(norm: str | None, radius: str | None, attacks: Sequence[str]) -> Ball | None:
    """The ball that was typed; None where no attack needs one.

    Raises:
        RequestError: A norm, or an attack that needs a ball, without a radius.
    """
    from robustsuite.core import checks
    from robustsuite.core.ball import Ball

    if radius is not None:
        return Ball(norm or "linf", checks.fraction("radius", radius))
    remedy = "give it in input units, such as 8/255"
    if norm is not None:
        raise checks.fail("--radius beside --norm", "radius", None, remedy)
    if any(_needs_ball(attack) for attack in attacks):
        raise checks.fail("--radius for an evasion attack", "radius", None, remedy)
    return None


def _needs_ball(attack: str) -> bool:
    from robustsuite.plugins import registry
    from robustsuite.plugins.expressions import parse_call

    return bool(registry.attacks.get(parse_call(attack)[0]).game.needs_threat)


def read_gates(texts: Iterable[str], attacks: Sequence[str], ball: Ball | None) -> tuple[Gate, ...]:
    """The gates typed as `--gate`, held against the attacks that will be played.

    Args:
        texts: As they were typed.
        attacks: As they were typed.
        ball: The threat, where there is one.

    Raises:
        RequestError: No gate, or one about an attack or a metric that will not be there; the message names the nearest.
    """
    from robustsuite.core.errors import RequestError
    from robustsuite.core.gate import Gate
    from robustsuite.evaluation.resolve import arrange_all, labels
    from robustsuite.suite.gates import mistakes, places

    games = arrange_all(attacks, ball, {})
    played = places([(label, game.entry.scenario) for label, game in zip(labels(games), games, strict=True)])
    gates = []
    for text in dict.fromkeys(texts):
        gate = Gate.parse(text)
        for problem in mistakes(gate, ["none"], played):
            raise RequestError(f"--gate {text!r}: {problem.message}")
        gates.append(gate)
    return tuple(gates)
