"""What an evasion adversary may touch: a white-box module, scores, labels, data to learn from, or only the inputs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from robustsuite.access.engine import FastPasses
from robustsuite.access.inputs import Inputs
from robustsuite.access.meter import Counted, Meter
from robustsuite.access.oracles import AuxiliaryData, LabelOracle, ScoreOracle, Transfer
from robustsuite.access.white_box import WhiteBox
from robustsuite.core.deployed import Deployed, Outputs, Served, ask_each, door
from robustsuite.core.errors import ModelError


def make_view(
    access: str,
    deployed: Deployed,
    common: dict[str, Any],
    budget: int | None = None,
    engine: FastPasses | None = None,
    auxiliary: AuxiliaryData | None = None,
) -> Inputs:
    """The view that this access grants; by construction it holds nothing more.

    Args:
        access: `white-box`, `score-based`, `decision-based`, `transfer` or `blind`.
        deployed: The model under attack.
        common: Fields of `Inputs`.
        budget: Queries per sample for an oracle.
        engine: How passes are run; built on the deployed model's surrogate, or on the network that is all of it.
        auxiliary: Data that a transfer adversary holds.
    """
    meter: Meter = common["meter"]
    if access == "white-box":
        surrogate = door(deployed.surrogate())
        # A served network answers by its logits alone, so that one pass tells both its loss and its verdict.
        alone = isinstance(deployed, Served)
        return WhiteBox(**common, model=Counted(surrogate, meter), deployed=deployed, alone=alone, engine=engine)
    answer: Callable[[Tensor], Outputs] = partial(ask_each, deployed, classes=common["classes"], raised=meter.raised)
    if engine is not None:
        answer = _by_engine(engine, meter, answer)
    if access in ("score-based", "transfer"):

        def probabilities(x: Tensor) -> Tensor:
            logits, rejected = answer(x)
            return logits.softmax(1).masked_fill(rejected[:, None], 0.0)

        if access == "transfer":
            return Transfer(**common, answer=probabilities, budget=budget, auxiliary=auxiliary)
        return ScoreOracle(**common, answer=probabilities, budget=budget)
    if access == "decision-based":

        def decide(x: Tensor) -> Tensor:
            answers = answer(x)
            return answers.labels().masked_fill(answers.rejected, -1)

        return LabelOracle(**common, answer=decide, budget=budget)
    return Inputs(**common)


def _by_engine(engine: FastPasses, meter: Meter, plain: Callable[[Tensor], Outputs]) -> Callable[[Tensor], Outputs]:
    """What a served network answers, by way of its faster copy; the plain way where that raises."""

    def answer(x: Tensor) -> Outputs:
        try:
            logits, again = engine.answers(x)
        except ModelError:
            return plain(x)
        meter.forwards += int(again.sum())
        return Outputs(logits, torch.zeros_like(again))

    return answer
