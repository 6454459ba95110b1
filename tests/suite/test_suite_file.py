"""Suite files: what they mean, and every mistake with its line."""

import re
from pathlib import Path

import pytest
from loading import labels, load, refusal

from robustsuite.core.errors import RequestError
from robustsuite.models.build import ModelSpec
from robustsuite.suite.builtin import builtin_suites
from robustsuite.suite.load import load_suite
from robustsuite.suite.schema import Suite

pytestmark = pytest.mark.usefixtures("working_folder")
HEAD = """\
name: demo
dataset: {name: digits, test: 100}
model: {name: mlp, hidden: [16]}
threat: {norm: linf, radius: 8/255}
"""


# --- what a suite means


def test_defaults():
    suite = load("name: demo\ndataset: digits\nmodel: cnn\n")
    assert (suite.seed, suite.repeats, suite.threads) == (0, 1, 1)
    assert suite.training.epochs == 5
    assert labels(suite.defenses) == ["none"]
    assert suite.attacks == ()
    assert suite.threat.ball() is None


def test_options_are_resolved_with_their_defaults():
    (use,) = load(HEAD + "attacks: [{pgd: {steps: 3, step_size: 1}}]").attacks
    assert use.options["steps"] == 3
    assert use.options["step_size"] == 1.0
    assert use.options["random_start"] is True
    assert use.make().steps == 3


def test_rules_of_the_game_stand_apart_from_the_attack():
    (use,) = load(HEAD + "attacks: [{badnets: {fraction: 0.05, size: 2}}]").attacks
    assert use.rules == {"fraction": 0.05}
    assert "fraction" not in use.options
    assert use.options["size"] == 2


def test_compositions_are_labelled_left_to_right():
    suite = load(HEAD + "defenses:\n  - none\n  - [{input-validation: {label: guard}}, adversarial-training]\n")
    assert labels(suite.defenses) == ["none", "guard+adversarial-training"]
    assert [part.name for part in suite.defenses[1].parts] == ["input-validation", "adversarial-training"]


def test_defences_override_training_and_model():
    suite = load(
        HEAD
        + "training: {epochs: 3, lr: 0.1}\n"
        + "defenses:\n"
        + "  - none: {label: longer, training: {epochs: 9}}\n"
        + "  - none: {label: other, model: {name: cnn}}\n"
        + "  - none: {label: wider, model: {hidden: [64]}}\n"
    )
    longer, other, wider = suite.defenses
    assert (suite.training_for(longer).epochs, suite.training_for(longer).lr) == (9, 0.1)
    assert suite.training_for(other).epochs == 3
    assert suite.model_for(other).values == {"name": "cnn"}  # another network leaves `hidden` behind
    assert suite.model_for(wider).values == {"name": "mlp", "hidden": [64]}


def test_one_label_finds_its_defence():
    suite = load(HEAD + "defenses: [none, adversarial-training]")
    assert suite.defense("adversarial-training").parts[0].name == "adversarial-training"
    with pytest.raises(RequestError, match="did you mean 'adversarial-training'"):
        suite.defense("adversarial-trainin")


@pytest.mark.parametrize("radius", ["8/255", "0.03137254901960784", "3.137254901960784e-2"])
def test_a_radius_may_be_a_quotient(radius):
    suite = load(HEAD.replace("8/255", radius))
    assert suite.threat.radius == pytest.approx(8 / 255)


def test_the_curve_may_hold_quotients():
    suite = load(HEAD.replace("radius: 8/255", "radius: 8/255, curve: [0, 4/255, 0.1]"))
    assert suite.threat.curve == (0.0, 4 / 255, 0.1)


@pytest.mark.parametrize("name", ["quickstart", "mnist", "faces"])
def test_the_resolved_suite_is_read_back_as_itself(name):
    suite = load_suite(name)
    again = load(suite.to_yaml())
    assert again == suite
    assert again.to_yaml() == suite.to_yaml()


def test_a_suite_with_everything_round_trips():
    suite = load(
        HEAD
        + "seed: 7\nrepeats: 2\nthreads: 2\ntraining: {clip: 1.5, patience: 3, precision: 64}\n"
        + "defenses:\n"
        + "  - none: {label: '1e-3', training: {epochs: 2}}\n"
        + "  - adversarial-training: {label: at, attack: {pgd: {steps: 2}}, model: {name: cnn}}\n"
        + "  - [input-validation, {adversarial-training: {training: {lr: 1e-4}}}]\n"
        + "attacks:\n  - pgd: {label: 'a: b', steps: 2, query_budget: 5}\n  - badnets: {fraction: 0.1}\n"
    )
    assert load(suite.to_yaml()) == suite


