"""The suite file: one data set, one model, one training recipe, defences and attacks, validated as a whole."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from robustsuite.core import checks
from robustsuite.core.ball import NORMS, Ball
from robustsuite.core.errors import RequestError
from robustsuite.core.gate import Gate
from robustsuite.data.catalogue import DatasetSpec
from robustsuite.models.build import ModelSpec
from robustsuite.plugins import registry
from robustsuite.plugins.loading import load_factory
from robustsuite.storage.files import absent
from robustsuite.suite import yaml_lines
from robustsuite.suite.builtin import builtin_suites, builtin_text
from robustsuite.suite.gates import read_gates
from robustsuite.suite.overrides import apply_overrides
from robustsuite.suite.plugin_options import DefenseUse, PluginUse, read_attacks, read_defenses
from robustsuite.suite.problems import (
    Origin,
    Problem,
    ProblemsError,
    from_pydantic,
    locate,
    named,
    read_dataclass,
    shown,
)
from robustsuite.training.settings import Training

DEFAULT: Final = "quickstart"
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
    """

    norm: str | None = None
    radius: float | None = None
    goal: str = "untargeted"
    target: str | None = None
    curve: tuple[float, ...] = ()
    curve_samples: int = 64
    query_budget: int | None = None
    reason: str = ""

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
        values: `name` or `factory`, `checkpoint`, and the network's parameters.
    """

    values: dict[str, Any]

    @property
    def label(self) -> str:
        """What records and plans call it."""
        return str(self.values.get("name") or self.values.get("factory"))

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
            ProblemsError: The changed block describes no network.
        """
        other = any(key in changes and changes[key] != self.values.get(key) for key in ("name", "factory"))
        return read_model(changes if other else {**self.values, **changes}) if changes else self


def _quotient(values: Any) -> Any:
    """Let `radius` and `curve` be written as `8/255`."""
    if not isinstance(values, Mapping):
        return values
    read = dict(values)
    for key in ("radius", "curve"):
        value = read.get(key)
        try:
            if isinstance(value, str):
                read[key] = checks.fraction(key, value)
            elif isinstance(value, list):
                read[key] = [checks.fraction(key, item) if isinstance(item, str) else item for item in value]
        except RequestError as error:
            raise ProblemsError([Problem((key,), str(error))]) from error
    return read


def _read_threat(values: Any) -> ThreatSpec:
    return read_dataclass(ThreatSpec, _quotient(values), "threat")


def _read_training(values: Any) -> Training:
    return read_dataclass(Training, values, "training")


def _read_dataset(values: Any) -> DatasetSpec:
    return read_dataclass(DatasetSpec, {"name": values} if isinstance(values, str) else values, "dataset")


def read_model(values: Any) -> NetworkSpec:
    """The `model` block.

    Raises:
        ProblemsError: No network, an unknown one, or options that it does not have.
    """
    if isinstance(values, NetworkSpec):
        return values
    values = {"name": values} if isinstance(values, str) else values
    if not isinstance(values, Mapping):
        raise ProblemsError([Problem((), f"expected a mapping, got model={shown(values)}; write {{name: cnn}}")])
    try:
        spec = ModelSpec.parse(dict(values))
        if spec.factory is not None:
            load_factory(spec.factory)
    except (TypeError, ValueError) as error:
        raise ProblemsError([Problem(locate(named(error), values), str(error))]) from error
    return NetworkSpec({str(key): value for key, value in values.items()})


def _carrying(read: Any) -> BeforeValidator:
    """A reader whose problems pydantic carries upwards with their places."""

    def validate(value: Any) -> Any:
        try:
            return read(value)
        except ProblemsError as error:
            raise error.carried() from error

    return BeforeValidator(validate)


