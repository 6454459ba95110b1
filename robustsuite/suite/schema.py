"""What a suite says: one data set, one model, one training recipe, defences and attacks."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from robustsuite.core import checks
from robustsuite.core.ball import NORMS, Ball
from robustsuite.core.errors import RequestError
from robustsuite.core.gate import Gate
from robustsuite.data.catalogue import DatasetSpec
from robustsuite.models.build import ModelSpec
from robustsuite.suite import yaml_lines
from robustsuite.suite.gates import read_gates
from robustsuite.suite.plugin_options import DefenseUse, PluginUse, read_attacks, read_defenses
from robustsuite.suite.problems import (
    Origin,
    Problem,
    Problems,
    ProblemsError,
    problems_of,
    quotients,
    read_dataclass,
    shown,
)
from robustsuite.suite.sweeps import LabelledBall, read_balls
from robustsuite.suite.yaml_lines import Path
from robustsuite.training.own import OwnTraining
from robustsuite.training.settings import Training

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


@dataclass(frozen=True, kw_only=True)
class ThreatSpec:
    """What the adversary of evasion games may do.

    Args:
        norm: `linf`, `l2` or `l1`; None where no attack needs a ball.
        radius: In raw input units, at least 0; `8/255` is read as a quotient.
        goal: `untargeted` or `targeted`.
        target: For a targeted goal: `next`, `random` or `least-likely`.
        curve: Radii at which success is measured beside `radius`; empty for radii chosen around it.
        curve_samples: Samples that the curve is measured on; 0 for no curve.
        query_budget: Queries per sample of a black-box attack; None for no limit.
        reason: Why this radius.
        balls: Where the suite gives a list of radii or of threats, the balls of all; `norm` and `radius` are those of
            the first. Attacks that were read hold each its own, so these are read once.
    """

    norm: str | None = None
    radius: float | None = None
    goal: str = "untargeted"
    target: str | None = None
    curve: tuple[float, ...] = ()
    curve_samples: int = 64
    query_budget: int | None = None
    reason: str = ""
    balls: tuple[LabelledBall, ...] = field(default=(), init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        checks.settle(self)
        if self.norm is not None:
            checks.one_of("norm", self.norm, NORMS)
        if self.radius is not None:
            checks.real("radius", self.radius, low=0.0)
        if (self.norm is None) != (self.radius is None):
            missing = "norm" if self.norm is None else "radius"
            raise checks.fail("norm and radius together", missing, None, f"add {missing}: to threat")
        checks.one_of("goal", self.goal, ("untargeted", "targeted"))
        if self.target is not None:
            checks.one_of("target", self.target, ("next", "random", "least-likely"))
        if (self.goal == "targeted") != (self.target is not None):
            raise checks.fail("a target exactly where the goal is targeted", "target", self.target, "set both or none")
        for radius in self.curve:
            checks.real("curve", radius, low=0.0)
        checks.integer("curve_samples", self.curve_samples, low=0)
        if self.query_budget is not None:
            checks.integer("query_budget", self.query_budget, low=1)

    def ball(self) -> Ball | None:
        """The perturbation set, or None where the suite declares none."""
        return None if self.norm is None or self.radius is None else Ball(self.norm, self.radius)


@dataclass(frozen=True)
class NetworkSpec:
    """The `model` block: a reference network by name, or the user's own.

    Args:
        values: `name` or `factory`, `checkpoint`, and the network's parameters; empty where the user's own training
            hides the network.
    """

    values: dict[str, Any]

    @property
    def label(self) -> str:
        """What records and plans call it; empty where the user's own training hides it."""
        return str(self.values.get("name") or self.values.get("factory") or "")

    @property
    def checkpoint(self) -> str | None:
        """Weights to start from; nothing is trained then, unless `training: {init: checkpoint}`."""
        given = self.values.get("checkpoint")
        return None if given is None else str(given)

    def written(self) -> dict[str, Any]:
        """As a suite file writes it."""
        return dict(self.values)

    def override(self, changes: Mapping[str, Any]) -> NetworkSpec:
        """With some settings replaced; another name or factory leaves the parameters of this one behind.

        Raises:
            RequestError: The changed block describes no network.
        """
        other = any(key in changes and changes[key] != self.values.get(key) for key in ("name", "factory"))
        return read_model(changes if other else {**self.values, **changes}) if changes else self