def test_builtin_suites_have_a_name_and_a_purpose():
    found = builtin_suites()
    assert [suite.name for suite in found] == ["faces", "gauntlet", "mnist", "quickstart"]
    assert all(len(suite.summary) > 20 for suite in found)


def test_without_a_source_the_quickstart():
    suite = load_suite()
    assert suite.name == "quickstart"
    assert len(suite.defenses) >= 5
    assert {use.entry.scenario for use in suite.attacks} == {"evasion", "poisoning", "inversion"}
    assert len(suite.attacks) >= 5


def test_a_run_folder_is_a_source():
    Path("runs/x").mkdir(parents=True)
    Path("runs/x/suite.yaml").write_text(load_suite("faces").to_yaml(), encoding="utf-8")
    assert load_suite("runs/x").name == "faces"


def test_a_suite_is_frozen():
    suite = load(HEAD)
    with pytest.raises(ValueError, match="frozen"):
        suite.seed = 3


# --- what is refused, and where


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("sede: 3", 5, r"sede: .*got sede=3; did you mean 'seed'"),
        ("gates: robust_accuracy", 5, "gates: expected a list, got gates='robust_accuracy'"),
        ("seed: x", 5, "seed: expected a valid integer, got seed='x'"),
        ("seed: 1.5", 5, "seed: expected a valid integer, got seed=1.5"),
        ("seed: true", 5, "seed: expected a valid integer, got seed=True"),
        ("repeats: 0", 5, "repeats: expected a value greater than or equal to 1, got repeats=0"),
        ("seed: -1", 5, "got seed=-1"),
        ("training: {epoch: 3}", 5, r"training.epoch: .*got epoch=3; did you mean 'epochs'"),
        ("training:\n  epochs: 2\n  lr: fast", 7, "training.lr: expected a valid number, got lr='fast'"),
        ("training: {epochs: 0}", 5, "training.epochs: .*got epochs=0"),
        ("training: {optimizer: adm}", 5, "training.optimizer: .*did you mean 'adam'"),
        ("training: 3", 5, "training: expected a mapping of settings, got training=3"),
        ("defenses: none", 5, "defenses: expected a list"),
        ("defenses:\n  - nonee", 6, r"defenses\[0\]: .*nonee"),
        ("defenses:\n  - none\n  - adversarial-trainin", 7, "did you mean adversarial-training"),
        ("defenses:\n  - none\n  - none", 7, r"label='none' for defenses\[0\] and for defenses\[1\]"),
        ("defenses:\n  - none: {epochs: 3}", 6, "expected a key of none, got epochs=3"),
        ("defenses:\n  - none\n  - [none, adversarial-training]", 7, r"defenses\[1\]\[0\]: .*drop it"),
        ("defenses:\n  - [adversarial-training]", 6, "at least two defences"),
        ("defenses:\n  - adversarial-training: {label: none}", 6, "label other than none"),
        ("defenses:\n  - adversarial-training: {label: a+b}", 6, r"without '\+'"),
        ("defenses:\n  - adversarial-training:\n      training: {epoch: 1}", 7, "did you mean 'epochs'"),
        ("defenses:\n  - adversarial-training:\n      model: {hiden: [1]}", 7, "did you mean 'hidden'"),
        ("defenses:\n  - adversarial-training:\n      attack: {pgd: {steps: 0}}", 7, "attack.pgd.steps: .*steps=0"),
        (
            "defenses:\n  - none\n  - [adversarial-training, {adversarial-training: {label: b}}]",
            7,
            r"defenses\[1\]: expected one objective",
        ),
        ("attacks: pgd", 5, "attacks: expected a list"),
        ("attacks:\n  - pdg", 6, "did you mean pgd"),
        ("attacks:\n  - none", 6, "every defence is also judged without an attack"),
        ("attacks:\n  - pgd: {steps: 0}", 6, r"attacks\[0\].pgd.steps: .*got steps=0"),
        ("attacks:\n  - pgd: {steps: many}", 6, "got steps='many'"),
        ("attacks:\n  - pgd: {step: 3}", 6, "expected a key of pgd, got step=3; did you mean 'steps'"),
        ("attacks:\n  - pgd: 3", 6, "expected a mapping of options, got pgd=3"),
        ("attacks:\n  - pgd:\n    steps: 3", 6, "options indented below the name"),
        ("attacks:\n  - fgsm\n  - pgd: {label: fgsm}", 7, r"label='fgsm' for attacks\[0\] and for attacks\[1\]"),
        ("attacks:\n  - pgd: {label: worst-case}", 6, "other than worst-case"),
        ("attacks:\n  - badnets:\n      fraction: 2", 7, r"badnets.fraction: expected a number in \[0, 1\]"),
        ("attacks:\n  - art:HopSkip", 6, "HopSkipJump"),
        ("plugins: x.py", 5, "plugins: expected a list of files"),
        ("plugins: [nope.py]", 5, r"plugins\[0\]: .*existing .py file"),
    ],
)
def test_a_mistake_is_named_with_its_line(text, place, words):
    message = refusal(HEAD + text)
    assert re.search(rf"s\.yaml:{place}: .*{words}", message), message
    assert "nothing was started" in message


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("dataset: {name: digit}", "dataset.name: .*did you mean 'digits'"),
        ("dataset: {name: digits, trian: 3}", "dataset.trian: .*did you mean 'train'"),
        ("dataset: {name: digits, test: lots}", "dataset.test: expected a valid integer"),
        ("model: {name: mpl}", "model.name: .*did you mean mlp"),
        ("model: {name: mlp, hiden: [3]}", "model.hiden: .*did you mean 'hidden'"),
        ("model: {name: mlp, hidden: null}", "model.hidden: .*got hidden=None"),
        ("model: {name: mlp, checkpoint: nope.pt}", "model.checkpoint: .*nope.pt"),
        ("model: {factory: 'nope:build'}", "model.factory: .*No module named 'nope'"),
        ("model: {width: 3}", "model: expected a name or a factory"),
        ("threat: {norm: lnf, radius: 1}", "threat.norm: .*did you mean 'linf'"),
        ("threat: {norm: l2, radius: -1}", r"threat.radius: .*got radius=-1"),
        ("threat: {norm: l2, radius: 8/0}", "threat.radius: .*8/255"),
        ("threat: {norm: l2, radius: '1e400'}", "threat.radius: expected a number or a quotient of two, .*8/255"),
        ("threat: {norm: l2, radius: 1, curve: [1e-1, x]}", "threat.curve: expected a number or a quotient of two"),
        ("threat: {norm: l2}", "expected norm and radius together"),
        ("threat: {norm: l2, radius: 1, goal: targeted}", "threat.*expected a target"),
        ("threat: {norm: l2, radius: 1, epsilon: 2}", "expected a key of threat, got epsilon=2"),
        ("name: ../escape", "name: .*names the run's folder"),
        ("name: /etc/passwd", "name: .*names the run's folder"),
        ("name: ..", "name: .*names the run's folder"),
    ],
)
def test_a_mistake_in_the_head(line, words):
    key = line.partition(":")[0]
    rows = [line if row.startswith(f"{key}:") else row for row in HEAD.splitlines()]
    place = rows.index(line) + 1
    message = refusal("\n".join(rows))
    assert re.search(rf"s\.yaml:{place}: .*{words}", message), message


