"""What passes between the suite and a network."""

import dataclasses

import pytest
import torch
from torch import nn

import robustsuite as rs
from robustsuite.access.meter import Meter
from robustsuite.access.views import make_view
from robustsuite.core.deployed import Served
from robustsuite.core.door import Door, as_logits, labels_of
from robustsuite.core.errors import ModelError
from robustsuite.testing import tiny_network, tiny_samples


class Bytes(nn.Module):
    """Embeds bytes, as networks over files do; two classes."""

    def __init__(self, strict):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head, self.strict = nn.Embedding(257, 8), nn.Linear(8 * 16, 2), strict

    def forward(self, x):
        return self.head(self.embedding(x if self.strict else x.long()).flatten(1))


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.int32], ids=str)
def test_integers_stay_integers(strict, dtype):
    x = torch.randint(1, 200, (100, 16), generator=torch.Generator().manual_seed(0)).to(dtype)
    if strict and dtype == torch.uint8:
        pytest.skip("no embedding takes bytes")
    model = Bytes(strict).eval()
    y = model(x).argmax(1)
    tiny = rs.Ball("linf", 0.1, bounds=(0, 256))
    record = rs.evaluate(model, (x, y), ["square(queries=20)"], tiny, rules={"follow_up": False}).records[1]
    assert record.metrics["robust_accuracy"].value == 1.0, "no other integer lies in the ball"
    wide = rs.Ball("linf", 40, bounds=(0, 256))
    moved = rs.perturb("square(queries=20)", model, x, y, wide)
    assert moved.dtype == dtype
    assert 1 <= int((moved.long() - x.long()).abs().max()) <= 40
    judged = rs.evaluate(model, (x, y), ["square(queries=20)"], wide, rules={"follow_up": False}).records[1]
    robust = float((model(moved).argmax(1) == y).double().mean())
    assert judged.metrics["robust_accuracy"].value == pytest.approx(robust)


def test_images_in_bytes_are_judged_in_bytes():
    net, samples = tiny_network(), tiny_samples(60, first=10_000)
    x = (samples.x * 255).round().to(torch.uint8)

    class Scaled(nn.Module):
        def forward(self, x):
            return net(x.float() / 255)

    model = rs.wrap(Scaled().eval(), bounds=(0, 255))
    report = rs.evaluate(model, (x, samples.y), ["pgd(steps=5)"], rs.Ball("linf", 20.5), rules={"follow_up": False})
    moved = rs.perturb("pgd(steps=5)", model, x, samples.y, rs.Ball("linf", 20.5))
    assert moved.dtype == torch.uint8
    assert int((moved.int() - x.int()).abs().max()) == 20
    robust = float((model(moved).argmax(1) == samples.y).float().mean())
    assert report.records[1].metrics["robust_accuracy"].value == pytest.approx(robust)
    assert "whole numbers (uint8)" in report.records[0].message


def test_perturb_returns_the_dtype_that_it_was_given():
    net, samples = tiny_network(), tiny_samples(8, first=10_000)
    for dtype in (torch.float32, torch.float64, torch.float16):
        given = samples.x.to(dtype)
        assert rs.perturb("fgsm", net, given, samples.y, ("linf", 0.1)).dtype == dtype


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((torch.zeros(3, 4), torch.zeros(3, 7)), "tuple of (3, 4), (3, 7)"),
        ({"a": "text"}, "dict of str"),
        (None, "got NoneType"),
        (torch.zeros(3), 'output="binary-logit"'),
        (torch.zeros(4, 4), "expected logits of shape (3, classes)"),
    ],
)
def test_what_is_no_logits_is_refused_with_the_way_out(answer, said):
    with pytest.raises(ModelError) as refused:
        as_logits(answer, 3)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_lone_answer_without_a_number_has_no_label():
    logits = torch.tensor([[0.0, 2.0, 1.0], [torch.nan, 0, 0], [torch.inf, 0, 0], [-torch.inf, 0.0, 1.0]])
    assert labels_of(logits).tolist() == [1, 3, 3, 2]


def test_what_a_network_raises_is_told_in_one_line():
    class Picky(nn.Module):
        def forward(self, x):
            raise ZeroDivisionError("first line\nsecond line")

    with pytest.raises(ModelError) as refused:
        Door(Picky())(torch.zeros(5, 3))
    assert "inputs of shape (5, 3) and torch.float32" in str(refused.value)
    assert "ZeroDivisionError: first line;" in str(refused.value)


