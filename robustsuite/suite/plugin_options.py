"""Plug-ins as a suite names them: `name`, `{name: {options}}`, and for defences a list of those, composed."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

from robustsuite.core.ball import Ball, Threat
from robustsuite.core.errors import RequestError
from robustsuite.core.renamed import labels_of
from robustsuite.plugins import registry
from robustsuite.scenarios import sort_options
from robustsuite.suite.entries import NONE, Spread, has_threat, inside_of, split, spread_attack, spread_defense
from robustsuite.suite.problems import Problem, Problems, locate, problems_of, shown, unknown_key
from robustsuite.suite.sweeps import LabelledBall, SweepOf, Variant, read_balls
from robustsuite.suite.yaml_lines import Path

U = TypeVar("U", "PluginUse", "DefenseUse")
RESERVED: Final = ("worst-case", "verdict")  # the row that joins all evasion attacks, and what heads its column
LABEL: Final = re.compile(r"[^\x00-\x1f\x7f+]{1,200}")  # an evaluation's tells every option that was set


@dataclass(frozen=True)
class PluginUse:
    """One attack or defence with its resolved parameters.

    Args:
        kind: `attack` or `defense`.
        name: Its registered name.
        options: Its parameters, defaults included, as plain values.
        label: What tables call it.
        rules: For an attack, rules of its game that the suite sets (`fraction` of poisoning, say).
        ball: For an attack, the one that it is played in; None for the suite's.
        sweep: Which sweep it is a variant of.
        index: Which entry of the suite it was made of; -1 where it was made in Python.
    """

    kind: str
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    label: str = ""
    rules: dict[str, Any] = field(default_factory=dict)
    ball: Ball | None = None
    sweep: SweepOf | None = None
    index: int = field(default=-1, compare=False)

    @property
    def entry(self) -> registry.Entry:
        """What the registry holds under this name."""
        return (registry.attacks if self.kind == "attack" else registry.defenses).get(self.name)

    def make(self) -> Any:
        """The plug-in itself."""
        return self.entry.make(dict(self.options))

    def written(self, extra: Mapping[str, Any] | None = None) -> Any:
        """As a suite file writes it."""
        label = {} if self.label == self.name else {"label": self.label}
        ball = {} if self.ball is None else {"threat": {"norm": self.ball.norm, "radius": self.ball.radius}}
        sweep = {} if self.sweep is None else {"sweep": self.sweep.written()}
        options = {**label, **self.options, **self.rules, **ball, **sweep, **(extra or {})}
        return {self.name: _plain(options)} if options else self.name

    def value(self, name: str) -> Any:
        """What was chosen of this swept option, rule, or `radius` of its ball; None where it has none."""
        if name == "radius" and name not in self.options and self.ball is not None:
            return self.ball.radius
        return {**self.rules, **self.options}.get(name)

    @property
    def variant(self) -> dict[str, Any]:
        """What records say of the sweep that it belongs to; empty where it belongs to none."""
        sweep = self.sweep
        return {} if sweep is None else {"of": sweep.of, "at": {name: self.value(name) for name in sweep.over}}


@dataclass(frozen=True)
class DefenseUse:
    """A defence of a suite: nothing, one plug-in, or several composed left to right.

    Args:
        parts: The plug-ins in order; empty for `none`.
        label: Labels of the parts joined by `+`.
        training: Settings that replace the suite's for this defence.
        model: Model settings that replace the suite's for this defence.
        sweep: Which sweep it is a variant of, where it has no parts that say so.
        index: Which entry of the suite it was made of; -1 where it was made in Python.
    """

    parts: tuple[PluginUse, ...] = ()
    label: str = NONE
    training: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    sweep: SweepOf | None = None
    index: int = field(default=-1, compare=False)

    @property
    def variant(self) -> dict[str, Any]:
        """What records say of the sweeps that it belongs to, of all its parts; empty where it belongs to none."""
        parts = self.parts or (PluginUse("defense", NONE, label=self.label, sweep=self.sweep),)
        at: dict[str, Any] = {}
        for part in parts:
            for name in () if part.sweep is None else part.sweep.over:
                block, _, setting = name.partition(".")
                at[name] = self.training.get(setting) if block == "training" and setting else part.value(name)
        of = "+".join(part.label if part.sweep is None else part.sweep.of for part in parts)
        return {"of": of, "at": at} if at else {}

    def written(self) -> Any:
        """As a suite file writes it."""
        extra = {k: v for k, v in (("training", dict(self.training)), ("model", dict(self.model))) if v}
        if not self.parts:
            label = {} if self.label == NONE else {"label": self.label}
            sweep = {} if self.sweep is None else {"sweep": self.sweep.written()}
            return {NONE: _plain({**label, **sweep, **extra})} if label or extra else NONE
        items = [self.parts[0].written(extra), *(part.written() for part in self.parts[1:])]
        return items[0] if len(items) == 1 else items

    @property
    def inside(self) -> Path:
        """Where its own options stand below it: under its name, and nowhere where it is composed."""
        return (self.parts[0].name if self.parts else NONE,) if len(self.parts) < 2 else ()

    def locate(self, name: str | None) -> Path:
        """The option, or setting of its own, of this name: the path below this defence, empty elsewhere."""
        for index, part in enumerate(self.parts):
            path = locate(name, part.options)
            if path:
                return (*(self.inside or (index, part.name)), *path)
        path = locate(name, {"training": self.training, "model": self.model})
        return (*self.inside, *path) if path else ()


_USES: Final = (PluginUse, DefenseUse)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def read_attacks(values: Any, balls: Sequence[LabelledBall] = (), norm: str | None = None) -> tuple[PluginUse, ...]:
    """The suite's `attacks`; an entry with lists gives several.

    Args:
        values: As the suite writes them.
        balls: Where the suite's threat has several balls, those, each of which every attack is played in that can be.
        norm: That of the suite's threat.

    Raises:
        RequestError: All that is wrong with any of them.
    """

    def spread(item: Any) -> Spread:
        return spread_attack(item, balls, norm)

    uses = _read_uses(values, "attacks", spread, lambda item: _read_attack(item, norm))
    items = [values[use.index] for use in uses]
    written = [item.name if isinstance(item, PluginUse) else split(item, "attack")[0] for item in items]
    labels = labels_of((use.label, name) for use, name in zip(uses, written, strict=True))
    return tuple(replace(use, label=label) for use, label in zip(uses, labels, strict=True))


def read_defenses(values: Any) -> tuple[DefenseUse, ...]:
    """The suite's `defenses`; an entry with lists gives several.

    Raises:
        RequestError: All that is wrong with any of them.
    """
    return _read_uses(values, "defenses", spread_defense, _read_defense)


def _read_uses(values: Any, name: str, spread: Callable[[Any], Spread], read: Callable[[Any], U]) -> tuple[U, ...]:
    """Each item of a list, or each of its variants, under a label of its own."""
    if not isinstance(values, (list, tuple)):
        raise RequestError(f"expected a list, got {name}={shown(values)}; write one `- name` per line")
    uses: list[U] = []
    problems = Problems()
    for index, item in enumerate(values):
        with problems.below(index, *inside_of(item)):
            found = Problems()
            for one, variant in [(item, Variant({}))] if isinstance(item, _USES) else spread(item):
                try:
                    uses.append(replace(read(one), index=index))
                except RequestError as error:
                    found.extend(variant.placed(problems_of(error)))
            Problems(dict.fromkeys(found)).refuse()
    first: dict[str, int] = {}
    for use in uses:
        if first.setdefault(use.label, use.index) != use.index:
            got = f"label={use.label!r} for {name}[{first[use.label]}] and for {name}[{use.index}]"
            message = f"expected distinct labels, got {got}; give one of them a label: of its own"
            problems.append(Problem((use.index,), message))
    problems.refuse()
    return tuple(uses)


def _label(name: str, options: dict[str, Any], problems: Problems) -> str:
    label = options.pop("label", name)
    if not isinstance(label, str) or not LABEL.fullmatch(label) or label in RESERVED:
        wish = "a label of 1 to 200 printable characters without '+', other than worst-case and verdict"
        problems.append(Problem(("label",), f"expected {wish}, got label={shown(label)}; choose another"))
        return name
    if label == NONE and name != NONE:
        message = f"expected a label other than none, got label='none' for {name}; none is the undefended model"
        problems.append(Problem(("label",), message))
    return label


def _sweep(options: dict[str, Any], problems: Problems) -> SweepOf | None:
    """The sweep that a resolved suite says this is a variant of."""
    if "sweep" not in options:
        return None
    found: list[SweepOf] = []
    with problems.below("sweep"):
        found.append(SweepOf.read(options.pop("sweep")))
    return next(iter(found), None)


def _read_attack(item: Any, norm: str | None = None) -> PluginUse:
    if isinstance(item, PluginUse):
        return item
    name, options = split(item, "attack")
    if name == NONE:
        raise RequestError(
            "expected an attack, got attack='none'; every defence is also judged without an attack, drop this line"
        )
    entry, problems = registry.attacks.get(name), Problems()
    label, sweep = _label(name, options, problems), _sweep(options, problems)
    ball = None
    if has_threat(entry) and "threat" in options:
        with problems.below("threat"):
            ((ball, _),), _ = read_balls(options["threat"], norm)
        del options["threat"]
    own, rules = sort_options(entry, options)
    kind = entry.game
    try:
        kind.arrange(entry.access, Threat(ball=Ball("linf", 0.0)), rules)  # the ball is the suite's affair
    except (ValueError, TypeError) as error:
        problems.extend(problems_of(error, rules))
    also = ("label", *(["threat"] if has_threat(entry) else []), *kind.options)
    resolved = _resolve(entry, own, problems, also)
    problems.refuse()
    return PluginUse("attack", entry.name, resolved, label, rules, ball, sweep)


def _resolve(
    entry: registry.Entry, options: dict[str, Any], problems: Problems, also: tuple[str, ...]
) -> dict[str, Any]:
    """All parameters of a plug-in as plain values, defaults included.

    Args:
        entry: The plug-in.
        options: What the suite gives.
        problems: Every refused option is added here.
        also: Further keys to name where one is unknown.
    """
    names = [f.name for f in entry.parameters]
    unknown = [] if entry.name.startswith("art:") else [key for key in options if key not in names]  # ART's are many
    problems.extend(unknown_key(key, options[key], (*names, *also), entry.name) for key in unknown)
    made = problems.make(entry.make, {key: value for key, value in options.items() if key not in unknown})
    return options if problems else _resolved(entry, made, options)


def _resolved(entry: registry.Entry, made: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Options that make the same plug-in, whatever a later version's defaults are."""
    full = dict(options)
    for parameter in entry.parameters:
        value = _as_option(getattr(made, parameter.name, None))
        if value is not _NO_OPTION:
            full[parameter.name] = value
    try:
        again = entry.make(full)
    except (RequestError, ValueError, TypeError):
        return options
    return full if again == made else options