def test_every_problem_is_listed_in_the_order_of_the_file():
    message = refusal(
        "name: a b\nsed: 1\ndataset: digit\nmodel: mpl\ntraining: {epochs: 0, lr: -1}\n"
        "threat: {norm: lnf, radius: 1}\nattacks: [pdg, {pgd: {steps: 0, step_size: 9}}]\nseed: 1\nseed: 2\n"
    )
    places = [int(line) for line in re.findall(r"s\.yaml:(\d+):", message)]
    assert places == [1, 2, 3, 4, 5, 5, 6, 7, 7, 7, 8]
    assert message.startswith("s.yaml has 11 problems; nothing was started")


def test_a_refused_value_raises_no_second_error_about_its_absence():
    assert "1 problem" in refusal(HEAD.replace("linf", "lnf"))
    assert "1 problem" in refusal(HEAD.replace("digits", "digit"))


def test_missing_keys_are_named():
    message = refusal("seed: 1\n")
    for key in ("name", "dataset", "model"):
        assert f"{key}: expected {key}, got nothing" in message


@pytest.mark.parametrize("text", ["", "- a\n", "just text"])
def test_a_file_that_is_no_mapping(text):
    assert "expected a mapping of keys" in refusal(text)


def test_what_was_typed_is_named_by_its_option():
    message = refusal(HEAD, "training.epochs=-3")
    assert "--set training.epochs=-3: training.epochs: expected an integer" in message


