import pytest
import torch
from torch import nn

from robustsuite.core.errors import RequestError
from robustsuite.core.samples import Samples
from robustsuite.models.build import NETS, ModelSpec
from robustsuite.models.network import Network, Norm
from robustsuite.models.normalise import Normalise

MNIST, CIFAR, DIGITS, ORL = (1, 28, 28), (3, 32, 32), (1, 8, 8), (1, 112, 92)


def build(spec, shape, classes=10):
    torch.manual_seed(0)
    return ModelSpec.parse(spec)(classes, shape, (0.0, 1.0))


def count(network) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("spec", "shape", "parameters"),
    [
        ("logistic", MNIST, 7850),
        ("mlp", MNIST, 101770),
        ({"name": "mlp", "hidden": [300, 100]}, MNIST, 266610),
        ("cnn", MNIST, 366806),
        ("dp-cnn", MNIST, 26010),
        ("resnet18", CIFAR, 11173962),
        ({"name": "resnet18", "norm": "group"}, CIFAR, 11173962),
        ("wide-resnet", CIFAR, 2748890),
        ({"name": "wide-resnet", "depth": 28, "widen": 10}, CIFAR, 36479194),
    ],
)
def test_parameter_counts_are_those_of_the_literature(spec, shape, parameters):
    with torch.device("meta"):
        assert count(build(spec, shape)) == parameters


@pytest.mark.parametrize("shape", [DIGITS, MNIST, CIFAR, ORL, (1, 4, 4), (3, 9, 70)])
def test_cnn_takes_images_of_every_size_and_stays_small(shape):
    network = build("cnn", shape, classes=7)
    assert network(torch.rand(2, *shape)).shape == (2, 7)
    assert count(network) < 480_000


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        ("logistic", (5,)),
        ("mlp", (28, 28)),
        ("dp-cnn", (3, 14, 20)),
        ("dp-cnn", ORL),
        ({"name": "resnet18", "width": 8}, DIGITS),
        ({"name": "resnet18", "width": 8, "norm": "group"}, CIFAR),
        ({"name": "wide-resnet", "depth": 10, "widen": 1}, DIGITS),
    ],
)
@pytest.mark.parametrize("classes", [2, 200])
def test_networks_score_every_class_and_learn_from_every_weight(spec, shape, classes):
    network = build(spec, shape, classes)
    logits = network(torch.rand(3, *shape))
    assert logits.shape == (3, classes)
    logits.logsumexp(1).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize(("spec", "shape"), [("cnn", (28, 28)), ("cnn", (1, 3, 3)), ("dp-cnn", DIGITS)])
def test_inputs_that_a_network_cannot_take_are_named(spec, shape):
    with pytest.raises(RequestError, match="shape="):
        build(spec, shape)


def test_group_norm_keeps_samples_apart_and_batch_norm_does_not():
    x = torch.rand(4, *DIGITS)
    for norm, apart in (("group", True), ("batch", False)):
        network = build({"name": "resnet18", "width": 8, "norm": norm}, DIGITS).train()
        kinds = {type(m) for m in network.modules()}
        assert (nn.GroupNorm in kinds, nn.BatchNorm2d in kinds) == (apart, not apart)
        alone, beside = network(x[:2])[0], network(x)[0]
        assert torch.allclose(alone, beside, atol=1e-5) is apart


@pytest.mark.parametrize("channels", [4, 8, 16, 24, 48, 64, 512])
def test_group_norm_never_erases_a_map_of_one_pixel(channels):
    layer = Norm("group")(channels)
    assert channels // layer.num_groups >= 4
    assert layer(torch.randn(2, channels, 1, 1)).abs().max() > 0.1


@pytest.mark.parametrize("name", ["cnn", "mlp", "dp-cnn", "resnet18", "wide-resnet"])
@pytest.mark.parametrize("norm", ["none", "batch", "group", "layer"])
def test_norms_look_at_the_batch_or_at_each_sample(name, norm):
    spec = {"name": name, "norm": norm, **({"width": 4} if name == "resnet18" else {})}
    if (name, norm) in {("dp-cnn", "batch"), ("resnet18", "none"), ("wide-resnet", "none")}:
        with pytest.raises(RequestError, match=f"got norm='{norm}'"):
            build(spec, (1, 16, 16))
        return
    network, x = build(spec, (1, 16, 16)).train(), torch.rand(4, 1, 16, 16)
    layers = [m for m in network.modules() if isinstance(m, (nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d))]
    assert bool(layers) is (norm != "none")
    if norm == "layer":
        assert {layer.num_groups for layer in layers} == {1}
    assert torch.allclose(network(x[:2])[0], network(x)[0], atol=1e-5) is (norm != "batch")