def test_a_network_that_fails_on_one_input_is_not_taken_for_one_of_a_fixed_size():
    class Suspicious(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            if bool((x > 5).any()):
                raise ValueError("I do not like this")
            return x

    network = Suspicious()
    door = Door(network)
    door(torch.zeros(3, 2))
    door(torch.zeros(4, 2))
    bad = torch.zeros(3, 2)
    bad[1] = 9
    with pytest.raises(ModelError, match="I do not like this"):
        door(bad)
    assert network.calls == 3
    assert not door.notes


def test_bounds_are_read_from_no_foreign_attribute():
    class Bounded(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.bounds = tiny_network(), (-30.0, 30.0)

        def forward(self, x):
            return self.inner(x).clamp(*self.bounds)

    samples = tiny_samples(20, first=10_000)
    moved = rs.perturb("pgd(steps=5)", Bounded().eval(), samples.x, samples.y, ("linf", 0.5))
    assert float(moved.min()) >= 0
    assert float(moved.max()) <= 1


def test_inputs_out_of_bounds_by_rounding_are_clipped_and_counted():
    samples = tiny_samples(40, first=10_000)
    x = samples.x.clone()
    x[3, 0, 0, 0], x[7, 0, 0, 0] = 1 + 3e-7, -3e-7
    report = rs.evaluate(tiny_network(), (x, samples.y), ["ddn(steps=5)"], ("l2", 0.5), rules={"follow_up": False})
    assert "2 inputs lay out of bounds by no more than rounding, and were clipped" in report.records[0].message
    assert "over-budget" not in report.records[1].flags


def test_minimum_norm_attacks_go_through_re_entrant_checkpoints():
    from robustsuite.testing.awkward import awkward_network

    samples = tiny_samples(40, first=10_000)
    found = [
        rs.evaluate(net, (samples.x, samples.y), ["deepfool"], ("linf", 0.1), rules={"follow_up": False}).records[1]
        for net in (tiny_network(), awkward_network("computes again on the way back"))
    ]
    plain, checkpointed = (record.metrics["robust_accuracy"].value for record in found)
    assert plain == checkpointed


def test_integers_are_asked_in_their_dtype_for_clean_answers_too():
    class Wraps(nn.Module):
        def forward(self, x):
            if x.dtype == torch.uint8:
                x = (x + 20).float() - 20  # 236 and more become small
            return tiny_network()(x / 255)

    samples = tiny_samples(60, first=10_000)
    x = (samples.x * 255 + 60).clamp(0, 255).round().to(torch.uint8)
    x[:8] = x[:8].clamp_max(100)
    model = rs.wrap(Wraps().eval(), bounds=(0, 255))
    report = rs.evaluate(model, (x, samples.y), ["fgsm"], rs.Ball("linf", 4), rules={"follow_up": False})
    right = float((model(x).argmax(1) == samples.y).double().mean())
    assert report.records[0].metrics["clean_accuracy"].value == pytest.approx(right)


def test_a_lost_batch_axis_is_not_taken_for_a_fixed_batch_size():
    class Turned(nn.Module):
        def forward(self, x):
            return tiny_network()(x).t()

    with pytest.raises(ModelError, match="keep the batch axis first"):
        Door(Turned().eval())(tiny_samples(6, first=10_000).x)


def test_inputs_in_bfloat16_are_read():
    samples = tiny_samples(20, first=10_000)
    report = rs.evaluate(tiny_network(), (samples.x.bfloat16(), samples.y), ["fgsm"], ("linf", 0.1))
    assert report.records[1].status == "ok"


def test_what_a_16_bit_network_is_given_stays_within_bounds():
    from robustsuite.testing import tiny_victim

    victim = tiny_victim(12, dtype=torch.bfloat16)
    narrow = dataclasses.replace(victim.test, x=victim.test.x.clamp(0.3013, 0.5017), bounds=(0.3013, 0.5017))
    given = dataclasses.replace(victim, test=narrow).given(narrow.x)
    assert float(given.min()) >= 0.3013
    assert float(given.max()) <= 0.5017


@pytest.mark.parametrize(
    "answer",
    [
        (torch.zeros(3, 4), torch.zeros(3, 4, 2)),
        {"logits": torch.zeros(3, 4), "features": torch.zeros(3, 9)},
        torch.zeros(3, 4).to_sparse(),
        [torch.zeros(3, 4)],
    ],
)
def test_logits_are_found(answer):
    assert torch.equal(as_logits(answer, 3), torch.zeros(3, 4))


def test_features_are_not_taken_for_logits():
    with pytest.raises(ModelError, match="return only the logits"):
        as_logits({"features": torch.zeros(3, 9), "out": torch.zeros(3, 4, 1, 1)}, 3)


def test_an_answer_stays_what_it_was_when_the_network_uses_its_memory_again():
    from robustsuite.testing.awkward import awkward_network

    door, samples = Door(awkward_network("hands out the same memory each time")), tiny_samples(12, first=10_000)
    with torch.no_grad():
        first = door(samples.x[:6])
        before = first.clone()
        door(samples.x[6:])
    assert torch.equal(first, before)
    assert not first.is_inference()


class SameGradient(nn.Module):
    """Writes its input gradient to the same memory each time, as replayed graphs do."""

    class Hook(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, memory):
            ctx.memory = memory
            return x.clone()

        @staticmethod
        def backward(ctx, slope):
            held = ctx.memory[: len(slope)]
            return held.copy_(slope), None

    def __init__(self, inner):
        super().__init__()
        self.inner, self.memory = inner, torch.zeros(64, 1, 8, 8)

    def forward(self, x):
        return self.inner(self.Hook.apply(x, self.memory))


def test_a_gradient_is_the_suites_own():
    samples = tiny_samples(20, first=10_000)
    given = {"x": samples.x, "y": samples.y, "ids": samples.ids, "ball": rs.Ball("linf", 0.1), "classes": 4}
    view = make_view("white-box", Served(SameGradient(tiny_network())), {**given, "meter": Meter()})
    rows = torch.arange(20)
    first = view.value_and_grad(samples.x, rows).gradient
    before = first.clone()
    assert not torch.equal(view.value_and_grad(1 - samples.x, rows).gradient, before)
    assert torch.equal(first, before)
