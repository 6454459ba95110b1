import dataclasses

import pytest
import torch
from torch import nn

from robustsuite.core.canonical import plain
from robustsuite.core.errors import RequestError
from robustsuite.core.samples import Samples
from robustsuite.models.build import ModelSpec
from robustsuite.models.checkpoint import save
from robustsuite.models.network import Network
from robustsuite.training.parts import Build

SHAPE, BOUNDS = (1, 8, 8), (0.0, 1.0)
SOURCE = """
import torch
from torch import nn

def build(classes, shape, hidden=5):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[1] * shape[2], hidden), nn.ReLU(), nn.Linear(hidden, classes))

def mean(classes, mean=0.5):
    return build(classes, (1, 8, 8))

def wrapped():
    import robustsuite as rs
    return rs.wrap(build(10, (1, 8, 8)), mean=0.5)

def wrong():
    return "a network"

ready = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""


@pytest.fixture
def nets(tmp_path) -> str:
    (tmp_path / "my_nets.py").write_text(SOURCE)
    return str(tmp_path / "my_nets.py")


def test_a_spec_is_a_build_that_a_record_can_hold():
    spec = ModelSpec.parse({"name": "mlp", "hidden": [32, 16], "dropout": 0.5})
    assert isinstance(spec, Build)
    assert plain(spec)["options"] == [["dropout", 0.5], ["hidden", [32, 16]]]
    assert spec == ModelSpec.parse({"dropout": 0.5, "hidden": (32, 16), "name": "mlp"})
    assert hash(spec) == hash(dataclasses.replace(spec))
    assert ModelSpec.parse("cnn") == ModelSpec()


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ("resnet8", "did you mean resnet18"),
        ({"name": "cnnn"}, "did you mean cnn"),
        ({"name": "zzzzzz"}, "logistic, mlp"),
        ({"dropout": 0.5}, "write name: cnn"),
        ({"name": 3}, "name=3"),
        ({"name": "cnn", "dropuot": 0.5}, "dropuot=0.5; did you mean 'dropout'"),
        ({"name": "cnn", "dropout": 1.0}, "dropout=1.0"),
        ({"name": "cnn", "dropout": "half"}, "dropout='half'"),
        ({"name": "mlp", "hidden": []}, "at least one hidden layer"),
        ({"name": "mlp", "hidden": [0]}, "hidden=0"),
        ({"name": "mlp", "hidden": 128}, "hidden=128"),
        ({"name": "resnet18", "norm": "instance"}, "norm='instance'"),
        ({"name": "resnet18", "width": True}, "width=True"),
        ({"name": "wide-resnet", "depth": 15}, "depth=15"),
        ({"name": "dp-cnn", "activation": "gelu"}, "activation='gelu'"),
        ({"name": "logistic", "width": 1}, "no options"),
        ({"name": "cnn", "checkpoint": "nowhere.safetensors"}, "nowhere.safetensors"),
    ],
)
def test_everything_that_is_wrong_is_told_before_anything_is_built(values, told):
    with pytest.raises(RequestError, match=told):
        ModelSpec.parse(values)


def test_named_networks_come_with_a_normalisation_and_factories_as_they_are(nets):
    assert isinstance(ModelSpec()(10, SHAPE, BOUNDS), Network)
    spec = ModelSpec.parse({"factory": f"{nets}:build", "hidden": 7})
    made = spec(4, SHAPE, BOUNDS)
    assert isinstance(made, nn.Sequential)
    assert made[1].weight.shape == (7, 64)
    assert made(torch.rand(2, *SHAPE)).shape == (2, 4)
    assert spec.label == f"{nets}:build"
    assert ModelSpec.parse({"factory": f"{nets}:build", "name": "mine"}).label == "mine"


def test_a_module_instead_of_a_factory_is_copied(nets):
    spec = ModelSpec(factory=f"{nets}:ready")
    first, second = (spec(10, SHAPE, BOUNDS) for _ in range(2))
    assert first is not second
    assert torch.equal(first[1].weight, second[1].weight)


def test_a_factory_that_returns_no_module_is_named(nets):
    with pytest.raises(RequestError, match="returned str"):
        ModelSpec(factory=f"{nets}:wrong")(10, SHAPE, BOUNDS)


def test_a_checkpoint_brings_weights_and_statistics_and_its_content_is_part_of_the_key(tmp_path):
    network = ModelSpec("mlp")(10, SHAPE, BOUNDS)
    network.normalise.from_bounds((0.0, 2.0))
    save(network, tmp_path / "a.safetensors")
    spec = ModelSpec("mlp", checkpoint=str(tmp_path / "a.safetensors"))
    loaded = spec(10, SHAPE, BOUNDS)
    loaded.normalise.fit(Samples(torch.rand(4, *SHAPE), torch.arange(4), 10))
    assert all(
        torch.equal(a, b) for a, b in zip(network.state_dict().values(), loaded.state_dict().values(), strict=True)
    )
    network.body[1].weight.data += 1
    save(network, tmp_path / "a.safetensors")
    changed = ModelSpec("mlp", checkpoint=spec.checkpoint)
    assert plain(changed) != plain(spec)
    assert len(spec.weights_digest()) == 24
    assert ModelSpec("mlp").weights_digest() == ""


def test_a_block_wraps_what_its_factory_returns_after_its_weights_were_loaded(nets, tmp_path):
    inner = ModelSpec(factory=f"{nets}:build")(10, SHAPE, BOUNDS)
    save(inner, tmp_path / "a.safetensors")
    values = {"factory": f"{nets}:build", "checkpoint": str(tmp_path / "a.safetensors"), "mean": "1/2", "std": [0.25]}
    spec = ModelSpec.parse({**values, "bounds": [0, 1], "hidden": 5})
    made, x = spec(10, SHAPE, BOUNDS).eval(), torch.rand(3, *SHAPE)
    assert torch.equal(made(x), inner((x - 0.5) / 0.25))
    assert (made.bounds, made.output) == (BOUNDS, "logits")
    assert (spec.mean, spec.std, spec.options) == ((0.5,), (0.25,), (("hidden", 5),))
    assert plain(spec) != plain(ModelSpec.parse({**values, "mean": 0.4}))
    binary = ModelSpec.parse({"factory": f"{nets}:build", "output": "binary-logit"})
    assert binary(1, SHAPE, BOUNDS)(x).shape == (3, 2)
    # A checkpoint of what it made loads as well.
    save(made, tmp_path / "b.safetensors")
    again = ModelSpec.parse({**values, "checkpoint": str(tmp_path / "b.safetensors")})(10, SHAPE, BOUNDS).eval()
    assert torch.equal(again(x), made(x))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"name": "cnn", "mean": 0.5}, "a factory beside mean, got mean="),
        ({"factory": "NETS:build", "std": 0}, "std=0.0"),
        ({"factory": "NETS:build", "std": [0.1, "a"]}, "std='a'"),
        ({"factory": "NETS:build", "bounds": [0, 1, 2]}, "low < high"),
        ({"factory": "NETS:build", "bounds": 1}, "low < high"),
        ({"factory": "NETS:build", "output": "softmax"}, "output='softmax'"),
        ({"factory": "NETS:build", "bounds": [0, 255]}, "the data declare"),
        ({"factory": "NETS:mean", "mean": 0.3}, "rename its parameter"),
        ({"factory": "NETS:wrapped", "mean": 0.3}, "already"),
    ],
)
def test_declarations_that_cannot_be(nets, values, told):
    values = {key: value.replace("NETS", nets) if key == "factory" else value for key, value in values.items()}
    with pytest.raises(RequestError, match=told):
        ModelSpec.parse(values)(10, SHAPE, BOUNDS)
