"""The Python side: `evaluate` a model that exists, `perturb` a batch, `run` a suite."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from robustsuite import checks, registry
from robustsuite.benchmark.blanks import blank_records
from robustsuite.benchmark.existing import existing
from robustsuite.benchmark.games import CLEAN, AttackLike, Game, arrange_all, ask_for_what_is_missing, resolve
from robustsuite.benchmark.judging import judge
from robustsuite.benchmark.records import Record
from robustsuite.data.coerce import as_labels
from robustsuite.data.copies import lent
from robustsuite.expressions import parse_call
from robustsuite.isolation import seeded, untouched, weights_lent
from robustsuite.processor import fair_threads
from robustsuite.protocol import Victim, moves
from robustsuite.refusing import check
from robustsuite.registry import DEFAULT_ATTACKS, Entry
from robustsuite.report.report import Report
from robustsuite.scenarios import game, has_norm
from robustsuite.scenarios.engine import PRECISIONS, TRIAL, FastPasses
from robustsuite.scenarios.views import Inputs, Known, Meter, make_view
from robustsuite.serving import Deployed
from robustsuite.streams import Streams
from robustsuite.threat import Ball, BallLike, Threat, as_ball
from robustsuite.training.precision import settled
from robustsuite.training.recipe import Recipe

_BATCH: Final = 128


def attack(name: str, /, **options: Any) -> Any:
    """An attack by name, with its options checked.

    Args:
        name: A registered name, `art:NAME`, or an expression such as `"pgd(steps=5)"`.
        **options: The attack's own options.

    Raises:
        RequestError: An unknown name or option, or an impossible value.

    Example:
        >>> attack("pgd", steps=5) == attack("pgd(steps=5)")
        True
    """
    return _made(registry.attacks, name, options)


def defense(name: str, /, **options: Any) -> Any:
    """A defence by name, with its options checked.

    Args:
        name: A registered name, or an expression such as `"dp-sgd(epsilon=3.0)"`.
        **options: The defence's own options.

    Raises:
        RequestError: An unknown name or option, or an impossible value.
    """
    return _made(registry.defenses, name, options)


def _made(plugins: registry.Registry, text: str, options: Mapping[str, Any]) -> Any:
    name, written = parse_call(text)
    twice = sorted(set(written) & set(options))
    if twice:
        raise checks.fail("each option once", twice[0], options[twice[0]], f"it also stands in {text!r}")
    return plugins.get(name).make({**written, **options})


def evaluate(
    model: nn.Module | Deployed,
    data: Any,
    attacks: AttackLike | Sequence[AttackLike] = DEFAULT_ATTACKS,
    threat: BallLike | Threat | None = None,
    *,
    seed: int = 0,
    device: str = "auto",
    classes: int | None = None,
    train: Any = None,
    public: Any = None,
    recipe: Recipe | None = None,
    name: str = "model",
    dataset: str | Mapping[str, Any] = "",
    rules: Mapping[str, Any] | None = None,
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
            given more than once is told apart by its options, or by a number. By default `adaptive`.
        threat: The ball in which evasion attacks must stay, `("linf", 8 / 255)` or a `Ball`, or a whole `rs.Threat`.
        seed: Keys every random draw; at least 0.
        device: `auto` uses the device that the model is on; on another one a copy is evaluated.
        classes: Number of classes; by default what the model's logits say.
        train: What the model was trained on, for games that need it.
        public: Data that an adversary may know, for games that need them.
        recipe: How the model was trained, for games that train again.
        name: What tables call the model.
        dataset: What tables call the data, or what is known of them, such as `{"name": "faces", "path": "faces.npz"}`;
            it stands in every record, beside their number and digest.
        rules: Rules of the games, such as `query_budget`, `draws` or `batch_size`.
        progress: Told what is played, how many games are done, and how many there are.

    Returns:
        A report whose `frame` is tidy and whose `table()` compares. Per-sample files lie in a temporary folder that
        goes with it; `save` keeps them.

    Raises:
        RequestError: Data or a request that cannot be judged; the message says how to mend it.
        ModelError: Outputs that are no finite logits, or a model that fails.
    """
    seed = checks.integer("seed", seed, low=0)
    classes = None if classes is None else checks.integer("classes", classes, low=2)
    with fair_threads(), seeded(seed):
        games = arrange_all(attacks, threat, rules or {})
        ball = threat.ball if isinstance(threat, Threat) else threat
        victim = existing(
            model, data, ball=ball, device=device, classes=classes, seed=seed, train=train, public=public, recipe=recipe
        )
        ask_for_what_is_missing(games, victim)
        _ = victim.clean  # every answer is looked at before the first attack
        told = {"name": dataset} if isinstance(dataset, str) else dataset
        note = "" if recipe is None else settled(recipe.training, victim.device)[1]
        return _played(games, victim, blank_records(games, victim, name, seed, told, note), progress)


