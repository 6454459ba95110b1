"""Each check of the cookbook passes on a good model and fails, for its reason, on a bad one."""

import contextlib
import copy
import hashlib
import importlib.util
import io
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

import robustsuite as rs
from robustsuite.evaluation import record_files
from robustsuite.models.checkpoint import save
from robustsuite.testing.known_answers.materials import NearestMean, templates

CHECKS = Path(__file__).parent.parent.parent / "examples" / "checks"
PRIVATE = """
name: private
dataset: digits
model: logistic
defenses: [dp-sgd: {epsilon: 3.0, training: {optimizer: sgd, lr: 0.25, batch_size: 64, epochs: 1}}]
"""


ATTACKED = ("robust_accuracy_floor", "no_regression", "worst_case_over_attacks")  # where half the digits are enough


class Results:
    """What became of each test, and why."""

    def __init__(self):
        self.outcome, self.reason = {}, {}

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.outcome != "passed":
            self.outcome[report.nodeid.partition("::")[2]] = report.outcome
            self.reason[report.nodeid.partition("::")[2]] = str(report.longrepr or "")


def check(name, *arguments):
    """Run one file of the cookbook in this process, so that nothing is imported or trained twice."""
    seen = Results()
    few = ["--samples=180"] if name in ATTACKED and not any("--samples" in given for given in arguments) else []
    absent = ("cacheprovider", "faulthandler", "unraisableexception")  # the last collects garbage for seconds
    common = [*few, "-q", "-c/dev/null", "--import-mode=importlib", *(f"-pno:{plugin}" for plugin in absent)]
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        code = pytest.main(
            [str(CHECKS / f"test_{name}.py"), f"--rootdir={CHECKS}", *common, *arguments], plugins=[seen]
        )
    assert code in (0, 1), told.getvalue()
    assert seen.outcome, told.getvalue()
    return seen


def test_every_check_is_tested():
    named = {re.sub("test_|.py", "", path.name) for path in CHECKS.glob("test_*.py")}
    assert named == {*GOOD, "three_gates"}
    assert named == {*BAD, "three_gates"}


