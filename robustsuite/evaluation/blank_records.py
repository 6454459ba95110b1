"""Records of an evaluation before its games are played."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from robustsuite.core import checks
from robustsuite.core.canonical import digest, plain
from robustsuite.core.version import __version__
from robustsuite.evaluation.environment import environment
from robustsuite.evaluation.records import EVALUATION, Record
from robustsuite.evaluation.resolve import CLEAN, Game, facts_of, labels
from robustsuite.evaluation.user_model import model_digest
from robustsuite.scenarios.victim import Victim


def blank_records(
    games: Sequence[Game],
    victim: Victim,
    name: str,
    seed: int,
    data: Mapping[str, Any] | None = None,
    note: str = "",
) -> list[Record]:
    """Records of an existing model with everything that is known before the games are played.

    Args:
        games: In the order of the report.
        victim: Whom they are played on.
        name: What tables call the model.
        seed: Keys every random draw.
        data: What is known of the data set beside the samples themselves, its `name` among it.
        note: What each should say besides.

    Raises:
        RequestError: An attack with options that no record can hold.
    """
    training = any(getattr(module, "training", False) for module in victim.model.network.modules())
    told = dict(data or {})
    mode = "the model was in training mode; it was evaluated in eval mode and put back" if training else ""
    common: dict[str, Any] = {
        "suite": EVALUATION,
        "dataset": str(told.get("name") or f"{len(victim.test)} samples"),
        "data": {**told, "digest": victim.test.digest(), "n": len(victim.test)},
        "model": name,
        "defense": "none",
        "seed": seed,
        "message": "; ".join(part for part in (mode, note) if part),
        "environment": environment(victim.device, torch.get_num_threads()),
    }
    place = {"device": victim.device.partition(":")[0], "threads": torch.get_num_threads(), "version": __version__}
    names = {"class_names": list(victim.test.class_names)} if victim.test.class_names else {}
    known = {"model": model_digest(victim.model), "data": victim.test.digest(), "seed": seed, **place}
    return [
        Record(
            key=digest({**known, "label": label, "attack": _plain(game.attack), "game": _plain(game.scenario)}),
            order=order,
            attack=label,
            scenario=game.entry.scenario,
            knowledge="" if game.entry.access == "none" else game.entry.access,
            **facts_of(game),
            **{**common, "data": {**common["data"], **(names if game.entry.name == CLEAN else {})}},
        )
        for order, (label, game) in enumerate(zip(labels(games), games, strict=True))
    ]


def _plain(made: Any) -> dict[str, Any]:
    try:
        return {"name": type(made).__name__, **plain(made)}
    except TypeError as error:
        raise checks.fail("options that a record can hold", "attack", made, str(error)) from error
