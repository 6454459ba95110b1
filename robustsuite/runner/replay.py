"""Repeat one judged cell and hold it against its record, figure by figure and sample by sample."""

from __future__ import annotations

import difflib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from robustsuite.core import checks
from robustsuite.core.canonical import plain
from robustsuite.core.errors import RequestError
from robustsuite.data.catalogue import load
from robustsuite.evaluation import record_files
from robustsuite.evaluation.environment import environment, resolve_device
from robustsuite.evaluation.records import VERSION, Record
from robustsuite.evaluation.resolve import facts_of
from robustsuite.evaluation.rules import other_rules
from robustsuite.plugins.trust import Trust
from robustsuite.runner.engine import local
from robustsuite.runner.plan import Plan, plan
from robustsuite.runner.resolver import Cell
from robustsuite.runner.run import PlanRun
from robustsuite.runner.worker import Worker
from robustsuite.storage.store import Store
from robustsuite.suite.load import load_suite
from robustsuite.training.cache import KIND as MODELS

if TYPE_CHECKING:
    from torch import Tensor

    from robustsuite.suite.schema import Suite

_TIMES: Final = ("seconds", "milliseconds")  # units of what no two runs agree on
_SHOWN: Final = 5

Announce = Callable[[Record, tuple[str, ...]], None]
"""Shown the record, and in what the surroundings differ, before anything is repeated."""


@dataclass(frozen=True)
class Deviation:
    """One thing in which the repetition differs from the record.

    Args:
        what: Its name.
        recorded: What the record says.
        repeated: What came out now.
        ids: Samples that differ, for a per-sample column.
    """

    what: str
    recorded: Any
    repeated: Any
    ids: tuple[int, ...] = ()

    def __str__(self) -> str:
        if not self.ids:
            return f"{self.what}: {self.recorded} recorded, {self.repeated} now"
        some = ", ".join(map(str, self.ids[:_SHOWN])) + (", …" if len(self.ids) > _SHOWN else "")
        count = f"{len(self.ids)} sample{'' if len(self.ids) == 1 else 's'}"
        return f"{self.what}: {count} differ{'s' if len(self.ids) == 1 else ''} (id {some})"


@dataclass(frozen=True)
class Replay:
    """One cell twice.

    Args:
        recorded: As it stands in the run.
        repeated: As it came out now.
        changed: In what the surroundings differ from those of the run; then a difference proves little.
        differences: In what the two differ, times aside; empty where they agree.
        trained: Trainings done again, because they were asked for or their weights are not there.
        notes: What went wrong on the way and was mended.
        rules: Which rules of the game are others now, by name and value: then nothing follows from a difference.
    """

    recorded: Record
    repeated: Record
    changed: tuple[str, ...]
    differences: tuple[Deviation, ...]
    trained: int
    notes: tuple[str, ...] = ()
    rules: str = ""

    @property
    def agrees(self) -> bool:
        """Whether the same game gives the same again, times aside."""
        return not self.differences and not self.rules

    def as_dict(self) -> dict[str, Any]:
        """What JSON holds."""
        names = ("key", "defense", "attack", "scenario", "repeat", "radius", "status")
        told = {
            **{name: getattr(self.recorded, name) for name in names},
            "agrees": self.agrees,
            "changed": self.changed,
            "differences": [asdict(difference) for difference in self.differences],
            "trained": self.trained,
            "notes": self.notes,
            "rules": self.rules,
        }
        return dict(plain(told))


def replay(
    folder: Path,
    key: str,
    *,
    retrain: bool = False,
    device: str | None = None,
    plugins: Sequence[str] = (),
    trust: Sequence[str] = (),
    announce: Announce | None = None,
) -> Replay:
    """Repeat one cell of a run, elsewhere: the run's folder and the cache stay as they are.

    Args:
        folder: The run's folder, with its suite.yaml.
        key: The record's key, or a beginning that no other key has.
        retrain: Whether to train victims and evaluators again, rather than take the run's weights.
        device: Where to work; None for where the record was made.
        plugins: Plug-in files that the user typed.
        trust: Modules and files whose code the suite may name; no other is run, not even that of the working folder,
            for a run's folder may be a stranger's.
        announce: Shown the record, and in what the surroundings differ, before anything is repeated.

    Raises:
        RequestError: No such record, a suite that plans no such cell any more, a device that is not there, or code that
            is not trusted, all of it by name.
    """
    record = find(record_files.read(folder / "records.jsonl"), key, folder)
    suite = load_suite(folder / "suite.yaml", plugins=plugins, trust=Trust(named=tuple(trust)))
    with suite.trusted():
        return _replayed(suite, record, folder, retrain=retrain, device=device, announce=announce)


