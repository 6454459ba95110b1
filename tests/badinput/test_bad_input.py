"""What is given wrongly, and what must be answered: one test or more for each row of the contract's last table.

Paths outside of the working folder are tested in tests/suite, kill -9 and torn files in tests/runner.
"""

import copy
import json
import pickle
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import robustsuite as rs
from robustsuite.cli.app import app
from robustsuite.plugins import registry
from robustsuite.pytest_plugin.robustness import Robustness
from robustsuite.testing import tiny_network, tiny_samples

BALL = rs.Ball("linf", 0.05)


@pytest.fixture
def model():
    return copy.deepcopy(tiny_network())


@pytest.fixture
def data():
    """Inputs `(120, 1, 8, 8)` in [0, 1] and labels of four classes."""
    samples = tiny_samples(120, first=10_000)
    return samples.x.clone(), samples.y.clone()


def evaluate(model, data, **options):
    return rs.evaluate(model, data, "fgsm", BALL, **options)


def value(record):
    return record.metrics["robust_accuracy"].value


def every_way_in(model, data):
    """The Python calls that take a model and data."""
    yield lambda: evaluate(model, data)
    yield lambda: rs.perturb("fgsm", model, *data, BALL)
    yield lambda: Robustness("t").assert_robust(model, data, attack="fgsm", ball=BALL, at_least=0.1)


@pytest.fixture
def on_disk(tmp_path, monkeypatch, data):
    """A working folder with a network file, its weights and an .npz of the data."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NETWORK)
    torch.manual_seed(0)
    torch.save({"1.weight": torch.randn(4, 64), "1.bias": torch.zeros(4)}, tmp_path / "weights.pt")
    np.savez(tmp_path / "data.npz", x=data[0].numpy(), y=data[1].numpy())
    return tmp_path


NETWORK = """
from torch import nn


