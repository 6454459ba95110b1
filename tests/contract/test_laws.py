"""The laws over the whole registry: a new plug-in is tested by being there."""

import pytest

from robustsuite.plugins import registry
from robustsuite.testing import attack_laws, defense_laws

# Options that keep a check quick; the laws hold for the defaults too.
QUICK = {
    "pgd": {"steps": 5},
    "bpda": {"steps": 4, "restarts": 1},
    "deepfool": {"steps": 10},
    "fab": {"steps": 6},
    "fmn": {"steps": 9},
    "ddn": {"steps": 9},
    "carlini-wagner": {"steps": 6},
    "apgd": {"steps": 8},
    "mi-fgsm": {"steps": 4, "diversity": 0.5, "translation": 3, "scales": 2, "nesterov": True},
    "square": {"queries": 30},
    "cascade": {"steps": 4, "targets": 3, "promising": 1, "rounds": 1, "queries": 5},
    "hop-skip-jump": {"queries": 40, "evaluations": 8},
    "transfer": {"samples": 40, "epochs": 1, "steps": 2},
    "autoattack": {"steps": 3, "targets": 1, "queries": 5},
    "model-inversion": {"steps": 15},
    "adversarial-training": {"attack": {"pgd": {"steps": 2}}},
    "trades": {"attack": {"pgd": {"steps": 2}}},
    "mart": {"attack": {"pgd": {"steps": 2}}},
    "dp-sgd": {"epsilon": 8.0, "delta": 1e-3},
}
ATTACKS = [law for entry in registry.attacks.all() for law in attack_laws(entry.name, **QUICK.get(entry.name, {}))]
DEFENSES = [law for entry in registry.defenses.all() for law in defense_laws(entry.name, **QUICK.get(entry.name, {}))]


@pytest.mark.parametrize("law", ATTACKS, ids=str)
def test_attack(law):
    law()


@pytest.mark.parametrize("law", DEFENSES, ids=str)
def test_defense(law):
    law()
