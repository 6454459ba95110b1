"""Lists in a suite: one variant for each value, with a label of its own; every mistake with its line."""

from pathlib import Path

import loading
import pytest
from loading import labels

from robustsuite.core.ball import Ball
from robustsuite.suite.load import load_suite

pytestmark = pytest.mark.usefixtures("working_folder")
HEAD = """\
name: demo
dataset: {name: digits, test: 100}
model: {name: mlp, hidden: [16]}
"""
THREAT = "threat: {norm: linf, radius: 8/255}\n"
RADII = "threat: {norm: linf, radius: [2/255, 4/255, 8/255]}\n"
NORMS = "threat: [{norm: linf, radius: [0.1, 0.2]}, {norm: l2, radius: 0.5}]\n"


def load(text, *overrides):
    return loading.load(HEAD + text, *overrides)


def refusal(text, *overrides):
    return loading.refusal(HEAD + text, *overrides)


# --- attacks: rules of the game and their own options


def test_a_rule_of_the_game_is_swept():
    uses = load("attacks: [{badnets: {fraction: [0.001, 0.01, 0.1], size: 2}}]").attacks
    assert labels(uses) == ["badnets(fraction=0.001)", "badnets(fraction=0.01)", "badnets(fraction=0.1)"]
    assert [use.rules["fraction"] for use in uses] == [0.001, 0.01, 0.1]
    assert {use.options["size"] for use in uses} == {2}
    assert uses[0].variant == {"of": "badnets", "at": {"fraction": 0.001}}


def test_its_own_label_stands_before_the_values():
    uses = load("attacks: [{badnets: {label: backdoor, fraction: [0.1, 0.2]}}, fgsm]\n" + THREAT).attacks
    assert labels(uses) == ["backdoor(fraction=0.1)", "backdoor(fraction=0.2)", "fgsm"]


def test_two_lists_give_their_product():
    uses = load(THREAT + "attacks: [{pgd: {steps: [5, 10], loss: [cross-entropy, dlr]}}]").attacks
    assert labels(uses) == [
        "pgd(steps=5,loss=cross-entropy)",
        "pgd(steps=5,loss=dlr)",
        "pgd(steps=10,loss=cross-entropy)",
        "pgd(steps=10,loss=dlr)",
    ]
    assert [(use.options["steps"], use.options["loss"]) for use in uses][2] == (10, "cross-entropy")


def test_an_option_that_is_itself_a_list_is_no_sweep():
    (use,) = load("defenses: [{input-validation: {detectors: [range, feature-squeezing]}}]").defenses
    assert use.label == "input-validation"
    assert use.parts[0].options["detectors"] == ["range", "feature-squeezing"]


def test_a_rule_that_the_game_does_not_sweep_is_refused_by_name():
    said = refusal(THREAT + "attacks:\n  - pgd: {steps: 3, batch_size: [10, 20]}\n")
    assert "s.yaml:6: attacks[0].pgd.batch_size: expected one value, got batch_size=[10, 20]" in said
    assert "evasion sweeps radius and query_budget" in said


def test_a_bad_value_is_told_at_its_place_in_the_list():
    said = refusal("attacks:\n  - badnets:\n      fraction:\n        - 0.1\n        - 7\n")
    assert "s.yaml:8: attacks[0].badnets.fraction[1]: " in said
    assert said.count("s.yaml:") == 1


def test_what_is_wrong_in_every_variant_is_told_once():
    assert refusal("attacks: [{badnets: {fraction: [0.1, 0.2], sise: 3}}]").count("sise=3") == 1


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ("[]", "badnets.fraction: expected at least one value"),
        ("[0.1, 0.2, 0.10]", "badnets.fraction[2]: expected each value once, got fraction=0.1 again"),
        (str([i / 1000 for i in range(1, 66)]), "expected at most 64 variants of one entry, got 65 = 65 of badnets"),
    ],
)
def test_lists_that_cannot_be_swept(values, told):
    assert told in refusal(f"attacks: [{{badnets: {{fraction: {values}}}}}]")


def test_one_value_in_brackets_is_a_sweep_that_can_grow():
    assert labels(load("attacks: [{badnets: {fraction: [0.1]}}]").attacks) == ["badnets(fraction=0.1)"]


# --- defences


def test_a_defence_and_its_training_are_swept():
    uses = load("defenses: [{dp-sgd: {epsilon: [1, 8.0], training: {epochs: [2, 4]}}}, none]").defenses
    assert labels(uses) == [
        "dp-sgd(epsilon=1,training.epochs=2)",
        "dp-sgd(epsilon=1,training.epochs=4)",
        "dp-sgd(epsilon=8,training.epochs=2)",
        "dp-sgd(epsilon=8,training.epochs=4)",
        "none",
    ]
    assert (uses[1].parts[0].options["epsilon"], uses[1].training) == (1.0, {"epochs": 4})
    assert uses[1].variant == {"of": "dp-sgd", "at": {"epsilon": 1.0, "training.epochs": 4}}


def test_parts_of_a_composition_stay_joined():
    uses = load("defenses: [[input-validation, {dp-sgd: {epsilon: [1, 3]}}]]").defenses
    assert labels(uses) == ["input-validation+dp-sgd(epsilon=1)", "input-validation+dp-sgd(epsilon=3)"]
    assert uses[1].variant == {"of": "input-validation+dp-sgd", "at": {"epsilon": 3.0}}


def test_the_undefended_model_is_trained_in_several_ways():
    uses = load("defenses: [{none: {label: bare, training: {epochs: [5, 20]}}}]").defenses
    assert labels(uses) == ["bare(training.epochs=5)", "bare(training.epochs=20)"]
    assert uses[1].variant == {"of": "bare", "at": {"training.epochs": 20}}