def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
"""
COMMAND = ["evaluate", "nets.py:build", "--data", "data.npz", "--attack", "fgsm", "--radius", "0.05", "--quiet"]


def invoke(*arguments):
    done = CliRunner().invoke(app, [*arguments])
    return done.exit_code, " ".join((done.output + done.stderr).split())


# images 0-255 or normalised where bounds are [0, 1]


@pytest.mark.parametrize(
    ("change", "least", "most"),
    [(lambda x: (x * 255).round(), 64, 191), (lambda x: (x - 0.5) / 0.25, -0.99, 0.99)],
    ids=["0-255", "normalised"],
)
def test_images_out_of_bounds(model, data, change, least, most):
    x, y = change(data[0]), data[1]
    before = x.clone()
    for call in every_way_in(model, (x, y)):
        with pytest.raises(rs.RequestError) as refused:
            call()
        told = str(refused.value)
        assert f"min={float(x.min()):g} and max={float(x.max()):g}" in told
        assert "bounds=(0, 1)" in told
        assert "rs.wrap(model, bounds=(0, 255))" in told
        assert "rs.wrap(model, mean=..., std=...)" in told
    assert torch.equal(x, before), "nothing is clipped"
    assert float(x.min()) == pytest.approx(least, rel=0.05)
    assert float(x.max()) == pytest.approx(most, rel=0.05)


def test_images_out_of_bounds_on_the_command_line(on_disk, data):
    np.savez(on_disk / "data.npz", x=data[0].numpy() * 255, y=data[1].numpy())
    code, told = invoke(*COMMAND)
    assert code == 2
    assert "max=19" in told


def test_the_wrap_mends_both(model, data):
    x, y = data
    plain = evaluate(model, data).records[1].metrics
    scaled = rs.evaluate(rs.wrap(model, std=255.0, bounds=(0, 255)), (x * 255, y), "fgsm", rs.Ball("linf", 0.05 * 255))
    assert scaled.records[1].metrics["robust_accuracy"].value == plain["robust_accuracy"].value


# NaN or infinite inputs, weights or logits


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_inputs_that_are_not_finite(model, data, bad):
    data[0][17, 0, 3, 5] = data[0][90, 0, 0, 0] = bad
    for call in every_way_in(model, data):
        with pytest.raises(rs.RequestError, match=rf"finite numbers, got x\[17, 0, 3, 5\]={bad}"):
            call()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(model, data, bad):
    with torch.no_grad():
        model.head.weight[2, 7] = bad
    for call in every_way_in(model, data):
        with pytest.raises(rs.RequestError, match=rf"model\.head\.weight\[2, 7\]={bad}"):
            call()


def test_statistics_that_are_not_finite(model, data):
    model.features[1].running_var[3] = float("nan")
    with pytest.raises(rs.RequestError, match=r"model\.features\.1\.running_var\[3\]=nan"):
        evaluate(model, data)


class Breaks(nn.Module):
    """Logits that are not finite for inputs brighter than most."""

    def __init__(self, inner, limit, bad):
        super().__init__()
        self.inner, self.limit, self.bad = inner, limit, bad

    def forward(self, x):
        logits = self.inner(x)
        return torch.where(x.flatten(1).mean(1, keepdim=True) > self.limit, torch.full_like(logits, self.bad), logits)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_name_the_first_sample(model, bad):
    """Also where it is one sample far down: a NaN compares as no mistake and would count as robust or as broken."""
    samples = tiny_samples(700, first=10_000)
    brightness = samples.x.flatten(1).mean(1)
    worst = int(brightness.argmax())
    x, y = samples.x.roll(600 - worst, 0), samples.y.roll(600 - worst, 0)
    limit = float(brightness.sort().values[-2])
    with pytest.raises(
        rs.ModelError, match=rf"expected finite logits, got logits\[600, 0\]={bad}; look for NaN weights"
    ):
        evaluate(Breaks(model, limit, bad), (x, y))


# labels outside [0, classes)


@pytest.mark.parametrize(("label", "classes"), [(4, None), (-1, None), (4, 4), (99, 4)])
def test_labels_out_of_range(model, data, label, classes):
    data[1][23] = label
    with pytest.raises(rs.RequestError, match=rf"y\[23\]={label}; number the classes from 0"):
        evaluate(model, data, classes=classes)


# probabilities where logits are expected


def test_probabilities(model, data):
    expected, record = evaluate(model, data).records[1], evaluate(nn.Sequential(model, nn.Softmax(1)), data).records[1]
    assert record.flags == ("resolved:probabilities",)
    assert abs(value(record) - value(expected)) * len(data[1]) <= 1 + 1e-9
    perturbed = rs.perturb("fgsm", nn.Sequential(model, nn.Softmax(1)), *data, BALL)
    assert torch.equal(perturbed, rs.perturb("fgsm", model, *data, BALL))


def test_some_probabilities_among_logits_are_refused(model, data):
    class Mostly(nn.Module):
        """Probabilities, but for dark inputs."""

        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            logits = self.inner(x)
            dark = x.flatten(1).mean(1) < x.flatten(1).mean(1).median()
            return torch.where(dark[:, None] & (len(x) > 8), logits, logits.softmax(1))

    with pytest.raises(rs.ModelError, match=r'declare rs\.wrap\(model, output="probabilities"\)'):
        evaluate(Mostly(), data)


# a model in training mode, with BatchNorm or Dropout


def test_training_mode(model, data):
    expected = evaluate(model.eval(), data)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    report = evaluate(model.train(), data)
    assert all(part.training for part in model.modules())
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
    for record, other in zip(report.records, expected.records, strict=True):
        assert "was in training mode; it was evaluated in eval mode and put back" in record.message
        assert record.metrics[record.headline] == other.metrics[other.headline]
        assert other.message == ""


# a radius of 0


@pytest.mark.parametrize("attack", ["fgsm", "pgd(steps=3, restarts=2)", "noise", "art:HopSkipJump(max_iter=1)"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_radius_of_zero(model, data, attack, norm):
    ball = rs.Ball(norm, 0)
    assert torch.equal(rs.perturb(attack, model, *data, ball), data[0])
    metrics = rs.evaluate(model, data, attack, ball).records[1].metrics
    assert metrics["robust_accuracy"] == metrics["clean_accuracy"]
    assert metrics["attack_success_rate"].value == 0


# a checkpoint that is a pickle with code, an HTML page, or has missing keys


class Planted:
    def __reduce__(self):
        return (exec, ("open('ran', 'w').close()",))


def _pickled(path):
    path.write_bytes(pickle.dumps({"1.weight": Planted()}))


def _zipped(path):
    torch.save({"1.weight": Planted()}, path)


def _page(path):
    path.write_text("<!DOCTYPE html><html><body>404 Not Found</body></html>")


def _partial(path):
    torch.save({"1.weight": torch.randn(4, 64)}, path)


@pytest.mark.parametrize(
    ("write", "told"),
    [(_pickled, "nothing in it was run"), (_zipped, "nothing in it was run"), (_page, "HTML"), (_partial, "1.bias")],
    ids=["pickle", "zipped-pickle", "html", "missing-keys"],
)
def test_checkpoints_that_are_refused(on_disk, write, told):
    write(on_disk / "weights.pt")
    code, said = invoke(*COMMAND, "--checkpoint", "weights.pt", "--out", "out")
    assert code == 2
    assert "weights.pt" in said
    assert told.lower() in said.lower()
    assert not (on_disk / "ran").exists(), "no code from it runs"
    assert not (on_disk / "out").exists(), "nothing was started"


def test_a_checkpoint_that_is_good(on_disk):
    code, said = invoke(*COMMAND, "--checkpoint", "weights.pt")
    assert code == 0, said


# out of memory


@pytest.fixture
def plugin():
    registry.discover()
    known = dict(registry.attacks._entries)
    yield lambda name, cls: registry.register.attack(name, scenario="evasion", access="white-box")(cls)
    registry.attacks._entries.clear()
    registry.attacks._entries.update(known)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
        ),
    ],
    ids=["accelerator", "python", "processor"],
)
def test_out_of_memory_in_an_attack(plugin, model, data, error):
    sizes = []

    @dataclass(frozen=True, kw_only=True)
    class Hungry:
        """Take more than there is for more than 20 samples."""

        def __call__(self, view, streams):
            sizes.append(len(view.y))
            if len(view.y) > 20:
                raise error
            return registry.attacks.get("fgsm").make()(view, streams)

    plugin("hungry", Hungry)
    report = rs.evaluate(model, data, ["hungry", "fgsm"], BALL, rules={"follow_up": False})
    hungry, fgsm = report.records[1:]
    assert hungry.status == "ok"
    assert hungry.message == "memory ran out, and batches were halved"
    assert hungry.metrics["robust_accuracy"] == fgsm.metrics["robust_accuracy"]
    assert fgsm.message == ""
    assert max(sizes) > 20
    assert min(sizes) > 10


def test_out_of_memory_in_the_model(model, data):
    """The clean pass and the judge's second pass halve their batches too."""

    class Large(nn.Module):
        def __init__(self, most):
            super().__init__()
            self.inner, self.most = model, most

        def forward(self, x):
            if len(x) > self.most:
                raise torch.OutOfMemoryError("planted")
            return self.inner(x)

    plain, large = (evaluate(Large(most), data).records for most in (1000, 13))
    for one, other in zip(plain, large, strict=True):
        assert other.status == "ok", other.message
        assert one.metrics[one.headline] == other.metrics[other.headline]


