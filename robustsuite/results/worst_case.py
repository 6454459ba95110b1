"""The verdict on a game whose attacks are joined: a sample is robust only where nothing that was played broke it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from robustsuite.core.canonical import digest
from robustsuite.core.errors import RequestError
from robustsuite.core.flags import believable
from robustsuite.core.intervals import at_level
from robustsuite.core.metric import Metric
from robustsuite.core.metrics import FOLLOWED_UP, OWN, Declared
from robustsuite.core.robust import VERDICT, Robust, worst
from robustsuite.evaluation.record_files import load_samples
from robustsuite.evaluation.records import RADIUS, Record
from robustsuite.results.break_radius import BreakRadii

if TYPE_CHECKING:
    from torch import Tensor

WORST: Final = "worst-case"


def with_worst_cases(records: Iterable[Record], folder: Path | str | None) -> list[Record]:
    """The records in plan order, and behind those that it joins the worst case over attacks.

    Args:
        records: In any order.
        folder: The run's folder with its per-sample files; None leaves out the worst cases.
    """
    ordered = sorted(records, key=lambda record: record.order)
    if folder is None:
        return ordered
    # A derived record has the order of the last one that it joins, and a stable sort leaves it behind that one.
    return sorted([*ordered, *worst_cases(ordered, Path(folder))], key=lambda record: record.order)


def worst_cases(records: Iterable[Record], folder: Path) -> list[Record]:
    """One derived record for each suite, data set, defence, repeat, game and ball with attacks that are joined.

    Each stands behind (has the order of) the last record that it joins. At a suite's own radius it is the verdict:
    follow-up attacks take part, and its `review["path"]` counts by whom samples were broken. At the radii of a
    curve, where none were played, it joins the attacks' own results; there a sample that is known to be broken at a
    smaller radius is broken too, and attacks of minimum norm take part by the distances that they found.

    An attack that did not finish could only have lowered the verdict, so it makes it inconclusive; and so does one
    whose result is in doubt, unless an examined white-box attack that nobody doubts broke at least as many samples.

    Args:
        records: Records in plan order.
        folder: The run's folder, which holds the per-sample files.
    """
    groups: dict[tuple[object, ...], dict[str, Record]] = {}
    able = [r for r in records if r.meaning.joined]
    broken_at = BreakRadii(folder)
    balls = own_balls(able)
    for record in able:
        game, ball = (record.suite, record.dataset, record.scenario), (record.norm, record.radius)
        ball = ball if record.radius is not None else balls.get(game, ball)  # it failed before it knew its ball
        group = groups.setdefault((*game, record.defense, record.repeat, *ball), {})
        group.setdefault(record.attack, record)  # a curve may visit the suite's own radius again, on fewer samples
    joined = []
    for place, group in groups.items():
        own = any(not record.sweep for record in group.values())
        others = [] if own else [r for r in able if _place(r) == place[:-1] and _tells(r, place[-1])]
        if own or len(group) >= 2 or any(r.minimum_norm for r in others):
            joined.append(_join(list(group.values()), others, folder, broken_at))
    return joined


def own_balls(records: Iterable[Record]) -> dict[tuple[str, str, str], tuple[str, float | None]]:
    """Suite, data set and game -> norm and radius at which it is compared, as far as any record of it knows."""
    known = [r for r in records if r.radius is not None and not r.sweep]
    return {(r.suite, r.dataset, r.scenario): (r.norm, r.radius) for r in reversed(known)}


def _place(record: Record) -> tuple[object, ...]:
    return record.suite, record.dataset, record.scenario, record.defense, record.repeat, record.norm


def _tells(record: Record, radius: object) -> bool:
    """Whether this record can tell of a sample that it is broken at a radius."""
    return isinstance(radius, float) and record.radius is not None and (record.minimum_norm or record.radius < radius)


def _join(records: Sequence[Record], others: Sequence[Record], folder: Path, broken_at: BreakRadii) -> Record:
    known = next((r for r in records if r.radius is not None), records[0])
    meaning = known.meaning
    blank = Record(
        key=digest(["worst-case", *(r.key for r in (*records, *others))]),
        order=records[-1].order,
        suite=known.suite,
        dataset=known.dataset,
        model=known.model,
        defense=known.defense,
        attack=WORST,
        scenario=known.scenario,
        knowledge="+".join(dict.fromkeys(r.knowledge for r in records if r.knowledge)),
        norm=known.norm,
        radius=known.radius,
        sweep="" if any(not r.sweep for r in records) else known.sweep,
        variant=_variant(records),
        repeat=known.repeat,
        seed=known.seed,
        headline=meaning.joined,
        means=meaning.with_own(),
        version=min(r.version for r in records),
        budget=next((r.budget for r in records if r.budget), {}),
    )
    columns, failures = _read(records, folder)
    if not columns:
        order = ("inconclusive", "error", "not_applicable")  # what was measured, and of which no file is at hand, first
        there = {"inconclusive" if r.measured else r.status for r in records}
        status = next((name for name in order if name in there), "not_run")
        flags = tuple(dict.fromkeys(flag for r in records for flag in r.flags))
        return replace(blank, status=status, message="; ".join(failures), flags=flags)
    broken = broken_at.within(others, known.radius) if known.radius is not None else frozenset[int]()
    return _judged(blank, records, _Verdict.over(columns, broken), failures)


def _variant(records: Sequence[Record]) -> dict[str, Any]:
    """Of which sweeps a worst case is a point: its defence's, and where it joins points of a sweep of balls, theirs."""
    told = records[0].variant
    kept = {"defense": told["defense"]} if "defense" in told else {}
    radii = [at for r in records if (at := r.variant.get("attack", {}).get("at", {}).get(RADIUS)) is not None]
    return {**kept, "attack": {"of": WORST, "at": {RADIUS: radii[0]}}} if radii else kept


