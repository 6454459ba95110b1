"""An evaluation says what it judged, wraps what the model wants, and leaves a suite that gives the same figures."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch import nn
from typer.testing import CliRunner

import robustsuite as rs
from robustsuite.cli.app import app
from robustsuite.results.gates import load as load_gates
from robustsuite.suite.load import load_suite

FACTORY = """
import torch
from torch import nn


def build(classes=10, hidden=24):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, classes))


def probabilities(classes=10):
    return nn.Sequential(build(classes), nn.Softmax(1))


def ten():
    return build(10)


def wrapped():
    import robustsuite as rs

    return rs.wrap(build(), mean=0.3, std=0.37)
"""
MEAN, STD = 0.3, 0.37


def call(*arguments):
    return CliRunner().invoke(app, [str(part) for part in arguments])


@pytest.fixture(scope="module")
def weights():
    """A network of digits that were normalised by MEAN and STD."""
    data = load_digits()
    x, y = torch.tensor(data.images / 16, dtype=torch.float32), torch.tensor(data.target)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network((x - MEAN) / STD), y).backward()
        optimizer.step()
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, weights):
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(FACTORY)
    save_file(weights, "w.safetensors")
    save_file({f"model.{name}": value for name, value in weights.items()}, "of_wrapped.safetensors")
    save_file({f"0.{name}": value for name, value in weights.items()}, "w0.safetensors")


def figures(folder):
    """Everything that was measured, but for times, and the per-sample columns."""
    found = {}
    for line in Path(folder, "records.jsonl").read_text().splitlines():
        record = json.loads(line)
        record["metrics"].pop("latency_ms", None)
        kept = ("dataset", "data", "model", "attack_parameters", "metrics", "flags", "norm", "radius", "status", "cost")
        columns = load_file(Path(folder, record["samples"])) if record["samples"] else {}
        found[record["attack"]] = ({name: record[name] for name in kept}, columns)
    return found


def same(one, other):
    one, other = figures(one), figures(other)
    assert one.keys() == other.keys()
    for name, (facts, columns) in one.items():
        assert facts == other[name][0]
        assert columns.keys() == other[name][1].keys()
        for column, values in columns.items():
            assert torch.equal(values.nan_to_num(-7), other[name][1][column].nan_to_num(-7)), (name, column)
    return one


CASES = {
    "checkpoint, wrapped": (
        "net.py:build", "--checkpoint", "w.safetensors", "--mean", MEAN, "--std", STD, "--data", "digits",
        "--attack", "fgsm", "--attack", "pgd(steps=3)", "--attack", "pgd(steps=4, draws=1)",
        "--gate", "robust_accuracy>=0.05", "--gate", "pgd(steps=4):robust_accuracy>=0.01",
    ),
    "probabilities": (
        "net.py:probabilities", "--checkpoint", "w0.safetensors", "--output", "probabilities", "--data", "digits",
        "--attack", "square(queries=10)",
    ),
    "no checkpoint": ("net.py:build", "--data", "digits", "--attack", "fgsm", "--seed", 3),
    "a file": ("net.py:ten", "--checkpoint", "w.safetensors", "--data", "own.npz", "--attack", "fgsm"),
    "bytes": (
        "net.py:build", "--checkpoint", "w.safetensors", "--data", "bytes.npz", "--attack", "fgsm",
        "--bounds", "0,255", "--mean", 255 * MEAN, "--std", 255 * STD,
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(told, id=name, marks=pytest.mark.slow if "pgd(steps=3)" in told else ())
        for name, told in CASES.items()
    ],
)
def test_the_suite_that_it_writes_gives_the_same_figures(arguments):
    data = load_digits()
    np.savez("own.npz", x=data.images[:90, None].astype(np.float32) / 16, y=data.target[:90] % 9)
    np.savez("bytes.npz", x=(data.images[:90, None] / 16 * 255).round().astype(np.uint8), y=data.target[:90])
    radius = 12 if "bytes.npz" in arguments else "12/255"
    done = call("evaluate", *arguments, "--radius", radius, "--samples", 60, "--out", "one")
    assert done.exit_code in (0, 3), done.output
    assert "no suite.yaml" not in done.stderr
    again = call("run", "one/suite.yaml", "--out", "two", "--workers", 1, "--no-cache")
    assert again.exit_code == done.exit_code, again.output
    found = same("one", "two")
    for facts, columns in found.values():
        assert facts["data"]["n"] == 60 == len(columns["id"])
        assert facts["data"]["seed"] == (3 if "--seed" in arguments else 0)
        assert facts["dataset"] == arguments[arguments.index("--data") + 1].removesuffix(".npz")
    assert load_gates("one") == load_suite("one/suite.yaml").gates


def test_what_is_wrapped_is_as_good_as_it_was_trained():
    options = ("--data", "digits", "--attack", "noise", "--radius", "0", "--samples", 100)
    for folder, *more in (
        ("bare", "net.py:build", "w.safetensors"),
        ("wrapped", "net.py:build", "w.safetensors", "--mean", MEAN, "--std", STD),
        ("bare weights", "net.py:wrapped", "w.safetensors"),
        ("weights of wrapped", "net.py:build", "of_wrapped.safetensors", "--mean", MEAN, "--std", STD),
        ("both wrapped", "net.py:wrapped", "of_wrapped.safetensors"),
    ):
        target, checkpoint, *rest = more
        done = call("evaluate", target, "--checkpoint", checkpoint, *rest, *options, "--out", folder)
        assert done.exit_code == 0, done.output
    bare, wrapped = (figures(folder)["none"][0]["metrics"] for folder in ("bare", "wrapped"))
    assert wrapped["clean_accuracy"]["value"] > 0.95
    assert wrapped["expected_calibration_error"]["value"] < bare["expected_calibration_error"]["value"]
    for folder in ("bare weights", "weights of wrapped", "both wrapped"):
        assert figures(folder)["none"][0]["metrics"] == wrapped


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--bounds", "0,255"], r"got bounds=(0.0, 255.0); digits holds inputs in [0, 1]: leave --bounds out"),
        (["--bounds", "0,255"], r"by --mean 0 --std 0.00392157"),
        (["--bounds", "-1,1"], r"by --mean 0.5 --std 0.5"),
        (["--bounds", "1,0"], "low < high"),
        (["--bounds", "0"], "low < high"),
        (["--mean", "0.1,zero"], "got mean='zero'"),
        (["--std", "0"], "got std=0.0"),
        (["--mean", "0.1,0.2"], "a mean per channel"),
        (["--output", "softmax"], "one of logits, probabilities, binary-logit"),
        (["--output", "probabilities"], "returns logits"),
    ],
)
def test_declarations_that_do_not_fit_are_refused(more, told):
    done = call("evaluate", "net.py:build", "--data", "digits", "--attack", "fgsm", "--radius", "0.1", *more)
    assert done.exit_code == 2, done.output
    assert told in " ".join(done.stderr.split())


def test_a_network_that_is_wrapped_is_not_wrapped_again():
    done = call("evaluate", "net.py:wrapped", "--data", "digits", "--attack", "fgsm", "--radius", 0.1, "--mean", 0.1)
    assert done.exit_code == 2
    assert "returns rs.wrap(...) already" in " ".join(done.stderr.split())


def test_values_of_0_to_1_under_bounds_of_0_to_255_are_refused():
    np.savez("own.npz", x=np.full((9, 1, 8, 8), 0.9, np.float32), y=np.arange(9))
    options = ("--data", "own.npz", "--attack", "fgsm", "--radius", 8, "--bounds", "0,255")
    done = call("evaluate", "net.py:build", *options)
    assert done.exit_code == 2
    assert "own holds inputs in [0, 1]" in " ".join(done.stderr.split())


def test_what_no_suite_can_say_is_told_and_leaves_none():
    Path("out").mkdir()
    Path("out/suite.yaml").write_text("old")
    options = ("--data", "digits", "--radius", 0.1, "--samples", 20, "--out", "out")
    done = call("evaluate", "net.py:build", "--attack", "fgsm", "--train-data", "digits", *options)
    assert done.exit_code == 0, done.output
    assert "no suite.yaml: expected no other data, got train_data='digits'" in " ".join(done.stderr.split())
    assert not Path("out/suite.yaml").exists()


def test_python_says_what_it_judged_and_what_it_is_told():
    x, y = torch.rand(12, 4), torch.arange(12) % 3
    network = nn.Linear(4, 3)
    for record in rs.evaluate(network, (x, y), "fgsm", ("linf", 0.1), dataset="flowers").records:
        assert record.dataset == "flowers"
        assert record.data["n"] == 12
        assert len(record.data["digest"]) == 24
    record = rs.evaluate(network, (x, y), "fgsm", ("linf", 0.1)).records[0]
    other = rs.evaluate(network, (1 - x, y), "fgsm", ("linf", 0.1)).records[0]
    assert record.dataset == "12 samples"
    assert record.data["digest"] != other.data["digest"]
