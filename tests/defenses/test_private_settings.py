"""DP-SGD: what is switched off, refused or marked."""

import dataclasses

import pytest
import torch
from private_recipes import recipe

from robustsuite.core.errors import RequestError
from robustsuite.defenses.dp_sgd import DPSGD
from robustsuite.testing import tiny_samples
from robustsuite.training.fit import fit


def test_what_looks_at_private_data_is_switched_off():
    defended = recipe(DPSGD(), validation=0.2, patience=2, keep_best=True, normalise="data")
    t = defended.training
    assert (t.validation, t.patience, t.keep_best, t.normalise) == (0.0, None, False, "bounds")
    assert recipe(DPSGD(), normalise="none").training.normalise == "none"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_weights": "balanced"}, "class_weights='balanced'; balanced weights count private labels"),
        ({"clip": 1.0}, "clip=1.0; max_grad_norm"),
        ({"precision": "bf16-mixed"}, "precision='bf16-mixed'"),
    ],
)
def test_settings_that_privacy_does_not_allow(change, message):
    with pytest.raises(RequestError, match=message):
        recipe(DPSGD(), **change)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 1.0, "noise_multiplier": 1.0}, "one of epsilon and noise_multiplier"),
        ({"epsilon": 0.0}, "epsilon=0.0"),
        ({"delta": 1.0}, "delta=1.0"),
        ({"max_grad_norm": -1.0}, "max_grad_norm=-1.0"),
        ({"accountant": "rpd"}, "did you mean 'rdp'"),
        ({"grad_sample_mode": "hook"}, "did you mean 'hooks'"),
        ({"max_physical_batch": 0}, "max_physical_batch=0"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(RequestError, match=message):
        DPSGD(**options)


def test_delta_must_be_below_one_over_n():
    with pytest.raises(RequestError, match=r"delta=0.01"):
        fit(recipe(DPSGD(delta=0.01)), tiny_samples(100), 0)
    with pytest.raises(RequestError, match=r"batch_size=32"):
        fit(recipe(DPSGD(delta=1e-3)), tiny_samples(31), 0)


@dataclasses.dataclass(frozen=True)
class KeepBright:
    """A filter that looks at every private sample."""

    def __call__(self, samples, streams):
        return samples.take((samples.x.flatten(1).mean(1) > samples.x.mean() - 0.05).nonzero()[:, 0])


def test_a_filter_on_private_data_takes_validity_away():
    defended = dataclasses.replace(recipe(DPSGD(noise_multiplier=1.0, delta=1e-3)), prepare=(KeepBright(),))
    fitted = fit(defended, tiny_samples(100), 0)
    assert fitted.facts["epsilon_valid"] is False
    assert "KeepBright" in fitted.facts["epsilon_reasons"][0]
    assert fitted.flags == ("epsilon-not-valid",)


def test_settings_changed_behind_the_defence_take_validity_away():
    defended = recipe(DPSGD(noise_multiplier=1.0, delta=1e-3))
    defended = dataclasses.replace(defended, training=defended.training.override({"normalise": "data"}))
    fitted = fit(defended, tiny_samples(64), 0)
    assert fitted.flags == ("epsilon-not-valid",)
    assert "normalised" in fitted.facts["epsilon_reasons"][0]


def test_float64():
    fitted = fit(recipe(DPSGD(noise_multiplier=1.0, delta=1e-3), precision="64"), tiny_samples(64), 0)
    assert {p.dtype for p in fitted.network.parameters()} == {torch.float64}
