"""A record: one judged cell, as one line of JSON says it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from robustsuite.core.canonical import canonical_json
from robustsuite.core.metrics import Declared
from robustsuite.core.renamed import current
from robustsuite.core.suspicions import Suspicion
from robustsuite.evaluation.record_types import checked, metric_of, numbers

if TYPE_CHECKING:
    from robustsuite.core.metric import Metric

VERSION: Final = 4
"""What a record says: since 2 an attack's figures are its own, whatever follow-ups broke; since 3 it is in the words of
now (`core.renamed`) and tells the rules of its game; since 4 it says what its figures are, and its line has digests."""
_RULES: Final = 3
CLEAN: Final = "none"
"""The label of the clean evaluation, and of the undefended model."""
MEASURED: Final = ("ok", "inconclusive")
FINISHED: Final = (*MEASURED, "not_applicable")
EVALUATION: Final = "evaluate"
"""What the suite of an evaluation is called; its labels are made of names and options."""
RADIUS: Final = "radius"
"""The one rule over which a suite sweeps: `Record.sweep` of a point of a curve."""
_LEFT_OUT: Final = ("sweep", "variant", "payloads", "budget")  # of a line, where they are empty


@dataclass(frozen=True, kw_only=True)
class Record:
    """One judged cell: what ran, what came out, what to doubt.

    Args:
        key: Digest of everything that determines the result.
        order: Position in the plan; tables stand in this order.
        suite: Name of the suite.
        dataset: Name of the data set.
        model: Name of the model.
        defense: Label of the defence (`none`, a plug-in's name, a composition joined by `+`).
        attack: Label of the attack (`none` for the clean evaluation).
        scenario: The game.
        knowledge: What the adversary saw (`white-box`, `score-based`, …; empty for the clean evaluation).
        norm: Norm of the ball, empty where the game has none.
        radius: Radius of the ball, None where the game has none.
        sweep: Over which rule of the game (`radius`) this is a point of a curve, played on fewer samples; empty for a
            cell of the comparison, which is played by the suite's own rules.
        variant: Where a list of the suite made the defence, the attack or both: for `defense` and `attack` the label
            that all variants share (`of`), and each swept option with the value of this one (`at`).
        minimum_norm: Whether distances were judged; those in the per-sample file tell at which radius a sample breaks.
        repeat: Index of the independent training, from 0.
        seed: Seed of this repeat.
        status: `ok`, `error`, `inconclusive`, `not_applicable` or `not_run`.
        message: Why, where the status is not ok; a traceback for an error.
        flags: Short codes of doubts.
        metrics: Metric name -> figure.
        headline: Name of the metric that stands in the comparison table; `headlines` are all that do.
        cost: Counted passes: forwards, backwards, queries.
        seconds: Wall time of the cell; trainings that it shares with others stand apart.
        attack_parameters: The attack, resolved.
        rules: What else the game allows and asks for: goal, query budget, share of the data that may be poisoned.
        review: By which rules the figures were examined, what the sanity checks measured, and which follow-up
            attacks were then played with which parameters; empty where nothing was examined.
        recipe: The defended recipe, resolved.
        history: One row of figures per training epoch.
        training: What the training of the model says of itself: seconds, epochs, and of a private one all that epsilon
            rests on, from which it can be computed again.
        environment: Revision, versions, device, threads.
        samples: Path of the per-sample file below the run's folder, or empty.
        samples_digest: SHA-256 of that file.
        data: What was judged: the set's `name` and `path`, the `digest` and number `n` of the samples, and the `seed`
            by which they were chosen, as far as they are known.
        payloads: What panels of the report may ask for, described; their tensors stand in the per-sample file.
        budget: Where time was limited: `seconds` of the budget and those `spent`, how many samples were `judged` of
            those `given`, the `level` of every interval, so that all at which one might have stopped hold together,
            the `full_level` of those at all samples, and about how many seconds one more takes (`per_sample`).
        means: What its figures are, as its game declares them, for those who read it without the plug-in; None in older
            records.
        version: What the figures mean, by `VERSION`; 1 where a line does not say.
    """

    key: str
    order: int
    suite: str
    dataset: str
    model: str
    defense: str
    attack: str
    scenario: str
    knowledge: str = ""
    norm: str = ""
    radius: float | None = None
    sweep: str = ""
    variant: Mapping[str, Any] = field(default_factory=dict)
    minimum_norm: bool = False
    repeat: int = 0
    seed: int = 0
    status: str = "ok"
    message: str = ""
    flags: tuple[str, ...] = ()
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    headline: str = ""
    cost: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    attack_parameters: Mapping[str, Any] = field(default_factory=dict)
    rules: Mapping[str, Any] = field(default_factory=dict)
    review: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    history: tuple[Mapping[str, float], ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    samples: str = ""
    samples_digest: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    payloads: tuple[Mapping[str, Any], ...] = ()
    budget: Mapping[str, Any] = field(default_factory=dict)
    means: Declared | None = None
    version: int = VERSION

    @property
    def measured(self) -> bool:
        """Whether it was played to its end, so that its metrics stand."""
        return self.status in MEASURED

    @property
    def meaning(self) -> Declared:
        """What its figures are: as it says itself, else as its game does where that is known here."""
        if self.means is not None:
            return self.means
        from robustsuite.scenarios import declared_by

        return declared_by(self.scenario)

    @property
    def headlines(self) -> tuple[str, ...]:
        """Names of its columns in the comparison table: its headline, and others that its game declares."""
        further = [name for name in self.meaning.headlines if name in self.metrics]
        return tuple(dict.fromkeys((self.headline, *further)))

    @property
    def tells_rules(self) -> bool:
        """Whether the rules of its game that are not there were not set; those of older records are not known."""
        return bool(self.rules) or self.version >= _RULES

    @property
    def figures(self) -> dict[str, Metric]:
        """Metrics and counted passes of a record that was measured; what is no number is left out."""
        from robustsuite.core.metric import Metric

        if not self.measured:
            return {}
        passes = {name: Metric(float(count), unit="passes") for name, count in self.cost.items() if count}
        return {**{name: m for name, m in self.metrics.items() if not math.isnan(m.value)}, **passes}

    def line(self) -> str:
        """The record as one line of JSON; ends of an interval that is not there are left out."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        fields = {name: value for name, value in fields.items() if value or name not in _LEFT_OUT}
        if self.means is not None:
            fields["means"] = self.means.written()
        fields["metrics"] = {
            name: {part: value for part, value in dataclasses.asdict(metric).items() if value is not None}
            for name, metric in self.metrics.items()
        }
        return canonical_json(fields)

    @classmethod
    def parse(cls, line: str) -> Record:
        """Read a line; keys of a later version are ignored, and figures that JSON has no word for are numbers again.

        Raises:
            ValueError: It is no JSON object, or a field holds what it cannot hold.
        """
        read = json.loads(line)
        if not isinstance(read, dict):
            raise ValueError(f"expected a JSON object, got {type(read).__name__}")
        values = current(read)
        known = {f.name for f in dataclasses.fields(cls)}
        kept = {"version": 1, **{name: value for name, value in values.items() if name in known}}
        lacking = [f.name for f in dataclasses.fields(cls) if f.name in _NEEDED and f.name not in kept]
        if lacking:
            raise ValueError(f"expected {', '.join(lacking)}, got none")
        checked(kept)
        kept["metrics"] = {name: metric_of(name, figures) for name, figures in kept.get("metrics", {}).items()}
        kept["history"] = [numbers(epoch) for epoch in kept.get("history", ())]
        if _is_outdated(kept["version"], kept.get("scenario", "")):
            kept["flags"] = dict.fromkeys((*kept.get("flags", ()), Suspicion.OUTDATED.value))
        kept["training"] = numbers(kept.get("training", {}))
        if kept.get("means") is not None:
            kept["means"] = Declared.read(kept["means"])
        for name in ("flags", "history", "payloads"):
            kept[name] = tuple(kept.get(name, ()))
        return cls(**kept)


def _is_outdated(version: int, scenario: str) -> bool:
    """Whether figures of that version of this game cannot be believed as they stand."""
    if version >= VERSION:
        return False
    from robustsuite.plugins import registry

    known = registry.scenarios.find(scenario)
    return known is not None and version < known.game.sound_since


_NEEDED: Final = tuple(
    f.name for f in dataclasses.fields(Record) if f.default is dataclasses.MISSING is f.default_factory
)