def test_an_error_that_is_not_about_memory_is_no_reason_to_go_on(plugin, model, data):
    calls = []

    @dataclass(frozen=True, kw_only=True)
    class Wrong:
        """Fail."""

        def __call__(self, view, streams):
            calls.append(len(view.y))
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    plugin("wrong", Wrong)
    assert rs.evaluate(model, data, "wrong", BALL).records[1].status == "error"
    assert len(calls) == 1


# a plug-in that raises

PLUGIN = '''
from dataclasses import dataclass

from robustsuite import register


@register.attack("raises", scenario="evasion", access="white-box")
@dataclass(frozen=True, kw_only=True)
class Raises:
    """Raise."""

    def __call__(self, view, streams):
        raise LookupError("planted in a plug-in")
'''
SUITE = """
name: tiny
dataset: {name: npz, path: data.npz, train: 60, test: 60}
model: {factory: "nets.py:build", checkpoint: weights.pt}
threat: {norm: linf, radius: 0.05, curve_samples: 0}
attacks: [raises, fgsm, noise]
"""


@pytest.fixture
def raises(on_disk, plugin):
    (on_disk / "raises.py").write_text(PLUGIN)
    return "raises.py"


def test_a_plugin_that_raises_in_a_run(on_disk, raises):
    (on_disk / "tiny.yaml").write_text(SUITE)
    code, told = invoke("run", "tiny.yaml", "--plugin", raises, "--workers", "1", "--quiet")
    assert code == 1, told
    records = {r["attack"]: r for r in map(json.loads, (on_disk / "runs/tiny/records.jsonl").read_text().splitlines())}
    assert {name: r["status"] for name, r in records.items()} == {
        "none": "ok",
        "raises": "error",
        "fgsm": "ok",
        "noise": "ok",
    }
    assert records["raises"]["message"].startswith("Traceback (most recent call last)")
    assert "LookupError: planted in a plug-in" in records["raises"]["message"]
    assert "raises.py" in records["raises"]["message"]
    assert records["raises"]["metrics"] == {}, "missing is not 0"