def test_problems_found_by_composing_stand_at_the_entry_of_the_file():
    said = refusal("attacks: [{badnets: {fraction: [0.1, 0.2]}}, fgsm]\n")
    assert "attacks[1]: expected a threat for the evasion attack 'fgsm'" in said


# --- radii and norms


def test_every_attack_in_a_ball_is_played_at_every_radius():
    suite = load(RADII + "attacks: [fgsm, {badnets: {fraction: 0.1}}]")
    assert labels(suite.attacks) == ["fgsm(radius=2/255)", "fgsm(radius=4/255)", "fgsm(radius=8/255)", "badnets"]
    assert [use.ball for use in suite.attacks[:3]] == [Ball("linf", k / 255) for k in (2, 4, 8)]
    assert suite.attacks[0].variant == {"of": "fgsm", "at": {"radius": 2 / 255}}


def test_the_suites_own_ball_is_the_first():
    assert load(RADII).threat.ball() == Ball("linf", 2 / 255)
    assert load(NORMS).threat.ball() == Ball("linf", 0.1)


def test_each_norm_has_radii_of_its_own():
    uses = load(NORMS + "attacks: [fgsm]").attacks
    assert labels(uses) == ["fgsm(radius=0.1)", "fgsm(radius=0.2)", "fgsm(norm=l2,radius=0.5)"]
    assert [use.ball for use in uses] == [Ball("linf", 0.1), Ball("linf", 0.2), Ball("l2", 0.5)]


def test_an_attack_is_played_in_the_norms_that_it_has():
    threat = "threat: [{norm: linf, radius: 0.1}, {norm: l1, radius: 5}]\n"
    assert labels(load(threat + "attacks: [deepfool, fgsm]").attacks) == [
        "deepfool(radius=0.1)",
        "fgsm(radius=0.1)",
        "fgsm(norm=l1,radius=5)",
    ]
    said = refusal("threat: {norm: l1, radius: [5, 9]}\nattacks: [deepfool]\n")
    assert "s.yaml:5: attacks[0]" in said
    assert "expected a norm that deepfool has" in said


def test_an_attack_may_have_a_threat_of_its_own():
    suite = load(THREAT + "attacks: [fgsm, {pgd: {threat: {norm: l2, radius: [0.5, 1]}}}]")
    assert labels(suite.attacks) == ["fgsm", "pgd(norm=l2,radius=0.5)", "pgd(norm=l2,radius=1)"]
    assert [suite.ball_of(use) for use in suite.attacks] == [Ball("linf", 8 / 255), Ball("l2", 0.5), Ball("l2", 1.0)]


@pytest.mark.parametrize(
    ("threat", "told"),
    [
        ("{norm: [linf, l2], radius: 0.1}", "each norm with its radius"),
        ("{norm: [linf, l2], radius: [0.1, 0.5]}", "threat.norm: expected one norm a threat"),
        ("{norm: linf, radius: [0.1, -1]}", "threat.radius[1]: expected "),
        ("{norm: linf, radius: [0.1, 1/10]}", "expected each ball once"),
        ("{norm: linf, radius: [0.1, 0.2], curve: [0.3]}", "threat.curve: expected no curve beside a list"),
        ("[{norm: linf, radius: 0.1}, {norm: l2}]", "threat[1]: expected norm and radius together"),
        ("[{norm: linf, radius: 0.1}, {norm: l2, radius: 1, goal: targeted}]", "threat[1].goal: expected a key of"),
        ("[]", "expected at least one threat"),
        ("{norm: linf, radius: []}", "threat.radius: expected at least one value"),
    ],
)
def test_threats_that_cannot_be(threat, told):
    said = refusal(f"threat: {threat}\nattacks: [fgsm]\n")
    assert told in said
    assert "s.yaml:4" in said


# --- gates


def test_a_gate_names_one_variant():
    text = "attacks: [{{badnets: {{fraction: [0.1, 0.2]}}}}]\ngates: ['{}:backdoor_success_rate<=0.5']\n"
    assert len(load(text.format("badnets(fraction=0.2)")).gates) == 1
    said = refusal(text.format("badnets"))
    assert "gates[0].attack: expected the label of an attack that is played, got attack='badnets'" in said
    assert "did you mean 'badnets(fraction=0.2)' or 'badnets(fraction=0.1)'?" in said


# --- what a run writes down


@pytest.mark.parametrize("threat", [THREAT, RADII, NORMS])
def test_the_resolved_suite_reads_back_as_the_same(threat):
    text = threat + (
        "defenses: [none, {dp-sgd: {epsilon: [1, 8], training: {epochs: [1, 2]}}},\n"
        "  [input-validation, {adversarial-training: {label: at, training: {epochs: [1, 3]}}}],\n"
        "  {none: {label: long, training: {epochs: [9]}}}]\n"
        "attacks: [fgsm, {pgd: {steps: [2, 3]}}, {badnets: {fraction: [0.1, 0.2]}}]\n"
    )
    suite = load(text)
    Path("resolved.yaml").write_text(suite.to_yaml())
    again = load_suite("resolved.yaml")
    assert again == suite
    assert again.to_yaml() == suite.to_yaml()
    assert [use.variant for use in again.attacks] == [use.variant for use in suite.attacks]
    assert [use.variant for use in again.defenses] == [use.variant for use in suite.defenses]


def test_the_command_line_may_set_a_list():
    uses = load("attacks: [badnets]", "attacks.badnets.fraction=[0.1, 0.2]").attacks
    assert labels(uses) == ["badnets(fraction=0.1)", "badnets(fraction=0.2)"]