@pytest.fixture(scope="session")
def demo():
    """The demo's module, under the name that its own factories have, so that one training serves all."""
    spec = importlib.util.spec_from_file_location("cookbook_demo", CHECKS / "demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("cookbook")


def rescaled(network, factor):
    """The same decisions, with logits so many times as large."""
    scaled = copy.deepcopy(network)
    with torch.no_grad():
        scaled.head.weight.mul_(factor)
        scaled.head.bias.mul_(factor)
    return scaled


@pytest.fixture(scope="session", autouse=True)
def _models(demo):
    """Good and bad models, as a module that the checks can import by name."""
    digits = rs.load_data("digits", "train")
    x, y = digits.inputs(), digits.y

    def backdoored():
        stamped, others = x.clone(), (y != 0).nonzero()[::5, 0]
        stamped[others, :, -3:, -3:] = 1.0
        return demo.trained(stamped, y.clone().index_fill(0, others, 0))

    def one_class_lost():
        lost = rescaled(demo.model(), 1)
        with torch.no_grad():
            lost.head.bias[8] -= 100
        return lost

    module = ModuleType("cookbook_models")
    module.good, module.guarded = demo.model, demo.service
    module.narrow = lambda: demo.trained(x, y, bandwidth=1.5)
    module.sure = lambda: NearestMean(templates(digits), scale=10.0)
    module.open_book = lambda: NearestMean(templates(digits))
    module.backdoored, module.one_class_lost = backdoored, one_class_lost
    sys.modules["cookbook_models"] = module
    yield
    del sys.modules["cookbook_models"]


@pytest.fixture(scope="session")
def baseline(place):
    """The report of the good model, written as a user writes it."""
    folder = place / "baseline"
    arguments = ("--model=cookbook_models:good", f"--baseline={folder}")
    assert check("no_regression", *arguments, "--robustsuite-update-baseline").outcome == {
        "test_nothing_got_worse": "passed"
    }
    return folder


@pytest.fixture(scope="session")
def private(place):
    """Runs that spent epsilon 3, that spent 8, and one whose record tells less than was spent."""
    (place / "private.yaml").write_text(PRIVATE)
    folders = {name: place / name for name in ("kept", "spent", "told")}
    rs.run(place / "private.yaml", folders["kept"])
    rs.run(place / "private.yaml", folders["spent"], overrides=["defenses.0.dp-sgd.epsilon=8.0"])
    shutil.copytree(folders["spent"], folders["told"])
    records = folders["told"] / "records.jsonl"
    told = record_files.read(records)
    less = [replace(r, metrics={**r.metrics, "epsilon": replace(r.metrics["epsilon"], value=2.9)}) for r in told]
    record_files.write(records, less)
    return folders


class Dropper:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.fixture(scope="session")
def weights(place, demo):
    """A released file, one that was changed since, and one that holds code; with the released digest."""
    save(demo.model(), place / "released.safetensors")
    save(rescaled(demo.model(), 2), place / "changed.safetensors")
    torch.save({"state_dict": Dropper(place / "dropped")}, place / "code.pt")
    pinned = hashlib.sha256((place / "released.safetensors").read_bytes()).hexdigest()
    return {name: (str(place / name), pinned) for name in ("released.safetensors", "changed.safetensors", "code.pt")}


def model(name, *more):
    return lambda request: [f"--model=cookbook_models:{name}", *more]


def service(name):
    return lambda request: ["--model=cookbook_models:good", f"--service=cookbook_models:{name}"]


def against_baseline(name):
    return lambda request: [*model(name)(request), f"--baseline={request.getfixturevalue('baseline')}"]


def run_folder(name):
    return lambda request: [*model("good")(request), f"--run-folder={request.getfixturevalue('private')[name]}"]


def checkpoint(name):
    def arguments(request):
        path, pinned = request.getfixturevalue("weights")[name]
        return [*model("good")(request), f"--checkpoint={path}", f"--checkpoint-digest={pinned}"]

    return arguments


GOOD = {
    "robust_accuracy_floor": model("good"),
    "no_regression": against_baseline("good"),
    "corrupted_inputs_are_rejected": service("guarded"),
    "known_trigger_does_not_work": model("good"),
    "epsilon_is_what_ran": run_folder("kept"),
    "worst_class_recall": model("good"),
    "classes_cannot_be_inverted": model("good"),
    "worst_case_over_attacks": model("good"),
    "no_confidence_on_noise": model("good"),
    "checkpoint_is_safe_to_load": checkpoint("released.safetensors"),
}
# What is wrong, which tests fail, and words of the reason that one of them gives.
BAD = {
    "robust_accuracy_floor": [(model("narrow"), {"test_robust_accuracy"}, "failed: robust_accuracy 0.")],
    "no_regression": [(against_baseline("narrow"), {"test_nothing_got_worse"}, "regression: pgd")],
    "corrupted_inputs_are_rejected": [
        (service("good"), {f"test_malformed_inputs[{n}]" for n in ("NaN", "infinite", "0-255", "below the bounds")},
         "the service answered 50 of 50 inputs that are malformed: NaN"),
        (service("good"), {"test_noise"}, "failed: rejected share of noise 0.000"),
    ],
    "known_trigger_does_not_work": [(model("backdoored"), {"test_the_trigger"}, r"failed: trigger success (1|0\.9)")],
    "epsilon_is_what_ran": [
        (run_folder("spent"), {"test_recorded_within_the_claim"}, "dp-sgd: epsilon 7.99. ran, 3.0 is claimed"),
        (run_folder("told"), {"test_computed_again"}, "records epsilon 2.900, but 7.99. ran"),
    ],
    "worst_class_recall": [(model("one_class_lost"), {"test_every_class"}, "failed: recall of class 8 0.000")],
    "classes_cannot_be_inverted": [(model("open_book"), {"test_inversion"}, "failed: model-inversion: inversion_acc")],
    "worst_case_over_attacks": [
        (model("narrow"), {"test_worst_case"}, "failed: worst-case: robust_accuracy 0."),
    ],
    "no_confidence_on_noise": [(model("sure"), {"test_noise"}, "failed: share of noise")],
    "checkpoint_is_safe_to_load": [
        (checkpoint("changed.safetensors"), {"test_digest"}, "was released"),
        (checkpoint("code.pt"), {"test_loads_without_code"}, "nothing in it was run"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_a_good_model_passes(request, name):
    seen = check(name, *GOOD[name](request))
    assert set(seen.outcome.values()) == {"passed"}, seen.reason


CASES = [(name, *case) for name, cases in BAD.items() for case in cases]


@pytest.mark.parametrize(
    ("name", "arguments", "failing", "words"), CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)]
)
def test_a_bad_model_fails_and_is_told_why(request, place, name, arguments, failing, words):
    seen = check(name, *arguments(request))
    assert failing <= {test for test, outcome in seen.outcome.items() if outcome == "failed"}, seen.outcome
    assert any(re.search(words, seen.reason[test]) for test in failing), seen.reason
    assert not (place / "dropped").exists(), "code in a checkpoint was run"


def test_a_masked_model_would_pass_one_attack_alone(demo):
    """Why the worst case is asked for: the loss that is masked sees a robust model."""
    model, data, ball = rescaled(demo.model(), 1000), rs.load_data("digits", samples=100), rs.Ball("linf", 0.05)
    (_, found) = rs.evaluate(model, data, "pgd(steps=20)", ball, rules={"follow_up": False}).records
    assert found.metrics["robust_accuracy"].value > 0.9
    assert "zero-gradients" in found.flags


def test_reports_are_kept_where_they_are_asked_for(tmp_path):
    check("worst_case_over_attacks", "--model=cookbook_models:good", f"--robustsuite-report={tmp_path}", "--samples=40")
    (folder,) = tmp_path.iterdir()
    assert (folder / "report.html").is_file()


def test_the_command_of_the_readme(tmp_path):
    """A file's factory and its weights, in a process of its own and from another folder."""
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n\n\ndef build(classes, shape):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(shape[1] * shape[2], classes))\n"
    )
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    means = templates(rs.load_data("digits", "train")).flatten(1)
    with torch.no_grad():
        network[1].weight.copy_(means)
        network[1].bias.copy_(-means.square().sum(1) / 2)
    save(network, tmp_path / "weights.safetensors")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        str(CHECKS / "test_worst_class_recall.py"),
    ]
    command += ["--model", "nets.py:build", "--checkpoint", "weights.safetensors", "--junitxml", "checks.xml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "recall of class" in done.stdout
    assert "recall of class" in (tmp_path / "checks.xml").read_text()