def _replayed(
    suite: Suite, record: Record, folder: Path, *, retrain: bool, device: str | None, announce: Announce | None
) -> Replay:
    where = resolve_device(device or str(record.environment.get("device", "auto")))
    splits = load(suite.dataset, seed=suite.seed)
    layout = plan(suite, where, splits)
    cell = _planned(layout, record, folder)
    others = other_rules(record, replace(record, **facts_of(layout.resolver.game(cell)), version=VERSION))
    rules = others if cell.key != record.key else ""  # of one key there is one game: then the record is wrong
    changed = (*_changes(record, cell, environment(where, layout.suite.threads)), *([rules] if rules else []))
    if announce is not None:
        announce(record, changed)
    with tempfile.TemporaryDirectory(prefix="robustsuite-replay-") as scratch:
        room = Path(scratch)
        copied = set() if retrain else _lend(folder / MODELS, room / MODELS)
        worker = Worker(layout.resolver, room, where, Store(room / ".cache"), splits)
        # What failed may end the process that it runs in.
        engine = partial(local, worker, 1, apart=record.status == "error")
        outcome = PlanRun(replace(layout, cells=(cell,)), worker).play(engine)
        (repeated,) = outcome.records
        weights = (file for file in (room / MODELS).glob("*.json") if not file.is_symlink())
        trained = sum(file.name not in copied for file in weights)
        wrong = [Deviation("rules", record.rules, others)] if others and not rules else []
        figures = _unequal(_figures(record), _figures(repeated))
        differences = (*wrong, *figures, *_samples(folder, record, room, repeated))
    return Replay(record, repeated, changed, differences, trained, outcome.mishaps, rules)


def find(records: Sequence[Record], key: str, folder: Path) -> Record:
    """The record of this key, or the only one whose key begins so.

    Raises:
        RequestError: None, or several; the message names the nearest.
    """
    found = [record for record in records if record.key == key] or [r for r in records if r.key.startswith(key)]
    if len(found) == 1:
        return found[0]
    if found:
        raise checks.fail("a key that only one record has", "key", key, f"write more of it: {_listed(found)}")
    begins = difflib.get_close_matches(key, {record.key[: len(key)] for record in records}, n=3, cutoff=0.5)
    near = [record for record in records if record.key[: len(key)] in begins]
    if not records:
        raise checks.fail("a folder with records.jsonl", "folder", str(folder), "name the folder of a run")
    hint = f"did you mean {_listed(near)}?" if near else f"keys stand in {folder / 'results.csv'}"
    raise checks.fail(f"the key of a record in {folder}", "key", key, hint)


def _listed(found: Sequence[Record]) -> str:
    told = [f"{record.key} ({called(record)})" for record in found[:_SHOWN]]
    return ", ".join(told) + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")


def called(record: Record) -> str:
    """The labels of a record, for people.

    Example:
        >>> names = dict(suite="s", dataset="d", model="m", defense="none", attack="pgd", scenario="evasion")
        >>> called(Record(key="k", order=0, radius=0.25, repeat=1, **names))
        'none x pgd at 0.25, repeat 1'
    """
    radius = "" if record.radius is None else f" at {record.radius:g}"
    return f"{record.defense} x {record.attack}{radius}" + (f", repeat {record.repeat}" if record.repeat else "")


def _planned(layout: Plan, record: Record, folder: Path) -> Cell:
    """The cell of this key, or, where the surroundings differ, of these labels."""
    for cell in layout.cells:
        if cell.key == record.key:
            return cell
    alike = [cell for cell in layout.cells if _alike(cell, record)]
    if not alike:
        raise checks.fail(
            f"a suite that plans {called(record)}", "suite", str(folder / "suite.yaml"), "it changed since that run"
        )
    return min(alike, key=lambda cell: cell.order != record.order)