def test_an_evasion_attack_needs_a_threat():
    message = refusal("name: d\ndataset: digits\nmodel: mlp\nattacks:\n  - badnets\n  - pgd\n")
    assert "s.yaml:6: attacks[1]: expected a threat for the evasion attack 'pgd'" in message


def test_a_checkpoint_forbids_defences_that_train(tmp_path):
    from robustsuite.models.checkpoint import save

    save(ModelSpec("mlp", options=(("hidden", (16,)),))(10, (1, 8, 8), (0.0, 1.0)), tmp_path / "w.safetensors")
    text = HEAD.replace("[16]", "[16], checkpoint: w.safetensors") + "defenses:\n  - none\n  - adversarial-training\n"
    assert "s.yaml:7: defenses[1]: expected a defence that needs no training" in refusal(text)
    load(text + "training: {init: checkpoint}\n")
    load(text.replace("  - adversarial-training\n", ""))
    assert "s.yaml:3: model.checkpoint" in refusal(text.replace("w.safetensors", "nope.safetensors"))


def test_init_checkpoint_needs_a_checkpoint():
    assert "expected model.checkpoint beside init='checkpoint'" in refusal(HEAD + "training: {init: checkpoint}\n")


PLUGIN = """\
from dataclasses import dataclass
from robustsuite.plugins.registry import register

@register.attack("suite-test-{name}", scenario="evasion", access="blind")
@dataclass(frozen=True, kw_only=True)
class Still:
    '''Leave every input as it is.'''
    def __call__(self, view, streams):
        return view.x.clone()
"""


def test_a_plugin_below_the_working_folder_is_loaded():
    Path("mine.py").write_text(PLUGIN.format(name="a"))
    suite = load(HEAD + "plugins: [mine.py]\nattacks: [suite-test-a]\n")
    assert suite.attacks[0].entry.cls.__name__ == "Still"
    assert suite.plugins == ("mine.py",)
    assert load(suite.to_yaml()) == suite


def test_a_plugin_elsewhere_runs_only_where_the_user_typed_it(tmp_path, monkeypatch):
    (tmp_path / "outside.py").write_text(PLUGIN.format(name="b"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for path in ("../outside.py", str(tmp_path / "outside.py")):
        message = refusal(HEAD + f"plugins: ['{path}']\n")
        assert "below the working folder" in message
        assert "--plugin" in message
    assert load(HEAD + "attacks: [suite-test-b]\n", plugins=["../outside.py"]).plugins == ("../outside.py",)


def test_an_error_says_as_data_which_option_it_is_about():
    raises = "raise RequestError('got colour=3, and that is too dull', name='width')"
    own = f"    width: int = 1\n    colour: int = 3\n    def __post_init__(self):\n        {raises}\n"
    text = PLUGIN.format(name="c").replace("    def __call__", f"{own}    def __call__")
    Path("mine.py").write_text("from robustsuite.core.errors import RequestError\n" + text)
    message = refusal(HEAD + "plugins: [mine.py]\nattacks:\n  - suite-test-c:\n      colour: 3\n      width: 2\n")
    assert "s.yaml:9: attacks[0].suite-test-c.width: got colour=3" in message


def test_a_plugin_that_raises_is_a_problem_with_its_line():
    Path("broken.py").write_text("raise OSError('no such luck')")
    assert "s.yaml:5: plugins[0]: " in refusal(HEAD + "plugins: [broken.py]\n")
    assert "OSError: no such luck" in refusal(HEAD + "plugins: [broken.py]\n")


def test_an_unknown_suite_names_the_near_ones():
    with pytest.raises(RequestError, match="did you mean mnist"):
        load_suite("mnits")
    Path("mine.yaml").write_text(HEAD)
    with pytest.raises(RequestError, match=r"did you mean mine\.yaml"):
        load_suite("mien.yaml")
    with pytest.raises(RequestError, match="built-in suites: faces, gauntlet, mnist, quickstart"):
        load_suite("zzzzzzzz")


def test_a_binary_file_is_refused():
    Path("s.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(RequestError, match="readable YAML file"):
        load_suite("s.yaml")


def test_python_can_build_one_too():
    suite = Suite.model_validate({"name": "p", "dataset": "digits", "model": "cnn", "attacks": ["badnets"]})
    assert labels(suite.attacks) == ["badnets"]