def test_dropout_acts_in_training_only_and_where_it_is_asked_for():
    for name in ("cnn", "mlp", "dp-cnn", "resnet18", "wide-resnet"):
        spec = {"name": name, "dropout": 0.5, **({"norm": "group"} if name.endswith(("18", "resnet")) else {})}
        network, x = build(spec, (1, 16, 16)), torch.rand(2, 1, 16, 16)
        assert not torch.equal(network(x), network(x))
        assert torch.equal(network.eval()(x), network(x))
    assert not any(isinstance(m, nn.Dropout) for m in build("cnn", DIGITS).modules())


def test_tanh_replaces_every_relu():
    network = build({"name": "dp-cnn", "activation": "tanh"}, MNIST)
    kinds = [type(m) for m in network.modules()]
    assert kinds.count(nn.Tanh) == 3
    assert nn.ReLU not in kinds


@pytest.mark.parametrize("name", [*NETS, "mobilenet_v3_small", "squeezenet1_1"])
def test_no_activation_works_in_place(name):
    shape = (1, 64, 64) if name not in NETS else (1, 16, 16)
    assert not any(getattr(m, "inplace", False) for m in build(name, shape).modules())


def test_same_seed_same_weights():
    assert torch.equal(build("cnn", DIGITS).body[0].weight, build("cnn", DIGITS).body[0].weight)


def test_torchvision_networks_take_grey_images_and_leave_the_training_mode_on():
    network = build("squeezenet1_1", (1, 32, 32), classes=4)
    assert all(m.training for m in network.modules())
    assert network.eval()(torch.rand(2, 1, 32, 32)).shape == (2, 4)


@pytest.mark.parametrize(
    ("spec", "shape", "told"),
    [
        ("squeezenet1_1", (1, 8, 8), "enlarge"),
        ("squeezenet1_1", (4, 32, 32), "1 or 3 channels"),
        ({"name": "squeezenet1_1", "depth": 3}, (3, 32, 32), "depth"),
    ],
)
def test_what_torchvision_cannot_build_is_a_request_error(spec, shape, told):
    with pytest.raises(RequestError, match=told):
        build(spec, shape)


def test_normalise_is_the_identity_until_it_is_set():
    x = torch.rand(5, *CIFAR)
    assert torch.equal(Normalise(CIFAR)(x), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_normalise_fits_mean_and_deviation_per_channel(dtype):
    x = torch.randint(0, 256, (5000, 3, 2, 2), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    x[:, 1] = x[:, 1] // 4
    x[:, 2] = 7
    raw = x.double() / 255
    samples = Samples(x if dtype == torch.uint8 else raw.float(), torch.arange(5000) % 2, 2)
    layer = Normalise((3, 2, 2)).fit(samples)
    assert torch.allclose(layer.mean.flatten().double(), raw.mean((0, 2, 3)), atol=1e-7)
    wanted = raw.std((0, 2, 3), correction=0)
    assert torch.allclose(layer.std.flatten()[:2].double(), wanted[:2], atol=1e-7)
    assert float(layer.std[2]) == 1.0  # a channel that never varies
    out = layer(samples.inputs())
    assert out.mean((0, 2, 3)).abs().max() < 1e-5
    assert torch.equal(out[:, 2], torch.zeros_like(out[:, 2]))


def test_normalise_of_vectors_is_per_feature_and_of_matrices_one_number():
    y = torch.tensor([0, 1])
    vectors = Normalise((2,)).fit(Samples(torch.tensor([[0.0, 0.5], [1.0, 0.7]]), y, 2))
    assert torch.allclose(vectors.mean, torch.tensor([0.5, 0.6]))
    assert torch.allclose(vectors.std, torch.tensor([0.5, 0.1]))
    assert Normalise((4, 4)).mean.shape == (1, 1)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)])
def test_normalise_from_bounds_reaches_minus_one_and_one(bounds):
    layer = Normalise((1, 2, 2)).from_bounds(bounds)
    ends = torch.tensor(bounds).reshape(2, 1, 1, 1)
    assert torch.allclose(layer(ends).flatten(), torch.tensor([-1.0, 1.0]))


def test_statistics_of_a_checkpoint_are_kept():
    layer = Normalise((1, 2, 2)).from_bounds((0.0, 255.0))
    layer.loaded = True
    layer.from_bounds((0.0, 1.0)).fit(Samples(torch.rand(4, 1, 2, 2), torch.arange(4) % 2, 2))
    assert float(layer.mean) == 127.5


def test_statistics_are_saved_with_the_weights():
    network = Network(Normalise((1, 2, 2)).from_bounds((0.0, 4.0)), nn.Flatten())
    assert set(network.state_dict()) == {"normalise.mean", "normalise.std"}
    assert network.double()(torch.full((1, 1, 2, 2), 4.0, dtype=torch.float64)).dtype == torch.float64