def _read_threat(values: Any) -> ThreatSpec:
    blocks = values if isinstance(values, list) else [values]
    several = isinstance(values, Mapping) and any(isinstance(values.get(key), list) for key in ("norm", "radius"))
    if blocks is not values and not several:
        return read_dataclass(ThreatSpec, quotients(values, "radius", "curve"), "threat")
    first = blocks[0] if blocks and isinstance(blocks[0], Mapping) else {}
    shared = {key: value for key, value in first.items() if key not in ("norm", "radius")}
    rest = [{key: value for key, value in first.items() if key not in shared}, *blocks[1:]] if first else blocks
    balls, _ = read_balls(rest if blocks is values else rest[0])
    problems, where = Problems(), (0,) if blocks is values else ()
    if shared.get("curve"):
        remedy = "drop curve, and add its radii to the list: each is then judged on all samples"
        path = (*where, "curve")
        problems.append(Problem(path, f"expected no curve beside a list, got curve={shown(shared['curve'])}; {remedy}"))
    with problems.below(*where):
        ball = {"norm": balls[0].ball.norm, "radius": balls[0].ball.radius}
        spec = read_dataclass(ThreatSpec, quotients({**shared, **ball}, "curve"), "threat")
    problems.refuse()
    object.__setattr__(spec, "balls", tuple(balls))
    return spec


def _read_attacks(values: Any, info: ValidationInfo) -> tuple[PluginUse, ...]:
    threat = info.data.get("threat") or ThreatSpec()
    return read_attacks(values, threat.balls, threat.norm)


def _read_training(values: Any) -> Training | OwnTraining:
    """The `training` block, read as data: settings, or a function of the user's own, which is not loaded.

    Raises:
        RequestError: Settings that there are not, or a function and settings at once.
    """
    if not _is_own(values):
        return read_dataclass(Training, values, "training")
    own = read_dataclass(OwnTraining, values, "training by a factory, whose settings are its options")
    if not isinstance(own.factory, str):
        remedy = "write path/to/file.py:function, so that a file can say it and a key hold it"
        raise checks.fail("the place of a training function in a suite", "factory", own.name, remedy)
    return own


def _read_dataset(values: Any) -> DatasetSpec:
    return read_dataclass(DatasetSpec, {"name": values} if isinstance(values, str) else values, "dataset")


def read_model(values: Any) -> NetworkSpec:
    """The `model` block, read as data: a factory is not loaded.

    Raises:
        RequestError: No network, an unknown one, or options that it does not have.
    """
    if isinstance(values, NetworkSpec):
        return values
    values = {"name": values} if isinstance(values, str) else values
    if not isinstance(values, Mapping):
        raise RequestError(f"expected a mapping, got model={shown(values)}; write {{name: cnn}}")
    try:
        ModelSpec.parse(dict(values))
    except (TypeError, ValueError) as error:
        raise ProblemsError(problems_of(error, values)) from error
    return NetworkSpec({str(key): value for key, value in values.items()})