def _alike(cell: Cell, record: Record) -> bool:
    labels = (cell.defense.label, cell.attack.label, cell.repeat) == (record.defense, record.attack, record.repeat)
    there = record.radius is None or cell.threat is None or cell.threat.ball.radius == record.radius
    return labels and there and cell.curve == bool(record.sweep)


def _changes(record: Record, cell: Cell, now: Mapping[str, Any]) -> Iterator[str]:
    """In what the surroundings differ, as far as the record tells."""
    then = record.environment
    for place, before, after in (("", then, now), ("", then.get("versions", {}), now["versions"])):
        for name, value in after.items():
            if name not in ("versions", "revision", "code") and name in before and before[name] != value:
                yield f"{place}{name} was {before[name]}, and is {value}"
    if cell.key == record.key:
        return
    if "code" in then and then["code"] != now["code"]:
        yield f"the suite's code is another (revision {then.get('revision') or '?'}, now {now['revision'] or '?'})"
    yield "its key is another now: the suite file, the data, a plug-in or what is named above changed"


def _lend(kept: Path, room: Path) -> set[str]:
    """Let the repetition read the run's weights; returns the names of what had to be copied."""
    room.mkdir(parents=True)
    copied = set()
    for file in kept.glob("*") if kept.is_dir() else ():
        if file.suffix not in (".json", ".safetensors"):
            continue
        try:
            (room / file.name).symlink_to(file.resolve())
        except OSError:  # not every system lets everybody link
            shutil.copyfile(file, room / file.name)
            copied.add(file.name)
    return copied


def _figures(record: Record) -> dict[str, Any]:
    """What a repetition gives again: status, flags, headline, metrics and counted passes; times aside."""
    facts: dict[str, Any] = {"status": record.status, "headline": record.headline, "flags": sorted(record.flags)}
    facts["error"] = "".join(record.message.strip().splitlines()[-1:]) if record.status == "error" else ""
    for name, metric in record.metrics.items():
        if metric.unit not in _TIMES:
            # As lines hold them: of what is not finite, none equals itself.
            facts |= {f"{name} ({part})": value for part, value in plain(asdict(metric)).items()}
    return {**facts, **record.cost}


def _unequal(recorded: Mapping[str, Any], repeated: Mapping[str, Any]) -> Iterator[Deviation]:
    for what in dict.fromkeys((*recorded, *repeated)):
        if recorded.get(what) != repeated.get(what):
            yield Deviation(what, recorded.get(what), repeated.get(what))


def _samples(folder: Path, record: Record, room: Path, repeated: Record) -> Iterator[Deviation]:
    """Per-sample columns, row by row."""
    now = record_files.load_samples(room, repeated)
    try:
        before = record_files.load_samples(folder, record)
    except RequestError as error:
        yield Deviation("per-sample file", str(error), f"{len(now)} columns")
        before = _unchecked(folder / record.samples)
        if not before:
            return
    yield from _unequal({"per-sample columns": sorted(before)}, {"per-sample columns": sorted(now)})
    for name in sorted(before.keys() & now.keys()):
        yield from _column(name, before[name], now[name], before.get("id"))


def _unchecked(path: Path) -> dict[str, Tensor]:
    """What can be read of a per-sample file that is not as its record describes it."""
    from safetensors import SafetensorError
    from safetensors.torch import load as load_tensors

    try:
        return dict(load_tensors(path.read_bytes()))
    except (OSError, SafetensorError):
        return {}


def _column(name: str, before: Tensor, now: Tensor, ids: Tensor | None) -> Iterator[Deviation]:
    what = f"column {name}"
    if before.shape != now.shape or before.dtype != now.dtype:
        yield Deviation(what, f"{before.dtype} {tuple(before.shape)}", f"{now.dtype} {tuple(now.shape)}")
        return
    other = (before != now) & ~((before != before) & (now != now))  # what is not a number equals itself here
    rows = other.reshape(len(other), -1).any(1).nonzero()[:, 0] if other.dim() else other.reshape(1).nonzero()[:, 0]
    if len(rows):
        named = rows if ids is None or len(ids) != len(before) else ids[rows]
        yield Deviation(what, "", "", tuple(int(i) for i in named))