def _played(
    games: Sequence[Game],
    victim: Victim,
    blanks: Sequence[Record],
    progress: Callable[[str, int, int], None] | None,
) -> Report:
    folder = Path(tempfile.mkdtemp(prefix="robustsuite-"))
    try:
        records = []
        for blank, game in zip(blanks, games, strict=True):
            if progress is not None:
                what = "measuring clean accuracy" if game.entry.name == CLEAN else f"playing {blank.attack}"
                progress(what, blank.order, len(games))
            records.append(judge(blank, lambda made=game: made[1:], lambda: victim, folder))  # type: ignore[misc]
        if progress is not None:
            progress("finished", len(games), len(games))
        report = Report(records, folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(report, shutil.rmtree, folder, ignore_errors=True)
    return report


def perturb(
    attack: AttackLike,
    model: nn.Module | Deployed,
    x: Tensor,
    y: Tensor,
    ball: BallLike,
    *,
    seed: int = 0,
    target: Tensor | None = None,
    batch_size: int = _BATCH,
    precision: str = "reference",
) -> Tensor:
    """Run an evasion attack on a batch, whether the model gets it right or not.

    Args:
        attack: A name, an expression such as `"pgd(steps=5)"`, or an attack made by `rs.attack`.
        model: From raw inputs to logits; left exactly as it was.
        x: Inputs `(N, …)` within the bounds that the model declares, else those of the ball, else [0, 1].
        y: Labels `(N,)`.
        ball: Where the result must lie, `("linf", 8 / 255)` or a `Ball`; bounds default to those of the inputs.
        seed: Keys the random draws; at least 0.
        target: Labels `(N,)` to reach, other than `y`; None for an untargeted attack.
        batch_size: Samples at a time; never changes the result.
        precision: `reference`, or `fast` for gradients in bfloat16 where the hardware has units for it.

    Returns:
        Inputs `(N, …)` in the dtype and on the device of `x`, without a graph; numbers that the model's dtype has, and
        whole ones where `x` holds integers. Nothing is judged.

    Raises:
        RequestError: Another kind of attack, a norm that it does not have, or inputs, labels or targets that cannot be
            attacked.
        ModelError: Outputs that are no finite logits, or a model that fails.
    """
    seed = checks.integer("seed", seed, low=0)
    batch_size = checks.integer("batch_size", batch_size, low=1)
    checks.one_of("precision", precision, PRECISIONS)
    ball = as_ball(ball)
    entry, options = resolve(attack)
    if entry.scenario != "evasion":
        raise checks.fail("an evasion attack", "attack", entry.name, f"{entry.scenario} is played by rs.evaluate")
    has_norm(entry, ball.norm)
    made = entry.make(options) if isinstance(attack, str) else checks.settled(attack)
    streams, meter = Streams(seed).child("attack"), Meter()
    with fair_threads(), seeded(streams.key), torch.inference_mode(False):
        victim = existing(model, (x, y), ball=ball, seed=seed)
        check(made, game(entry, Threat(ball=ball), {}), victim.test, targeted=target is not None)
        wanted = None if target is None else _targets(target, victim)
        network, who = victim.model.network, f"attack={entry.name!r}"
        with lent(who, victim.test), weights_lent(network, who), untouched(network):
            engine = _engine(victim, batch_size, precision) if entry.access == "white-box" else None
            known = Known((victim.public or victim.test).copy()) if entry.access == "transfer" else None
            views = (
                _view(entry, victim, ball, slice(start, start + batch_size), wanted, meter, engine, known)
                for start in range(0, len(victim.test), batch_size)
            )
            found = [_given(seen, moved) for view in views for seen, moved in moves(made, view, streams)]
    moved = torch.cat(found)
    return moved.to(x.device, x.dtype) if isinstance(x, Tensor) else moved.cpu()


def _given(view: Inputs, moved: Tensor) -> Tensor:
    """What the network is given for an attack's result."""
    return view.given(moved.detach(), torch.arange(len(moved), device=moved.device))


def _targets(target: Any, victim: Victim) -> Tensor:
    wanted = torch.as_tensor(target).cpu()
    if wanted.shape != victim.test.y.shape:
        expected = f"a target for each of {len(victim.test)} samples"
        raise checks.fail(expected, "target.shape", tuple(wanted.shape), "pass labels (N,)")
    wanted = as_labels(wanted, "target")
    checks.labels("target", wanted, victim.test.classes)
    same = (wanted == victim.test.y).nonzero()[:, 0]
    if len(same):
        index = int(same[0])
        remedy = f"y[{index}] is that label: {len(same)} of {len(wanted)} samples would have nothing to reach"
        raise checks.fail("targets other than the labels", f"target[{index}]", int(wanted[index]), remedy)
    return wanted.to(victim.device, torch.int64)


def _engine(victim: Victim, batch_size: int, precision: str) -> FastPasses:
    some = victim.test.batch(slice(0, TRIAL), victim.device).x.clone()
    some = victim.given(some)
    return FastPasses(victim.model.surrogate(), some, precision=precision, most=batch_size)


def _view(
    entry: Entry,
    victim: Victim,
    ball: Ball,
    rows: slice,
    target: Tensor | None,
    meter: Meter,
    engine: FastPasses | None,
    known: Known | None,
) -> Inputs:
    batch = victim.test.batch(rows, victim.device)
    common = {
        "x": victim.given(batch.x),
        "y": batch.y,
        "ids": batch.ids,
        "ball": ball.within(victim.test.bounds),
        "classes": victim.test.classes,
        "target": None if target is None else target[rows],
        "meter": meter,
        "closest": entry.minimum_norm,
        "grid": victim.grid,
    }
    return make_view(entry.access, victim.model, common, engine=engine, known=known)


def run(
    suite: str | Path | None = None,
    out: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    plugins: Sequence[str] = (),
    **options: Any,
) -> Report:
    """Run a suite file or a built-in suite.

    Args:
        suite: A path, the name of a built-in suite, or None for `quickstart`.
        out: Folder of the run; by default `runs/<name>`. A run that was interrupted there goes on.
        overrides: Keys of the suite to set, each as `"a.b=c"` with the value in YAML.
        plugins: Plug-in files to load.
        **options: As in `robustsuite.benchmark.runner.run`: workers, device, fresh, progress.

    Returns:
        The report, its files written.

    Raises:
        RequestError: The suite is wrong, and nothing was started; the message names file, line, key and value.
    """
    from robustsuite.benchmark.runner import run as run_suite
    from robustsuite.benchmark.suite import load_suite
    from robustsuite.report.files import write

    loaded = load_suite(suite, list(overrides), list(plugins))
    outcome = run_suite(loaded, Path(out) if out is not None else Path("runs") / loaded.name, **options)
    write(outcome.folder)
    return Report.load(outcome.folder)