@dataclass(frozen=True)
class _Column:
    """What one record says of each sample.

    Args:
        attack: Its label.
        own: Sample id -> whether it is robust under the attack alone.
        verdict: The same with follow-up attacks.
        finder: Sample id -> the follow-up that broke it, where one did.
        wrong: Ids of samples that were misclassified before anybody attacked.
    """

    attack: str
    own: Robust
    verdict: Robust
    finder: Mapping[int, str]
    wrong: frozenset[int]

    @classmethod
    def read(cls, record: Record, table: Mapping[str, Any]) -> _Column:
        ids = table["id"].tolist()
        played = [step["attack"] for step in record.review.get("played", ())]
        found = table["found_by"].tolist() if "found_by" in table else [0] * len(ids)
        named = [*played, *["a follow-up"] * len(ids)]  # a record that somebody has edited may name fewer
        finder = {i: f"{named[at - 1]} after {record.attack}" for i, at in zip(ids, found, strict=True) if at > 0}
        right = table["clean_correct"].bool().tolist() if "clean_correct" in table else [True] * len(ids)
        wrong = frozenset(i for i, is_right in zip(ids, right, strict=True) if not is_right)
        own, verdict = (_robust_to(record.meaning, table, followed_up=followed_up) for followed_up in (False, True))
        return cls(record.attack, own, verdict, finder, wrong)

    def broken_by(self, sample: int) -> str:
        """Who broke a sample; empty where nobody had to."""
        if self.verdict[sample] or sample in self.wrong:
            return ""
        return self.finder.get(sample, self.attack)


@dataclass(frozen=True)
class _Verdict:
    """The worst case over several records, of the samples that all of them judged.

    Args:
        robust: Sample id -> whether nothing broke it.
        own: The same for the attacks alone.
        path: Who broke how many samples: the first attack in plan order that did, by itself where it could.
        partial: Whether some samples had to be left out.
    """

    robust: Robust
    own: Robust
    path: Mapping[str, int]
    partial: bool

    @classmethod
    def over(cls, columns: Sequence[_Column], broken: frozenset[int]) -> _Verdict:
        """Join them; `broken` are samples that are known to be broken by something else."""
        robust = worst([column.verdict for column in columns], broken)
        own = worst([column.own for column in columns], broken)
        path: dict[str, int] = Counter()
        attacks = {column.attack for column in columns}
        for i in robust:
            by = [found for column in columns if (found := column.broken_by(i))]
            if by:
                path[next((found for found in by if found in attacks), by[0])] += 1
        order = [column.attack for column in columns]
        path = dict(sorted(path.items(), key=lambda item: order.index(item[0]) if item[0] in attacks else len(order)))
        return cls(robust, own, path, any(len(column.own) != len(robust) for column in columns))


