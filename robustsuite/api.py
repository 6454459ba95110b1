"""The Python side: `evaluate` a model that exists, `perturb` a batch, `run` a suite."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from robustsuite import checks, registry
from robustsuite.benchmark.environment import environment, resolve_device
from robustsuite.benchmark.judging import judge
from robustsuite.benchmark.records import Record
from robustsuite.canonical import digest, plain
from robustsuite.data.coerce import to_samples
from robustsuite.data.samples import Samples
from robustsuite.errors import ModelError, RequestError
from robustsuite.expressions import parse_call
from robustsuite.isolation import seeded, untouched
from robustsuite.protocol import Attack, Victim, judgeable, moves
from robustsuite.registry import Entry
from robustsuite.report.report import Report
from robustsuite.scenarios import SCENARIOS, arrange
from robustsuite.scenarios.views import Inputs, Meter, make_view
from robustsuite.serving import Deployed, Served
from robustsuite.streams import Streams
from robustsuite.threat import Ball, Threat
from robustsuite.training.cache import Trainer
from robustsuite.training.recipe import Recipe

if TYPE_CHECKING:
    from robustsuite.protocol import Scenario

AttackLike = str | Attack[Any, Any]
_BATCH = 128


def attack(name: str, /, **options: Any) -> Any:
    """An attack by name, with its options checked.

    Example:
        >>> attack("pgd", steps=5).steps
        5
    """
    return registry.attacks.get(name).make(options)


def defense(name: str, /, **options: Any) -> Any:
    """A defence by name, with its options checked."""
    return registry.defenses.get(name).make(options)


def evaluate(
    model: nn.Module | Deployed,
    data: Any,
    attacks: Sequence[AttackLike],
    threat: Ball | Threat | None = None,
    *,
    seed: int = 0,
    device: str = "auto",
    classes: int | None = None,
    train: Any = None,
    public: Any = None,
    recipe: Recipe | None = None,
    name: str = "model",
    rules: Mapping[str, Any] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Report:
    """Attack a model that already exists, and judge how it held up.

    Args:
        model: From raw inputs `(N, …)` to logits `(N, classes)`; normalisation belongs inside (`rs.wrap`). It is evaluated
            in eval mode, and left exactly as it was.
        data: `(x, y)`, a torch `Dataset`, a `DataLoader` or `Samples`.
        attacks: Names (`"pgd"`, `"pgd(steps=5)"`, `"art:HopSkipJump"`) or attacks made by `rs.attack`.
        threat: The ball in which evasion attacks must stay.
        seed: Keys every random draw.
        device: `auto` uses the device that the model is on; on another one a copy is evaluated.
        classes: Number of classes; by default what the model's logits say.
        train: What the model was trained on, for games that need it.
        public: Data that an adversary may know.
        recipe: How the model was trained, for games that train again.
        name: What tables call the model.
        rules: Rules of the games, such as `query_budget`.
        progress: Told as attacks finish.

    Returns:
        A report whose `frame` is tidy and whose `table()` compares.

    Raises:
        RequestError: Data or a request that cannot be judged; the message says how to mend it.
        ModelError: Outputs that are no logits.
    """
    if not attacks:
        raise checks.fail("at least one attack", "attacks", list(attacks), "name one, such as 'pgd'")
    victim = make_victim(model, data, device, classes, seed, train=train, public=public, recipe=recipe)
    games = [_game(item, threat, rules or {}) for item in attacks]
    _ask_for_what_is_missing(games, victim)
    folder = Path(tempfile.mkdtemp(prefix="robustsuite-"))
    clean = registry.attacks.get("none")
    everything = [("none", clean, partial(arrange, clean, {}, None)), *games]
    labels = _labels([label for label, _, _ in everything])
    records = []
    for order, (label, (_, entry, make)) in enumerate(zip(labels, everything, strict=True)):
        if progress is not None:
            progress(f"playing {label}", order, len(everything))
        record = judge(_blank(order, label, entry, victim, seed, name, make), make, lambda: victim, folder)
        records.append(record)
    return Report(records, folder)


def make_victim(
    model: nn.Module | Deployed,
    data: Any,
    device: str,
    classes: int | None,
    seed: int,
    *,
    train: Any = None,
    public: Any = None,
    recipe: Recipe | None = None,
) -> Victim:
    """Check a model and its data against each other, and put them together."""
    bounds = tuple(getattr(model, "bounds", (0.0, 1.0)))
    samples = to_samples(data, classes=classes, bounds=bounds)
    deployed, where = _place(model, device)
    _finite_weights(deployed.network)
    count = classes if classes is not None else max(_count_classes(deployed, samples, where), 2)
    checks.labels("y", samples.y, count)
    samples = replace(samples, classes=count)
    more = {k: None if v is None else to_samples(v, classes=count, bounds=bounds) for k, v in (("train", train), ("public", public))}
    return Victim(deployed, samples, recipe=recipe, trainer=Trainer(seed, where), device=where, **more)


def _place(model: nn.Module | Deployed, device: str) -> tuple[Deployed, str]:
    if not isinstance(model, (nn.Module, Deployed)):
        raise checks.fail("a torch.nn.Module", "model", type(model).__name__, "wrap the function in a module")
    network = model.network if isinstance(model, Deployed) else model
    at = next((str(p.device) for p in network.parameters()), "cpu")
    where = at if device == "auto" else resolve_device(device)
    if where.partition(":")[0] != at.partition(":")[0]:
        if isinstance(model, Deployed):
            raise checks.fail(f"the device of the deployed model ({at})", "device", device, "move it there first")
        model = copy.deepcopy(model).to(where)
    return (model if isinstance(model, Deployed) else Served(model)), where


def _finite_weights(network: nn.Module) -> None:
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        checks.finite(f"model.{name}", tensor.detach())


def _count_classes(deployed: Deployed, samples: Samples, device: str) -> int:
    dtype = next((p.dtype for p in deployed.network.parameters() if p.is_floating_point()), torch.float32)
    with untouched(deployed.network), torch.no_grad():
        logits = deployed(samples.batch(slice(0, 8), device).x.to(dtype)).logits
    if not isinstance(logits, Tensor):
        raise ModelError(f"expected logits as a tensor, got {type(logits).__name__}; return only the logits")
    judgeable(logits, 2)
    return int(logits.shape[1])


def _game(item: AttackLike, threat: Ball | Threat | None, rules: Mapping[str, Any]) -> tuple[str, Entry, Callable[[], Any]]:
    model = Threat(ball=threat) if isinstance(threat, Ball) else threat
    if isinstance(item, str):
        name, options = parse_call(item)
        entry = registry.attacks.get(name)
        allowed = {k: v for k, v in rules.items() if k in SCENARIOS[entry.scenario].options}
        arrange(entry, {**allowed, **options}, model)
        return name, entry, partial(arrange, entry, {**allowed, **options}, model)
    name = getattr(item, "plugin_name", "")
    if not name:
        raise checks.fail("the name of an attack or a registered one", "attacks", item, "make it by rs.attack(...)")
    entry = registry.attacks.get(name)
    allowed = {k: v for k, v in rules.items() if k in SCENARIOS[entry.scenario].options}
    scenario = SCENARIOS[entry.scenario].arrange(entry.access, model, allowed)
    return name, entry, lambda: (item, scenario)


def _ask_for_what_is_missing(games: Sequence[tuple[str, Entry, Any]], victim: Victim) -> None:
    for label, entry, _ in games:
        for need in SCENARIOS[entry.scenario].needs:
            if getattr(victim, need) is None:
                how = {"train": "pass --train-data (train=... in Python)"}.get(
                    need, "name a training recipe: a suite file, or recipe=... in Python"
                )
                raise RequestError(
                    f"expected a model with its {need} for attack={label!r}, got {need}=None; {entry.scenario} is judged "
                    f"by training again on what the model was trained on: {how}"
                )


def _labels(names: Sequence[str]) -> list[str]:
    """Names, numbered where one occurs again."""
    return [n if names.count(n) == 1 else f"{n}#{names[: i + 1].count(n)}" for i, n in enumerate(names)]


def _blank(
    order: int, label: str, entry: Entry, victim: Victim, seed: int, name: str, make: Callable[[], Any]
) -> Record:
    made, scenario = make()
    test = victim.test
    key = digest(
        {
            "model": _model_digest(victim.model),
            "data": test.digest(),
            "attack": plain(made),
            "scenario": {"is": scenario.name, **plain(scenario)},
            "seed": seed,
            "label": label,
        }
    )
    was_training = "evaluated in eval mode, restored afterwards" if victim.model.network.training else ""
    return Record(
        key=key,
        order=order,
        suite="evaluate",
        dataset=f"{len(test)} samples",
        model=name,
        defense="none",
        attack=label,
        scenario=entry.scenario,
        knowledge="" if entry.access == "none" else entry.access,
        seed=seed,
        message=was_training,
        environment=environment(victim.device, torch.get_num_threads()),
    )


def _model_digest(model: Deployed) -> str:
    import hashlib

    state = hashlib.sha256()
    for name, tensor in model.network.state_dict().items():
        state.update(name.encode())
        state.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return state.hexdigest()[:24]


def perturb(
    attack: AttackLike,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    ball: Ball,
    *,
    seed: int = 0,
    target: Tensor | None = None,
    batch_size: int = _BATCH,
) -> Tensor:
    """Run an evasion attack on a batch, whether the model gets it right or not.

    Args:
        attack: A name or an attack made by `rs.attack`.
        model: From raw inputs to logits; left exactly as it was.
        x: Inputs `(N, …)` within the ball's bounds.
        y: Labels `(N,)`.
        ball: Where the result must lie; bounds default to the model's, else to [0, 1].
        seed: Keys the random draws.
        target: Labels `(N,)` to reach; None for an untargeted attack.
        batch_size: Samples at a time; never changes the result.

    Returns:
        Inputs `(N, …)` in the model's dtype, on the device of `x`, without a graph. Nothing is judged.
    """
    entry_name = parse_call(attack)[0] if isinstance(attack, str) else getattr(attack, "plugin_name", "")
    entry = registry.attacks.get(entry_name)
    if entry.scenario != "evasion":
        raise checks.fail("an evasion attack", "attack", entry_name, "poisoning and inversion are played by rs.evaluate")
    made = entry.make(parse_call(attack)[1]) if isinstance(attack, str) else attack
    victim = make_victim(model, (x, y), "auto", None, seed)
    if target is not None:
        checks.labels("target", target, victim.test.classes)
    streams, meter = Streams(seed).child("attack"), Meter()
    found: list[Tensor] = []
    with untouched(victim.model.network), seeded(streams.key):
        for batch in victim.test.batches(batch_size, victim.device):
            common = {
                "x": batch.x.to(victim.dtype),
                "y": batch.y,
                "ids": batch.ids,
                "ball": ball.within(victim.test.bounds),
                "classes": victim.test.classes,
                "target": None if target is None else target[batch.ids.to(target.device)].to(victim.device),
                "meter": meter,
            }
            view: Inputs = make_view(entry.access, victim.model, common)
            found.extend(artefact.detach() for _, artefact in moves(made, view, streams))
    return torch.cat(found).to(x.device)


def run(suite: str | Path | None = None, out: str | Path | None = None, **options: Any) -> Report:
    """Run a suite file or a built-in suite.

    Args:
        suite: A path, the name of a built-in suite, or None for `quickstart`.
        out: Folder of the run; by default `runs/<name>`.
        **options: As in `robustsuite.benchmark.runner.run`: workers, device, fresh, progress.

    Returns:
        The report, its files written.
    """
    from robustsuite.benchmark.runner import run as run_suite
    from robustsuite.benchmark.suite import load_suite
    from robustsuite.report.files import write

    loaded = load_suite(suite)
    outcome = run_suite(loaded, Path(out) if out is not None else Path("runs") / loaded.name, **options)
    write(outcome.folder)
    return Report.load(outcome.folder)