_NO_OPTION: Final = object()


def _as_option(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        items = [_as_option(item) for item in value]
        return _NO_OPTION if _NO_OPTION in items else items
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and hasattr(value, "plugin_name"):
        options = {f.name: _as_option(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
        return {value.plugin_name: {k: v for k, v in options.items() if v is not _NO_OPTION}}
    return _NO_OPTION


def _read_defense(item: Any) -> DefenseUse:
    if isinstance(item, DefenseUse):
        return item
    if not isinstance(item, (list, tuple)):
        return _read_part(item)
    if len(item) < 2:
        raise RequestError(f"expected at least two defences to compose, got defense={shown(item)}; drop the brackets")
    parts: list[DefenseUse] = []
    problems = Problems()
    for index, part in enumerate(item):
        read = None
        with problems.below(index, *inside_of(part)):
            read = _read_part(part)
            parts.append(read)
        if read is not None and not read.parts:
            problems.append(Problem((index,), "expected a defence to compose, got defense='none'; drop it"))
    training = _merged([p.training for p in parts], "training", problems)
    model = _merged([p.model for p in parts], "model", problems)
    problems.refuse()
    return DefenseUse(tuple(p.parts[0] for p in parts), "+".join(p.label for p in parts), training, model)


def _merged(overrides: list[dict[str, Any]], name: str, problems: Problems) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for override in overrides:
        for key, value in override.items():
            if key in merged and merged[key] != value:
                wish = f"one {name}.{key} for the composition"
                message = f"expected {wish}, got {key}={shown(merged[key])} and {shown(value)}; set it in one part only"
                problems.append(Problem((), message))
            merged[key] = value
    return merged


def _read_part(item: Any) -> DefenseUse:
    name, options = split(item, "defense")
    known = None if name == NONE else registry.defenses.get(name)
    problems = Problems()
    label, sweep = _label(name, options, problems), _sweep(options, problems)
    training, model = (_override(key, options, known, problems) for key in ("training", "model"))
    also = ("label", "training", "model")
    parts: tuple[PluginUse, ...] = ()
    if known is not None:
        parts = (PluginUse("defense", name, _resolve(known, options, problems, also), label, sweep=sweep),)
    else:
        problems.extend(unknown_key(key, value, also, NONE) for key, value in options.items())
    problems.refuse()
    return DefenseUse(parts, label, training, model, None if parts else sweep)


def _override(key: str, options: dict[str, Any], known: registry.Entry | None, problems: Problems) -> dict[str, Any]:
    if known is not None and key in [f.name for f in known.parameters]:
        return {}
    value = options.pop(key, {})
    if not isinstance(value, Mapping):
        problems.append(
            Problem((key,), f"expected a mapping of settings, got {key}={shown(value)}; write {key}: {{…}}")
        )
        return {}
    return dict(value)