def _read(records: Sequence[Record], folder: Path) -> tuple[list[_Column], list[str]]:
    """What every attack that was judged says of each sample, and a phrase for each that was not."""
    columns, failures = [], []
    for record in records:
        if not record.measured:
            failures.append(f"{record.attack} is not part of it ({record.status.replace('_', ' ')})")
            continue
        try:
            table = load_samples(folder, record)
        except RequestError as error:
            failures.append(f"{record.attack} is not part of it ({error})")
            continue
        if "id" in table and outcome_column(record.meaning) in table:
            columns.append(_Column.read(record, table))
        else:
            why = record.message if record.budget.get("judged") == 0 else "no per-sample verdicts"
            failures.append(f"{record.attack} is not part of it ({why})")
    return columns, failures


def _judged(blank: Record, records: Sequence[Record], verdict: _Verdict, failures: Sequence[str]) -> Record:
    messages = list(failures)
    if verdict.partial:
        messages.append(f"only the {len(verdict.robust)} samples that every attack was judged on are joined")
    settled = [r for r in records if _is_settled(r)]
    outdone = [r for r in records if any(_left(s) <= _left(r) for s in settled if s is not r)]
    counted = [r for r in records if r not in outdone]
    doubted = [r.attack for r in counted if r.status == "inconclusive"]
    messages.extend(f"{attack} is inconclusive" for attack in doubted)
    if verdict.path:
        messages.append(f"broken by {', '.join(f'{by} {count}' for by, count in verdict.path.items())}")
    flags = [flag for r in records for flag in r.flags if r in counted or believable([flag])]
    return replace(
        blank,
        status="inconclusive" if doubted or failures else "ok",
        message="; ".join(messages),
        flags=tuple(dict.fromkeys(flags)),
        metrics=_figures(blank, verdict) if verdict.robust else {},
        review={"path": verdict.path},
    )


def _is_settled(record: Record) -> bool:
    """Whether sanity checks examined this result and no doubt about it is open."""
    return record.status == "ok" and bool(record.review.get("rules")) and believable(record.flags)


def _left(record: Record) -> float:
    """The share of samples that an attack and its follow-ups left unharmed."""
    joined = record.meaning.joined
    figure = record.metrics.get(joined + FOLLOWED_UP) or record.metrics.get(joined)
    if figure is None:
        return 1.0
    return 1 - figure.value if is_harm(record.meaning) else figure.value


def is_harm(meaning: Declared) -> bool:
    """Whether the rate by which attacks are joined counts samples that were harmed."""
    return meaning.spec(meaning.joined).better == "lower"


def outcome_column(meaning: Declared) -> str:
    """The per-sample column that says of each sample what the joined rate counts."""
    return meaning.spec(meaning.joined).outcome or meaning.joined


def _robust_to(meaning: Declared, table: Mapping[str, Tensor], *, followed_up: bool) -> Robust:
    """Which of the samples that count an attack left unharmed, by itself or with its follow-ups."""
    counted, column = meaning.spec(meaning.joined).counted, outcome_column(meaning)
    told = followed_up and VERDICT in table
    left = table[VERDICT].bool() if told else table[column].bool() ^ is_harm(meaning)
    keep = table[counted].bool() if counted in table else left.new_ones(len(left))
    return dict(zip(table["id"][keep].tolist(), left[keep].tolist(), strict=True))


def _figures(record: Record, verdict: _Verdict) -> dict[str, Metric]:
    """The joined rate with and without follow-up attacks."""
    meaning, level = record.meaning, record.budget.get("level")
    sides = {meaning.joined: verdict.robust, meaning.joined + OWN: verdict.own}
    return {name: at_level(_rate(meaning, left), level) for name, left in sides.items()}


def _rate(meaning: Declared, left: Robust) -> Metric:
    import torch

    from robustsuite.core.intervals import rate

    held = torch.tensor(list(left.values()), dtype=torch.bool)
    return rate(held ^ is_harm(meaning), meaning.spec(meaning.joined).better)