def test_a_plugin_that_raises_in_an_evaluation(on_disk, raises):
    code, told = invoke(*COMMAND, "--attack", "raises", "--plugin", raises, "--out", "out")
    assert code == 1, told
    assert "LookupError: planted in a plug-in" in told
    report = rs.Report.load(on_disk / "out")
    assert [r.status for r in report.records] == ["ok", "ok", "error"]
    row = report.frame[report.frame.attack == "raises"]
    assert row.status.tolist() == ["error"]
    assert row.value.isna().all()


def test_a_plugin_that_cannot_be_imported(on_disk):
    (on_disk / "broken.py").write_text("import nothing_of_that_name\n")
    code, told = invoke(*COMMAND, "--plugin", "broken.py")
    assert code == 2
    assert "broken.py" in told
    assert "nothing_of_that_name" in told


# poisoning or membership against a model without its recipe or data


@pytest.mark.parametrize("attack", ["badnets", "label-flip", "model-inversion", "class-mean"])
def test_games_that_need_more_than_the_model(model, data, attack):
    with pytest.raises(rs.RequestError) as refused:
        rs.evaluate(model, data, attack)
    told = str(refused.value)
    assert f"attack={attack!r}" in told
    assert "train=(x, y) in Python or --train-data" in told
    assert "train=None" in told


def test_games_that_need_more_on_the_command_line(on_disk):
    code, told = invoke("evaluate", "nets.py:build", "--data", "data.npz", "--attack", "badnets(fraction=0.1)")
    assert code == 2
    assert "--train-data" in told


def test_games_that_need_more_in_a_grid(on_disk):
    (on_disk / "tiny.yaml").write_text(SUITE.replace("raises, fgsm, noise", "{badnets: {fraction: 0.1}}, fgsm"))
    code, told = invoke("run", "tiny.yaml", "--workers", "1", "--quiet")
    assert code == 0, told
    found = {r.attack: r for r in rs.Report.load(on_disk / "runs/tiny").records}
    assert found["badnets"].status == "not_applicable"
    assert "recipe=None" in found["badnets"].message
    assert found["fgsm"].status == "ok"
    assert "n/a" in told