class Suite(BaseModel):
    """A resolved suite.

    Args:
        name: Names the run's folder; letters, digits, `.`, `_` and `-`.
        seed: Keys everything random.
        repeats: Independent trainings, at least 1.
        threads: Threads per worker, at least 1; part of every key.
        dataset: What is trained and tested on.
        model: The network.
        training: Settings of every training that a defence does not override.
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
    dataset: Annotated[DatasetSpec, _carrying(_read_dataset)]
    model: Annotated[NetworkSpec, _carrying(read_model)]
    training: Annotated[Training, _carrying(_read_training)] = Training()
    threat: Annotated[ThreatSpec, _carrying(_read_threat)] = ThreatSpec()
    defenses: Annotated[tuple[DefenseUse, ...], _carrying(read_defenses)] = (DefenseUse(),)
    attacks: Annotated[tuple[PluginUse, ...], _carrying(read_attacks)] = ()
    gates: Annotated[tuple[Gate, ...], _carrying(read_gates)] = ()
    _origin: Origin = PrivateAttr(default_factory=lambda: Origin("suite"))

    @model_validator(mode="before")
    @classmethod
    def _plain_numbers(cls, values: Any) -> Any:
        return checks.plain_numbers(values)

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            wish = "a name of letters, digits, '.', '_' and '-' (it names the run's folder)"
            raise ValueError(f"expected {wish}, got name={shown(name)}; type another folder as --out DIR")
        return name

    def training_for(self, defense: DefenseUse) -> Training:
        """The training settings of this defence."""
        changed = {**dataclasses.asdict(self.training), **defense.training}
        return read_dataclass(Training, changed, "training") if defense.training else self.training

    def model_for(self, defense: DefenseUse) -> NetworkSpec:
        """The network of this defence."""
        return self.model.override(defense.model)

    def defense(self, label: str) -> DefenseUse:
        """The defence of this label; an unknown one lists those there are."""
        labels = [use.label for use in self.defenses]
        return self.defenses[labels.index(checks.one_of("defense", label, labels))]

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
            "model": self.model.written(),
            "training": _settings(self.training),
            "threat": _settings(self.threat),
            "defenses": [use.written() for use in self.defenses],
            "attacks": [use.written() for use in self.attacks],
            **({"gates": [gate.written() for gate in self.gates]} if self.gates else {}),
        }

    def to_yaml(self) -> str:
        """YAML that `load_suite` reads back as an equal suite; running it reproduces the run."""
        return yaml_lines.dump(self.values())


def _settings(block: Any) -> dict[str, Any]:
    """A settings block as plain values; what is None by default, or empty, is left out where it is."""
    given = {f.name: (getattr(block, f.name), f.default) for f in dataclasses.fields(block)}
    kept = {k: v for k, (v, default) in given.items() if not (v is None and default is None) and v != {}}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in kept.items()}


def load_suite(source: str | Path | None = None, overrides: Sequence[str] = (), plugins: Sequence[str] = ()) -> Suite:
    """Read and validate a suite.

    Args:
        source: A path, the name of a built-in suite, or None for `quickstart`.
        overrides: `a.b=c` each, the value in YAML; list items by index, label or name.
        plugins: Plug-in files that the user typed, beside those of the suite.

    Raises:
        RequestError: Everything that is wrong, each with file, line, key, value and the way out.
    """
    name, text = _read_source(source)
    document = yaml_lines.parse(text, name)
    if not isinstance(document.value, dict):
        raise RequestError(f"{name}:1: expected a mapping of keys, got {shown(document.value)}; start with `name: …`")
    values, typed = apply_overrides(document.value, overrides)
    origin = Origin(name, document, typed)
    problems = [
        Problem(path, f"expected each key once, got {path[-1]} again on line {line}; remove one of them")
        for path, line in document.duplicates
    ]
    values["plugins"] = _load_plugins(values.get("plugins", []), typed, plugins, problems)
    try:
        suite = Suite.model_validate(values)
    except ValidationError as error:
        raise origin.refusal([*problems, *from_pydantic(error, Suite)]) from None
    if not problems:
        from robustsuite.suite.validation import inconsistencies

        problems = inconsistencies(suite)
    if problems:
        raise origin.refusal(problems)
    suite._origin = origin
    return suite


def _read_source(source: str | Path | None) -> tuple[str, str]:
    """What to call the source, and its text."""
    asked = str(source if source is not None else DEFAULT)
    builtin = [suite.name for suite in builtin_suites()]
    path = Path(asked).expanduser()
    if path.is_dir() and (path / "suite.yaml").is_file():
        path = path / "suite.yaml"
    if path.is_file():
        try:
            return str(path), path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(f"expected a readable YAML file, got suite={asked!r}; {error}") from error
    if asked in builtin:
        return f"{asked}.yaml", builtin_text(asked)
    near_by = sorted(str(p) for p in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
    near = difflib.get_close_matches(asked, [*builtin, *near_by], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"built-in suites: {', '.join(builtin)}"
    tried = f"{absent(asked)}; " if path.suffix or len(path.parts) > 1 else ""
    raise RequestError(f"expected a suite file or the name of a built-in suite, got suite={asked!r}; {tried}{hint}")


def _load_plugins(
    listed: Any, typed: Mapping[yaml_lines.Path, str], extra: Sequence[str], problems: list[Problem]
) -> Any:
    """Import the plug-in files before anything asks for their names; code outside the working folder must be typed."""
    if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
        problems.append(
            Problem(("plugins",), f"expected a list of files, got plugins={shown(listed)}; write [file.py]")
        )
        return []
    here = Path.cwd().resolve()
    files = [*listed, *(item for item in extra if item not in listed)]
    for index, item in enumerate(files):
        free = item in extra or any(path[:1] == ("plugins",) for path in typed)
        if not free and not (here / item).resolve().is_relative_to(here):
            message = (
                f"expected a file below the working folder, got plugins={item!r}; to run its code type --plugin {item}"
            )
            problems.append(Problem(("plugins", index), message))
            continue
        try:
            registry.load_file(item)
        except RequestError as error:
            problems.append(Problem(("plugins", index), str(error)))
    return files
