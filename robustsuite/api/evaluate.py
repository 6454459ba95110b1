"""`evaluate` a model that exists."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from robustsuite.core import checks
from robustsuite.core.ball import BallLike, Threat
from robustsuite.core.deployed import Deployed
from robustsuite.core.isolation import seeded
from robustsuite.core.processor import fair_threads
from robustsuite.evaluation.blank_records import blank_records
from robustsuite.evaluation.clock import TimeBudget
from robustsuite.evaluation.judge import judge
from robustsuite.evaluation.records import Record
from robustsuite.evaluation.resolve import CLEAN, AttackLike, Game, arrange_all, ask_for_what_is_missing
from robustsuite.evaluation.user_model import existing
from robustsuite.evaluation.within_time import judged_in_time, refuse_other_games
from robustsuite.report.report import Report
from robustsuite.scenarios.victim import Victim
from robustsuite.training.precision import settled
from robustsuite.training.recipe import Recipe


def evaluate(
    model: nn.Module | Deployed,
    data: Any,
    attacks: AttackLike | Sequence[AttackLike] | None = None,
    threat: BallLike | Threat | None = None,
    *,
    seed: int = 0,
    device: str = "auto",
    classes: int | None = None,
    train: Any = None,
    public: Any = None,
    recipe: Recipe | None = None,
    trusted: Any = None,
    calibration: Any = None,
    name: str = "model",
    dataset: str | Mapping[str, Any] = "",
    rules: Mapping[str, Any] | None = None,
    budget: float | str | TimeBudget | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Report:
    """Attack a model that already exists, and judge how it held up.

    The model, its mode, gradients and buffers, the inputs and the global random state are left as they were. An attack
    that raises becomes a record with status `error`, and the others go on.

    Args:
        model: From raw inputs `(N, …)` to logits `(N, classes)`; normalisation belongs inside (`rs.wrap`). It is
            evaluated in eval mode.
        data: `(x, y)`, a torch `Dataset`, a `DataLoader` or `Samples`. Inputs lie within the bounds that the model
            declares (`rs.wrap(model, bounds=...)`), else those of the samples or the ball, else [0, 1].
        attacks: Names (`"pgd"`, `"pgd(steps=5)"`, `"art:HopSkipJump"`) or attacks made by `rs.attack`. The same one
            given more than once is told apart by its options, or by a number. By default `cascade`.
        threat: The ball in which evasion attacks must stay, `("linf", 8 / 255)` or a `Ball`, or a whole `rs.Threat`.
        seed: Keys every random draw; at least 0.
        device: `auto` uses the device that the model is on; on another one a copy is evaluated.
        classes: Number of classes; by default what the model's logits say.
        train: What the model was trained on, for games that need it.
        public: Data of the same kind that it was not trained on, for games that need them: of each class one half is
            the adversary's (surrogates), the other the judge's (evaluators).
        recipe: How the model was trained, for games that train again.
        trusted: Clean data, where that recipe repairs.
        calibration: Data for thresholds, where that recipe has detectors.
        name: What tables call the model.
        dataset: What tables call the data, or what is known of them, such as `{"name": "faces", "path": "faces.npz"}`;
            it stands in every record, beside their number and digest.
        rules: Rules of the games, such as `query_budget`, `draws` or `batch_size`.
        budget: Time for all of it, such as `"30s"`, `"10m"` or seconds; or a `TimeBudget`, which may be gone on with.
            Samples are judged in an order that the seed draws until time is up; what was not judged is said, and the
            intervals hold wherever it stopped. For evasion attacks alone.
        progress: Told what is played, how many games are done, and how many there are; within a budget, samples.

    Returns:
        A report whose `frame` is tidy and whose `table()` compares. Per-sample files lie in a temporary folder that
        goes with it; `save` keeps them.

    Raises:
        RequestError: Data or a request that cannot be judged; the message says how to mend it.
        ModelError: Outputs that are no finite logits, or a model that fails.
    """
    seed = checks.integer("seed", seed, low=0)
    limit = budget if budget is None or isinstance(budget, TimeBudget) else TimeBudget(budget)
    classes = None if classes is None else checks.integer("classes", classes, low=2)
    with fair_threads(), seeded(seed):
        games = arrange_all(attacks, threat, rules or {})
        ball = threat.ball if isinstance(threat, Threat) else threat
        beside = {"train": train, "public": public, "trusted": trusted, "calibration": calibration}
        known: dict[str, Any] = {"ball": ball, "device": device, "classes": classes, "seed": seed, "recipe": recipe}
        if limit is not None:
            refuse_other_games(games)
        victim = existing(model, data, **known, **beside)
        ask_for_what_is_missing(games, victim)
        told = {"name": dataset} if isinstance(dataset, str) else dataset
        note = "" if recipe is None else settled(recipe.training, victim.device)[1]
        if limit is not None:
            whole: dict[str, Any] = {"seed": seed, "progress": progress, "name": name, "data": told, "note": note}
            return _reported(lambda folder: judged_in_time(games, victim, limit, folder, **whole), limit.keep)
        _ = victim.clean  # every answer is looked at before the first attack
        blanks = blank_records(games, victim, name, seed, told, note)
        return _reported(lambda folder: _played(games, victim, blanks, folder, progress))


def _played(
    games: Sequence[Game],
    victim: Victim,
    blanks: Sequence[Record],
    folder: Path,
    progress: Callable[[str, int, int], None] | None,
) -> list[Record]:
    records = []
    for blank, game in zip(blanks, games, strict=True):
        if progress is not None:
            what = "measuring clean accuracy" if game.entry.name == CLEAN else f"playing {blank.attack}"
            progress(what, blank.order, len(games))
        records.append(judge(blank, game, victim, folder))
    if progress is not None:
        progress("finished", len(games), len(games))
    return records


def _reported(make: Callable[[Path], list[Record]], keep: Path | str | None = None) -> Report:
    """The records that are made in a folder; in a temporary one, which goes with the report, where none is to be kept.

    Args:
        make: Given the folder, plays.
        keep: A folder that stays.
    """
    if keep is not None:
        return Report(make(Path(keep)), keep)
    folder = Path(tempfile.mkdtemp(prefix="robustsuite-"))
    try:
        report = Report(make(folder), folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(report, shutil.rmtree, folder, ignore_errors=True)
    return report
