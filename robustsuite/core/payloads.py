"""What a record may carry to be drawn: a few kinds of data, whoever measured them.

A scenario's judge puts them into `Metrics.payloads`. Their tensors travel in the record's per-sample file, the rest as
JSON in the record. Each kind checks itself when it is made, so that one that was read is as sound as one that was
measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from robustsuite.core import checks
from robustsuite.core.errors import RequestError
from robustsuite.core.metric import Metric, Payload

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Scores(Payload):
    """Scores that should be high for positives and low for negatives.

    Args:
        scores: One a sample `(n,)`, floating, not NaN.
        positive: Which samples are positives, bool `(n,)`.
        positives: What positives are, such as `members`.
        negatives: What negatives are.
    """

    scores: Tensor
    positive: Tensor
    positives: str = "positives"
    negatives: str = "negatives"

    def __post_init__(self) -> None:
        import torch

        _text("title", self.title)
        _text("positives", self.positives)
        _text("negatives", self.negatives)
        scores, positive = _tensor("scores", self.scores), _tensor("positive", self.positive)
        if scores.dim() != 1 or not scores.is_floating_point() or bool(scores.isnan().any()):
            raise checks.fail("floating scores (n,) without NaN", "scores", _shape(scores), "score each sample once")
        if positive.shape != scores.shape or positive.dtype != torch.bool:
            raise checks.fail(f"a bool tensor {tuple(scores.shape)}", "positive", _shape(positive), "label each score")


@dataclass(frozen=True, eq=False)
class Images(Payload):
    """Rows of images of the same few samples, one below the other.

    Args:
        rows: Name of each row and its images `(k, …)`, floating; every row has the same shape.
        captions: A few words under each sample, `k` of them or none.
        marked: Which captions tell of a success of the attack, `k` of them or none.
        bounds: Least and greatest value of a valid input; None where that is unknown.
        change: Names of two rows whose difference is drawn too; empty for none.
        shared: Whether they are the same whatever defends, so that one record's stand for all.
    """

    rows: tuple[tuple[str, Tensor], ...]
    captions: tuple[str, ...] = ()
    marked: tuple[bool, ...] = ()
    bounds: tuple[float, float] | None = None
    change: tuple[str, ...] = ()
    shared: bool = False

    def __post_init__(self) -> None:
        _text("title", self.title)
        rows = tuple((_text("row", name), _tensor(f"row {name}", images)) for name, images in _pairs("rows", self.rows))
        _set(self, rows=rows, captions=tuple(self.captions), marked=tuple(map(bool, self.marked)))
        _set(self, change=tuple(self.change), shared=bool(self.shared))
        names = [name for name, _ in rows]
        if not rows or len(set(names)) < len(names):
            raise checks.fail("rows of different names", "rows", names, "name each row, once")
        first = rows[0][1]
        for name, images in rows:
            if images.shape != first.shape or images.dim() < 2 or not images.is_floating_point():
                expected = f"floating images {tuple(first.shape)} in every row"
                raise checks.fail(expected, f"rows[{name!r}]", _shape(images), "show the same samples in each row")
        for what, given in (("captions", self.captions), ("marked", self.marked)):
            if given and len(given) != len(first):
                raise checks.fail(f"{len(first)} {what} or none", what, len(given), "write one for each sample")
        for caption in self.captions:
            _text("caption", caption)
        if self.change and (len(self.change) != 2 or not set(self.change) <= set(names)):
            raise checks.fail(f"two of {names} or nothing", "change", self.change, "name two rows")
        if self.bounds is not None:
            low, high = (_number("bounds", end) for end in self.bounds)
            _set(self, bounds=(low, high))


@dataclass(frozen=True, eq=False)
class Sweep(Payload):
    """A figure against what was varied.

    Args:
        over: What was varied: a rule of the game such as `radius`, or another quantity.
        points: Values of it, finite and ascending, and the figure at each.
        through: Finite positions that a line passes where more is known than at the points; empty where it joins those.
        own: The suite's own value; None where there is none.
        apart: What sets it apart from others of the same attack and defence; empty for the attack's own.
        note: What else must be known to read it.
    """

    over: str
    points: tuple[tuple[float, Metric], ...]
    through: tuple[tuple[float, float], ...] = ()
    own: float | None = None
    apart: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        _text("title", self.title)
        for name in ("over", "apart", "note"):
            _text(name, getattr(self, name))
        points = tuple((checks.real("point", at), figure) for at, figure in _pairs("points", self.points))
        for _, figure in points:
            if not isinstance(figure, Metric):
                raise checks.fail("a Metric at each point", "points", figure, "give each figure as a Metric")
        if [at for at, _ in points] != sorted(at for at, _ in points):
            raise checks.fail("points in ascending order", "points", [at for at, _ in points], "sort them")
        line = _pairs("through", self.through)
        through = tuple((checks.real("through", a), checks.real("through", b)) for a, b in line)
        _set(self, points=points, through=through, own=None if self.own is None else checks.real("own", self.own))


@dataclass(frozen=True, eq=False)
class History(Payload):
    """Rows of figures, one an epoch; a row may lack figures that others have.

    Args:
        rows: Name of each figure and its value; `epoch` counts from 0.
    """

    rows: tuple[Mapping[str, float], ...]

    def __post_init__(self) -> None:
        _text("title", self.title)
        for row in self.rows:
            if not isinstance(row, Mapping):
                raise checks.fail("figures by name in each row", "rows", row, "give one mapping an epoch")
        made = ({_text("figure", n): _number(str(n), value) for n, value in row.items()} for row in self.rows)
        _set(self, rows=tuple(made))


@dataclass(frozen=True, eq=False)
class Cost(Payload):
    """Counted passes.

    Args:
        counts: Name (`forwards`, `backwards`, `queries`) and how many, in samples.
        until_broken: Passes after which each sample was broken, floating `(n,)`: 0 where it was wrong at once, infinite
            where it is robust; None where that cannot be told.
        spent: The most passes of one sample; 0 where that cannot be told.
    """

    counts: Mapping[str, int]
    until_broken: Tensor | None = None
    spent: int = 0

    def __post_init__(self) -> None:
        _text("title", self.title)
        if not isinstance(self.counts, Mapping):
            raise checks.fail("counts by name", "counts", self.counts, "give a mapping")
        counted = {_text("count", name): checks.integer(str(name), n, low=0) for name, n in self.counts.items()}
        _set(self, counts=counted, spent=checks.integer("spent", self.spent, low=0))
        if self.until_broken is not None:
            passes = _tensor("until_broken", self.until_broken)
            if passes.dim() != 1 or not passes.is_floating_point() or bool((~(passes >= 0)).any()):
                expected = "floating passes (n,), at least 0"
                raise checks.fail(expected, "until_broken", _shape(passes), "count each sample's passes")


def outcomes(labels: Sequence[int], predicted: Sequence[int]) -> tuple[tuple[str, ...], tuple[bool, ...]]:
    """Captions of labels and what the model said, and which of them differ, for `Images`.

    Example:
        >>> outcomes([3, 5], [3, 8])
        (('3', '5→8'), (False, True))
    """
    pairs = list(zip(labels, predicted, strict=True))
    return tuple(f"{a}" if a == b else f"{a}→{b}" for a, b in pairs), tuple(a != b for a, b in pairs)


KINDS: Final[dict[str, type[Payload]]] = {
    "scores": Scores,
    "images": Images,
    "sweep": Sweep,
    "history": History,
    "cost": Cost,
}
"""Every kind, by what records call it."""
_NAMES: Final = {kind: name for name, kind in KINDS.items()}
_TENSOR: Final = "tensor"
_METRIC: Final = "metric"


def pack(payloads: Sequence[Payload]) -> tuple[tuple[dict[str, Any], ...], dict[str, Tensor]]:
    """Payloads as descriptions, which JSON can hold, and as tensors by the names that the descriptions give.

    Raises:
        RequestError: Something that is no payload.
    """
    described: list[dict[str, Any]] = []
    tensors: dict[str, Tensor] = {}
    for number, payload in enumerate(payloads):
        if type(payload) not in _NAMES:
            got = type(payload).__name__
            raise checks.fail(f"a payload ({', '.join(k.__name__ for k in _NAMES)})", "payload", got, "carry one")
        place = f"payload.{number}"
        values = {f.name: getattr(payload, f.name) for f in dataclasses.fields(payload)}
        fields = {name: _packed(value, f"{place}.{name}", tensors) for name, value in values.items()}
        described.append({"kind": _NAMES[type(payload)], **fields})
    return tuple(described), tensors


def unpack(described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Payload:
    """The payload of a description.

    Args:
        described: As `pack` made it.
        tensors: Those that it names, among others.

    Raises:
        RequestError: No such kind, a tensor that is not there, or what is no such payload.
    """
    fields = dict(described) if isinstance(described, Mapping) else {}
    kind = KINDS[checks.one_of("kind", fields.pop("kind", None), KINDS)]
    known = {f.name for f in dataclasses.fields(kind)}
    try:
        return kind(**{name: _unpacked(value, tensors) for name, value in fields.items() if name in known})
    except RequestError:
        raise
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        got = str(fields.get("title"))
        raise checks.fail(f"a payload of kind {kind.__name__}", "payload", got, f"mend its fields: {error}") from error


def _packed(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """A value as JSON; a tensor becomes the name by which it is kept."""
    import torch

    if isinstance(value, torch.Tensor):
        tensors[place] = value.detach().cpu()
        return {_TENSOR: place}
    if isinstance(value, Metric):
        return {_METRIC: dataclasses.asdict(value)}
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items()}
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], torch.Tensor):
        return [value[0], _packed(value[1], f"{place.rpartition('.')[0]}.{value[0]}", tensors)]
    if isinstance(value, tuple):
        return [_packed(item, place, tensors) for item in value]
    return value


def _unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return tuple(_unpacked(item, tensors) for item in value)
    if isinstance(value, Mapping) and len(value) == 1:
        ((name, held),) = value.items()
        if name == _TENSOR and isinstance(held, str):
            return tensors[held]
        if name == _METRIC and isinstance(held, Mapping):
            return Metric(**{part: _metric_part(part, item) for part, item in held.items()})
    return value


def _metric_part(name: str, value: Any) -> Any:
    return _number(name, value) if name in ("value", "low", "high") and value is not None else value


def _text(name: str, value: Any) -> str:
    if type(value) is not str:
        raise checks.fail("text", name, value, "write a few words")
    return value


def _number(name: str, value: Any) -> float:
    """A number, also one that JSON holds as text because it is not finite."""
    if isinstance(value, str) and value in ("inf", "-inf", "nan"):
        return float(value)
    plain = checks.plain_number(value)
    if isinstance(plain, bool) or not isinstance(plain, (int, float)):
        raise checks.fail("a number", name, value, "give a number")
    return float(plain)


def _pairs(name: str, value: Any) -> tuple[tuple[Any, Any], ...]:
    pairs = tuple(tuple(item) for item in value)
    if any(len(pair) != 2 for pair in pairs):
        raise checks.fail("pairs", name, [len(pair) for pair in pairs], "give two values each")
    return tuple((first, second) for first, second in pairs)


def _tensor(name: str, value: Any) -> Tensor:
    import torch

    if not isinstance(value, torch.Tensor):
        raise checks.fail("a tensor", name, type(value).__name__, "give a tensor")
    return value


def _shape(value: Tensor) -> str:
    return f"{value.dtype} {tuple(value.shape)}"


def _set(made: Payload, **values: Any) -> None:
    for name, value in values.items():
        object.__setattr__(made, name, value)
