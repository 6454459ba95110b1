"""An evaluation as a suite: what the command judged, written so that it runs again and gives the same figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import ValidationError
from torch import nn

from robustsuite.core import checks
from robustsuite.core.ball import Ball
from robustsuite.core.deadline import in_words
from robustsuite.core.errors import RequestError
from robustsuite.core.gate import Gate
from robustsuite.core.samples import Samples
from robustsuite.data.catalogue import DatasetSpec
from robustsuite.evaluation.records import EVALUATION, Record
from robustsuite.evaluation.resolve import CLEAN, arrange_all, labels
from robustsuite.evaluation.user_model import existing
from robustsuite.models.checkpoint import save
from robustsuite.models.wrap import Wrapped
from robustsuite.plugins import registry
from robustsuite.plugins.expressions import parse_call
from robustsuite.storage.files import write_atomically
from robustsuite.suite.plugin_options import LABEL
from robustsuite.suite.problems import from_pydantic
from robustsuite.suite.schema import Suite
from robustsuite.suite.validation import inconsistencies

FILE: Final = "suite.yaml"
WEIGHTS: Final = "models/evaluated.safetensors"


@dataclass(frozen=True)
class Request:
    """What was asked of an evaluation.

    Args:
        model: The `model` block of a suite.
        dataset: Which data; `test` is how many of them were judged at most.
        attacks: As they were typed.
        ball: The threat, where there is one.
        gates: What the report must pass.
        seed: Keys everything random.
        plugins: Plug-in files.
        beside: Other data that games were given, by what they are to them.
    """

    model: Mapping[str, Any]
    dataset: DatasetSpec
    attacks: Sequence[str]
    ball: Ball | None
    gates: Sequence[Gate] = ()
    seed: int = 0
    plugins: Sequence[str] = ()
    beside: Mapping[str, DatasetSpec] = field(default_factory=dict)


def write_where_possible(
    folder: Path, request: Request, network: nn.Module, test: Samples, records: Iterable[Record]
) -> str:
    """Write `suite.yaml`, and the weights where no checkpoint holds them.

    Args:
        folder: The evaluation's folder; an earlier suite there is removed.
        request: What was asked.
        network: The model that was judged.
        test: The samples that it was judged on.
        records: What came out.

    Returns:
        Why no suite can say this, and nothing was written; else nothing.
    """
    (folder / FILE).unlink(missing_ok=True)
    try:
        _refuse_what_differs(request, records)
        _write(folder, request, network, test)
    except RequestError as error:
        return str(error)
    return ""


def _write(folder: Path, request: Request, network: nn.Module, test: Samples) -> None:
    victim = existing(network, test)
    dataset = replace(request.dataset, test=len(test))
    if victim.test.classes != test.classes:
        if dataset.name != "npz":
            wish = f"a model of the {test.classes} classes of its data"
            raise checks.fail(wish, "classes", victim.test.classes, "no suite can say so of these data")
        dataset = replace(dataset, classes=victim.test.classes)
    model = dict(request.model)
    if "checkpoint" not in model:
        _keep(network, folder / WEIGHTS)
        model["checkpoint"] = (folder / WEIGHTS).as_posix()
    write_atomically(folder / FILE, as_suite(replace(request, model=model, dataset=dataset)).to_yaml().encode())


def as_suite(request: Request) -> Suite:
    """The suite that plays the same games on the same samples, with as many threads as are in use here.

    Raises:
        RequestError: The suite would be refused.
    """
    attacks = _attacks(request.attacks, request.ball)
    threat = {} if request.ball is None else {"norm": request.ball.norm, "radius": request.ball.radius}
    values: dict[str, Any] = {
        "name": EVALUATION,
        "seed": request.seed,
        "threads": torch.get_num_threads(),
        "plugins": list(request.plugins),
        "dataset": request.dataset,
        "model": dict(request.model),
        "threat": {**threat, "curve_samples": 0},
        "attacks": attacks,
        "gates": [gate.written() for gate in request.gates],
    }
    try:
        suite = Suite.model_validate(values)
        problems = inconsistencies(suite)
    except ValidationError as error:
        problems = from_pydantic(error, Suite)
    if problems:
        raise RequestError("; ".join(problem.message for problem in problems))
    return suite


def _attacks(typed: Sequence[str], ball: Ball | None) -> list[Any]:
    """The attacks as a suite writes them, labelled as the records of the evaluation are.

    Raises:
        RequestError: An attack whose label no suite can hold.
    """
    games = arrange_all(typed, ball, {})
    names = dict(zip((id(game) for game in games), labels(games), strict=True))
    written: list[Any] = []
    for text, game in zip((t for t in typed if parse_call(t)[0] != CLEAN), games[1:], strict=True):
        name, options = parse_call(text)
        label = names[id(game)]
        if not LABEL.fullmatch(label):
            raise checks.fail("attacks that a suite can label", "attack", label, "it is too long, or holds a '+'")
        written.append({name: {**options, **({} if label == name else {"label": label})}})
    return written


def _refuse_what_differs(request: Request, records: Iterable[Record]) -> None:
    """What is known beside the test samples is the training part in a suite, and a part of them has no word there."""
    for name in request.beside:
        raise checks.fail(
            "no other data", f"{name}_data", request.beside[name].name, "a suite has those of its data set"
        )
    for record in records:
        if record.budget:
            remedy = "a suite judges all of its samples, whatever time that takes"
            raise checks.fail("no limit of time", "budget", in_words(record.budget["seconds"]), remedy)
        played = [step.get("attack", "") for step in record.review.get("played", ())]
        follow_ups = [name for name in played if any(e.name == name for e in registry.attacks.all())]
        learning = [name for name in follow_ups if registry.attacks.get(name).access == "transfer"]
        if record.knowledge == "transfer" or learning:
            name = record.attack if record.knowledge == "transfer" else learning[0]
            remedy = "it learns from data that an adversary holds, and a suite has others: its training data"
            raise checks.fail("attacks that learn from no data", "attack", name, remedy)


def _keep(network: nn.Module, path: Path) -> None:
    while isinstance(network, Wrapped):
        network = network.model
    if not all(isinstance(value, torch.Tensor) for value in network.state_dict().values()):
        kind = type(network).__name__
        raise checks.fail("weights that are all tensors", "model", kind, "give the weights by --checkpoint")
    save(network, path)