class Suite(BaseModel):
    """A resolved suite.

    Args:
        name: Names the run's folder; letters, digits, `.`, `_` and `-`.
        seed: Keys everything random.
        repeats: Independent trainings, at least 1.
        threads: Threads per worker, at least 1; part of every key.
        dataset: What is trained and tested on.
        model: The network; may be left out where the user's own training hides it.
        training: Settings of every training that a defence does not override, or a function of the user's own.
        threat: What the adversary of evasion games may do.
        defenses: Rows of the comparison.
        attacks: Columns of the comparison; the clean evaluation is always there and not listed.
        gates: Floors and ceilings that the run must pass.
        plugins: Files whose plug-ins this suite uses.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: str
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**63)] = 0
    repeats: Annotated[int, Field(strict=True, ge=1)] = 1
    threads: Annotated[int, Field(strict=True, ge=1)] = 1
    plugins: tuple[str, ...] = ()
    dataset: Annotated[DatasetSpec, BeforeValidator(_read_dataset)]
    model: Annotated[NetworkSpec, BeforeValidator(read_model)]
    training: Annotated[Training | OwnTraining, BeforeValidator(_read_training)] = Training()
    threat: Annotated[ThreatSpec, BeforeValidator(_read_threat)] = ThreatSpec()
    defenses: Annotated[tuple[DefenseUse, ...], BeforeValidator(read_defenses)] = (DefenseUse(index=0),)
    attacks: Annotated[tuple[PluginUse, ...], BeforeValidator(_read_attacks)] = ()
    gates: Annotated[tuple[Gate, ...], BeforeValidator(read_gates)] = ()
    _origin: Origin = Origin("suite")

    @model_validator(mode="before")
    @classmethod
    def _plain_numbers(cls, values: Any) -> Any:
        values = checks.plain_numbers(values)
        if isinstance(values, Mapping) and "model" not in values and _is_own(values.get("training")):
            return {**values, "model": NetworkSpec({})}
        return values

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            wish = "a name of letters, digits, '.', '_' and '-' (it names the run's folder)"
            raise ValueError(f"expected {wish}, got name={shown(name)}; type another folder as --out DIR")
        return name

    def training_for(self, defense: DefenseUse) -> Training | OwnTraining:
        """The training settings of this defence, or the function that trains it."""
        if not defense.training:
            return self.training
        shared = {} if _is_own(defense.training) else dataclasses.asdict(self.training)
        return _read_training({**shared, **defense.training})

    def model_for(self, defense: DefenseUse) -> NetworkSpec:
        """The network of this defence."""
        return self.model.override(defense.model)

    def ball_of(self, attack: PluginUse) -> Ball | None:
        """The ball that an attack is played in: its own, else the suite's."""
        return self.threat.ball() if attack.ball is None else attack.ball

    def balls(self) -> Iterator[tuple[Ball, Path]]:
        """Every ball that the suite names, with the place of its radius."""
        own = self.threat.ball()
        if own is not None:
            yield own, ("threat", "radius")
        for use in self.attacks:
            if use.ball is not None and use.ball != own:
                below = ("threat", "radius") if self.threat.balls else ("attacks", use.index, use.name, "threat")
                yield use.ball, below

    def defense(self, label: str) -> DefenseUse:
        """The defence of this label; an unknown one lists those there are."""
        labels = [use.label for use in self.defenses]
        return self.defenses[labels.index(checks.one_of("defense", label, labels))]

    @property
    def origin(self) -> Origin:
        """Where its values come from, and which code they may name."""
        return self._origin

    def trusted(self) -> AbstractContextManager[None]:
        """In this block only code is loaded that these values may name; any, where they were written in Python."""
        return nullcontext() if self._origin.trust is None else self._origin.trust.held()

    def refusal(self, problems: Iterable[Problem]) -> RequestError:
        """One error that lists every problem with its place in the file that this suite was read from."""
        return self._origin.refusal(problems)

    def values(self) -> dict[str, Any]:
        """The suite as a file writes it, everything resolved."""
        simple = {key: getattr(self, key) for key in ("name", "seed", "repeats", "threads")}
        return {
            **simple,
            **({"plugins": list(self.plugins)} if self.plugins else {}),
            "dataset": _settings(self.dataset),
            **({"model": self.model.written()} if self.model.values else {}),
            "training": _settings(self.training),
            "threat": _settings(self.threat),
            "defenses": [use.written() for use in self.defenses],
            "attacks": [use.written() for use in self.attacks],
            **({"gates": [gate.written() for gate in self.gates]} if self.gates else {}),
        }

    def to_yaml(self) -> str:
        """YAML that `load_suite` reads back as an equal suite; running it reproduces the run."""
        return yaml_lines.dump(self.values())


def _is_own(training: Any) -> bool:
    """Whether a `training` block names a function of the user's own."""
    return isinstance(training, OwnTraining) or (isinstance(training, Mapping) and "factory" in training)


def _settings(block: Any) -> dict[str, Any]:
    """A settings block as plain values; what is None by default, or empty, is left out where it is."""
    given = {f.name: (getattr(block, f.name), f.default) for f in dataclasses.fields(block) if f.init}
    kept = {k: v for k, (v, default) in given.items() if not (v is None and default is None) and v != {}}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in kept.items()}
