"""What foreign code is shown are copies; what it reaches in spite of that is put back."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

import robustsuite as rs
from robustsuite.access.inputs import Inputs
from robustsuite.core.ball import Ball
from robustsuite.core.errors import TamperingError
from robustsuite.core.samples import Samples
from robustsuite.data.copies import lent, shown, written
from robustsuite.scenarios import Evasion, Poisoning
from robustsuite.scenarios.play import craft, play
from robustsuite.scenarios.poisoning import Poison, TrainingSet
from robustsuite.storage.store import Store
from robustsuite.testing import tiny_samples, tiny_victim
from robustsuite.testing.victims import tiny_recipe
from robustsuite.training.cache import Trainer


def fresh(samples):
    """A digest that no cache remembers."""
    return samples.copy().digest()


@pytest.mark.parametrize("kind", ["slice", "expanded", "numpy", "transposed"])
def test_copies_share_no_memory_whatever_the_original_does(kind):
    base = torch.rand(20, 3, 4)
    x = {
        "slice": lambda: base[5:15],
        "expanded": lambda: base[:1].expand(10, 3, 4),
        "numpy": lambda: torch.from_numpy(np.full((10, 3, 4), 0.5, dtype=np.float32)),
        "transposed": lambda: base[5:15].transpose(1, 2),
    }[kind]()
    y = torch.zeros(1, dtype=torch.int64).expand(10)
    samples, before = Samples(x, y, 2), x.clone()
    copied = samples.copy()
    assert copied.digest() == samples.digest()
    for ours, theirs in zip((samples.x, samples.y, samples.ids), (copied.x, copied.y, copied.ids), strict=True):
        assert ours.untyped_storage().data_ptr() != theirs.untyped_storage().data_ptr()
    copied.x.data.fill_(1.0)
    copied.y.fill_(1)  # an expanded tensor could not even be written to
    assert torch.equal(samples.x, before)
    assert samples.intact()
    assert not copied.intact()


def test_a_shown_view_has_its_own_fields_and_shares_its_meter():
    view = Inputs(torch.rand(4, 2), torch.tensor([0, 1, 0, 1]), torch.arange(4), Ball("linf", 0.1), 2)
    seen = shown(view)
    assert written(seen, view) == ()
    assert seen.meter is view.meter
    seen.x.zero_()
    seen.ids.set_(torch.tensor([3]))
    object.__setattr__(seen.ball, "radius", 9.0)
    assert written(seen, view) == ("x", "ids", "ball")
    assert view.ball.radius == 0.1
    assert view.ids.tolist() == [0, 1, 2, 3]


def test_what_is_lent_is_put_back_and_named():
    samples, other = tiny_samples(20), tiny_samples(8)
    held, before = samples.x[3:5], samples.digest()

    def write(then):
        with lent("attack='mine'", samples, None, other):
            held.zero_()
            samples.y.data.fill_(1)
            object.__setattr__(samples, "ids", torch.zeros(20))
            object.__setattr__(samples, "bounds", (-1.0, 2.0))
            then()

    with pytest.raises(TamperingError, match="got attack='mine', under which they were written to"):
        write(lambda: None)
    assert fresh(samples) == before == fresh(tiny_samples(20))
    with pytest.raises(ZeroDivisionError):
        write(lambda: 1 / 0)
    assert fresh(samples) == before


@dataclass(frozen=True)
class Reaches:
    """Writes to what it holds in another way than by its view."""

    what: str
    victim: object

    def __call__(self, view, streams):
        head = self.victim.model.network.head
        {
            "labels": lambda: self.victim.train.y.zero_(),
            "inputs": lambda: self.victim.test.x.numpy().fill(0.5),
            "weights": lambda: next(self.victim.model.network.parameters()).data.zero_(),
            "parameter": lambda: setattr(head, "weight", nn.Parameter(torch.zeros_like(head.weight))),
        }[self.what]()
        if isinstance(view, TrainingSet):
            return Poison(torch.arange(1), view.samples.x[:1], view.samples.y[:1])
        return view.x


@pytest.mark.parametrize("what", ["labels", "inputs", "weights", "parameter"])
@pytest.mark.parametrize("game", [Poisoning(), Evasion(ball=Ball("linf", 0.1), follow_up=False)], ids=lambda g: g.name)
def test_a_game_that_leaves_a_trace_is_an_error_and_leaves_none(what, game):
    victim = tiny_victim(60)
    before = fresh(victim.train), fresh(victim.test), [p.clone() for p in victim.model.network.parameters()]
    with pytest.raises(TamperingError, match="got attack='Reaches', under which"):
        play(Reaches(what, victim), game, victim, seed=0)
    assert (fresh(victim.train), fresh(victim.test)) == before[:2]
    assert all(torch.equal(a, b) for a, b in zip(victim.model.network.parameters(), before[2], strict=True))


def test_what_is_crafted_on_data_that_were_written_to_is_an_error():
    victim = tiny_victim(60)
    view = next(Poisoning().views(victim))
    with pytest.raises(TamperingError, match="got attack='Reaches'"):
        craft(Reaches("labels", victim), view, seed=0)
    assert fresh(victim.train) == fresh(tiny_samples(320))


@dataclass(frozen=True)
class Prepares:
    """A filter that keeps what it was shown, and changes it when it is asked again."""

    held: list

    def __call__(self, samples, context):
        self.held[0].y.zero_()
        return samples


def test_nothing_is_kept_under_a_key_that_does_not_describe_it(tmp_path):
    """A training whose data change meanwhile is not kept, and one on changed data does not recall the old one."""
    samples, trainer = tiny_samples(80), Trainer(0, stores=(Store(tmp_path),))
    recipe = replace(tiny_recipe(), training=tiny_recipe().training.override({"epochs": 1}))
    key = trainer.key(recipe, samples)
    with pytest.raises(TamperingError, match="a recipe of Prepares, CleanLoss, GradientDescent"):
        trainer._fresh(replace(recipe, prepare=(Prepares([samples]),)), samples, key)
    assert fresh(samples) == samples.digest()
    trainer.fit(recipe, samples)
    assert trainer._find(key) is not None
    samples.y.zero_()
    with pytest.raises(TamperingError, match="written to since; make new Samples"):
        trainer.fit(recipe, samples)
    trainer.fit(recipe, replace(samples))
    assert len([*(tmp_path / "models").glob("*.json")]) == 2


@dataclass(frozen=True)
class Scribbles:
    """An evasion attack that writes into its view."""

    def __call__(self, view, streams):
        view.x.zero_()
        view.y.zero_()
        view.ids.zero_()
        return view.x


def test_a_callers_tensors_are_unwritten(monkeypatch):
    from robustsuite.plugins import registry

    victim = tiny_victim(12)
    x, y, model = victim.test.x.clone(), victim.test.y.clone(), victim.model.network
    kept = x.clone(), y.clone()
    attack = rs.attack("noise")
    monkeypatch.setattr(registry.attacks.get("noise").cls, "__call__", Scribbles.__call__)
    moved = rs.perturb(attack, model, x, y, Ball("linf", 0.1))
    report = rs.evaluate(model, (x, y), [attack], Ball("linf", 0.1))
    assert bool((moved == 0).all())
    assert torch.equal(x, kept[0])
    assert torch.equal(y, kept[1])
    record = next(r for r in report.records if r.attack == "noise")
    assert record.metrics["robust_accuracy"] == record.metrics["clean_accuracy"]
    assert "over-budget" in record.flags
