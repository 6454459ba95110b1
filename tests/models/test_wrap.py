import copy

import pytest
import torch
from torch import nn

import robustsuite as rs
from robustsuite.core.errors import ModelError, RequestError
from robustsuite.models.wrap import Wrapped, wrap

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)


def network(out: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 36, out))


X = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_normalising_by_hand(dtype):
    inner, x = network().to(dtype), X.to(dtype)
    by_hand = (x - torch.tensor(MEAN, dtype=dtype).view(1, 3, 1, 1)) / torch.tensor(STD, dtype=dtype).view(1, 3, 1, 1)
    answer = wrap(inner, mean=MEAN, std=STD)(x)
    assert answer.dtype == dtype
    assert torch.equal(answer, inner(by_hand))


def test_one_number_serves_every_channel_and_tensors_are_read():
    inner = network()
    expected = inner((X - 0.5) / 0.25)
    assert torch.equal(wrap(inner, mean=0.5, std=0.25)(X), expected)
    assert torch.equal(wrap(inner, mean=torch.full((3,), 0.5), std=torch.tensor(0.25))(X), expected)
    assert torch.equal(wrap(inner, std=0.25)(X), inner(X / 0.25))


def test_it_declares_bounds_and_output_and_is_public():
    model = rs.wrap(network(), bounds=(0, 255), output="probabilities", classes=4)
    assert isinstance(model, Wrapped)
    assert (model.bounds, model.output, model.classes) == ((0.0, 255.0), "probabilities", 4)


def test_gradients_reach_the_raw_inputs():
    x = X.clone().requires_grad_()
    wrap(network(), mean=MEAN, std=STD)(x).sum().backward()
    y = ((X - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)).requires_grad_()
    network()(y).sum().backward()
    assert torch.allclose(x.grad, y.grad / torch.tensor(STD).view(3, 1, 1), rtol=1e-5)


@pytest.mark.parametrize("flat", [True, False])
def test_a_binary_logit_keeps_decision_probability_and_gradient(flat):
    inner = nn.Sequential(network(1), nn.Flatten(0)) if flat else network(1)
    logits = wrap(inner, output="binary-logit", classes=2)(X)
    z = inner(X).reshape(-1)
    assert logits.shape == (6, 2)
    assert torch.equal(logits[:, 1] - logits[:, 0], z)
    assert torch.allclose(logits.softmax(1)[:, 1], z.sigmoid())
    assert torch.equal(logits.argmax(1), (z > 0).long())
    loss = nn.functional.cross_entropy(logits, torch.ones(6, dtype=torch.long))
    assert torch.allclose(loss, nn.functional.binary_cross_entropy_with_logits(z, torch.ones(6)))


def test_probabilities_become_logits_of_the_same_softmax():
    inner = nn.Sequential(network(), nn.Softmax(1))
    logits = wrap(inner, output="probabilities")(X)
    assert torch.allclose(logits.softmax(1), inner(X), atol=1e-6)
    assert torch.equal(logits.argmax(1), inner(X).argmax(1))


class Certain(nn.Module):
    def forward(self, x):
        return torch.tensor([[1.0, 0.0]]).repeat(len(x), 1)


def test_a_probability_of_zero_gives_finite_logits():
    logits = wrap(Certain(), output="probabilities")(X)
    assert torch.isfinite(logits).all()
    assert torch.allclose(logits.softmax(1), Certain()(X), rtol=0, atol=1e-30)


@pytest.mark.parametrize("name", ["mean", "std"])
def test_the_wrong_number_of_constants_is_told_at_the_first_call(name):
    model = wrap(network(), **{name: (0.5, 0.5)})
    with pytest.raises(RequestError, match=rf"a {name} per channel.*\(0\.5, 0\.5\).*3 channels"):
        model(X)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"output": "softmax"}, "output='softmax'"),
        ({"std": (0.1, 0.0, 0.1)}, "std=0.0"),
        ({"std": -1.0}, "std=-1.0"),
        ({"mean": (0.1, float("nan"), 0.1)}, "mean=nan"),
        ({"bounds": (1, 0)}, "low < high"),
        ({"classes": 1}, "classes=1"),
    ],
)
def test_impossible_declarations(settings, told):
    with pytest.raises(RequestError, match=told):
        wrap(network(), **settings)


def test_a_function_is_no_module():
    with pytest.raises(RequestError, match="function"):
        wrap(lambda x: x)


class Tuple(nn.Module):
    def forward(self, x):
        return (x,)


@pytest.mark.parametrize(
    ("inner", "settings", "told"),
    [
        (Tuple(), {}, "got tuple"),
        (network(2), {"output": "binary-logit"}, r"shape=\(6, 2\)"),
        (network(), {"output": "probabilities"}, "returns logits"),
        (network(), {"classes": 10}, r"\(6, 10\)"),
        (nn.Flatten(0), {"output": "probabilities"}, "shape="),
    ],
)
def test_outputs_that_are_not_what_was_declared(inner, settings, told):
    with pytest.raises(ModelError, match=told):
        wrap(inner, **settings)(X)


def test_the_model_inside_is_not_changed_and_its_mode_is_kept():
    inner = network().eval()
    state = copy.deepcopy(inner.state_dict())
    model = wrap(inner, mean=MEAN, std=STD)
    model(X)
    assert model.model is inner
    assert not model.training
    assert not any(m.training for m in inner.modules())
    assert all(torch.equal(state[k], v) for k, v in inner.state_dict().items())
    assert set(model.state_dict()) == {f"model.{key}" for key in state}
