"""A model whose output was not declared: probabilities are told from logits, and read as their logarithms."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from robustsuite.core.deployed import Deployed, Served, ask
from robustsuite.core.isolation import seeded, untouched
from robustsuite.core.samples import Samples
from robustsuite.core.suspicions import RESOLVED, Suspicion
from robustsuite.models.probabilities import are_probabilities, rounded_to
from robustsuite.models.wrap import wrap

_TRIED: Final = 8  # samples that are looked at first
_LOST: Final = 0.1  # share of samples of which all but one probability may be too small to be told from 0


def as_logits(model: Deployed, samples: Samples, device: str) -> Deployed:
    """The model itself; one whose every answer to these samples is a row of probabilities, by their logarithms.

    Attacks on probabilities see flat gradients, those on their logarithms the ones of the logits behind. The doubt
    `probabilities` stands in what is deployed: settled where the logarithms hold what the logits held, open where
    rounding, to decimals or to what the dtype can tell from 0, has left steps in which gradients vanish.

    Args:
        model: Whatever is deployed; only a network that answers everything is looked at.
        samples: Inputs to look at, all of them where the first few answers are probabilities.
        device: Where the model is.
    """
    if not isinstance(model, Served):
        return model
    dtype = model.dtype
    lost, decimals = 0, True
    with untouched(model.network), seeded(0), torch.no_grad():
        first = ask(model, samples.batch(slice(0, _TRIED), device).x.to(dtype)).logits
        if not isinstance(first, Tensor) or not are_probabilities(first):
            return model
        for batch in samples.batches(256, device):
            answer = ask(model, batch.x.to(dtype)).logits
            if not are_probabilities(answer):
                return model
            decimals = decimals and rounded_to(answer) > 0
            lost += int((answer.topk(2, dim=1).values[:, 1] < torch.finfo(answer.dtype).tiny).sum())
    code = Suspicion.PROBABILITIES.value
    if not decimals and lost <= _LOST * len(samples):
        code = RESOLVED + code
    return Served(wrap(model.network, output="probabilities", bounds=samples.bounds), doubts=(code,))
