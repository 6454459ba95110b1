"""The known-answer tests come out as they should here, and each planted bug makes the one fail that watches for it."""

import json
from contextlib import nullcontext
from dataclasses import asdict, replace

import pytest
import torch
from typer.testing import CliRunner

from robustsuite.cli.app import app
from robustsuite.core import intervals
from robustsuite.core.ball import Ball
from robustsuite.core.deployed import Outputs
from robustsuite.core.errors import RequestError
from robustsuite.core.streams import Streams
from robustsuite.core.suspicions import Effect, Suspicion
from robustsuite.plugins import registry
from robustsuite.results import deciding
from robustsuite.scenarios import play as playing
from robustsuite.scenarios import poisoning
from robustsuite.scenarios.evasion import judge
from robustsuite.scenarios.victim import Victim
from robustsuite.testing.known_answers import catalogue, doubtful, known_answer


def play(*names):
    return list(known_answer.outcomes(catalogue.chosen(names)))


@pytest.mark.parametrize("name", [c.name for c in catalogue.ALL])
def test_each_comes_out_as_it_should(name):
    (result,) = play(name)
    assert result.error == ""
    assert json.loads(json.dumps(asdict(result)))["name"] == name
    assert [finding for finding in result.findings if not finding.ok] == []
    assert len(result.findings) >= 4


def ball_overshoots(patch):
    honest = Ball.project
    patch.setattr(Ball, "project", lambda self, moved, x: x + 1.02 * (honest(self, moved, x) - x))


def ball_falls_short(patch):
    honest = Ball.project
    patch.setattr(Ball, "project", lambda self, moved, x: x + 0.98 * (honest(self, moved, x) - x))


def step_descends(patch):
    honest = Ball.step
    patch.setattr(Ball, "step", lambda self, x, way, length, **rest: honest(self, x, -way, length, **rest))


def everything_is_in_the_ball(patch):
    patch.setattr(Ball, "contains", lambda self, moved, x: torch.ones(len(x), dtype=torch.bool))


def bounds_are_not_checked(patch):
    honest = Ball.contains
    patch.setattr(Ball, "contains", lambda self, moved, x: honest(replace(self, bounds=None), moved, x))


def rejected_is_success(patch):
    honest = judge.ask_each

    def ask_each(model, x, *more):
        return Outputs(honest(model, x, *more).logits, torch.zeros(len(x), dtype=torch.bool))

    patch.setattr(judge, "ask_each", ask_each)


def rejected_is_right(patch):
    def correct(victim):
        return (victim.clean.prediction == victim.test.y) | victim.clean.rejected

    patch.setattr(Victim, "correct", property(correct))


def clean_errors_stand(patch):
    """Samples that the model gets wrong count as robust."""
    honest = judge.Judge.verdict

    def verdict(self):
        self._robust |= ~self._clean
        return honest(self)

    patch.setattr(judge.Judge, "verdict", verdict)


def the_view_is_believed(patch):
    """What an attack wrote into its view is taken for the data."""
    honest = judge.Judge.take

    def take(self, view, moved):
        self._given = lambda rows: (view.x, view.y, view.target)
        honest(self, view, moved)

    patch.setattr(judge.Judge, "take", take)
    patch.setattr(playing, "shown", lambda view: view)  # a copy would keep what is written out of the judge's view


def zero_gradients_go_unseen(patch):
    patch.setattr(judge, "_MASKED", 2.0)


def what_was_seen_is_forgotten(patch):
    honest = judge.Judge._doubt

    def doubt(self):
        self._meter.broken.clear()
        honest(self)

    patch.setattr(judge.Judge, "_doubt", doubt)


def flags_are_ignored(patch):
    patch.setattr(Suspicion.ZERO_GRADIENTS, "effects", Effect.STARTS)


def nothing_is_restored(patch):
    patch.setattr(playing, "untouched", lambda *modules: nullcontext())


def the_world_is_reseeded(patch):
    patch.setattr(playing, "seeded", lambda seed: nullcontext())


def draws_are_not_keyed(patch):
    def uniform(self, ids, shape=(), *, dtype=torch.float32):
        return torch.rand((len(ids), *shape), dtype=dtype)

    patch.setattr(Streams, "uniform", uniform)


def the_seed_is_ignored(patch):
    honest = Streams.uniform
    patch.setattr(Streams, "uniform", lambda self, ids, *a, **k: honest(Streams(0), ids, *a, **k))


def intervals_are_of_90_percent(patch):
    patch.setattr(intervals, "_Z", 1.6448536269514722)


def gates_pass_on_the_value_alone(patch):
    from robustsuite.testing.known_answers import exact

    honest = deciding.decide
    sure = lambda m, *a, **k: honest(replace(m, low=m.value, high=m.value), *a, **k)  # noqa: E731
    patch.setattr(exact, "decide", sure)


def poison_is_not_applied(patch):
    patch.setattr(poisoning.Poisoning, "_apply", lambda self, train, poison: train)


def the_trigger_is_not_shown(patch):
    patch.setattr(registry.attacks.get("badnets").cls, "__call__", _without_trigger)


def _without_trigger(self, view, streams):
    index = (view.samples.y != self.target).nonzero()[: view.budget, 0]
    blank = lambda x: x.clone()  # noqa: E731
    labels = torch.full((len(index),), self.target)
    return poisoning.Poison(index, view.samples.inputs(index), labels, blank, self.target)


def inversion_descends(patch):
    cls = registry.attacks.get("model-inversion").cls
    honest = cls._step
    patch.setattr(cls, "_step", lambda self, slope, width: -honest(self, slope, width))


def no_noise_is_added(patch):
    from opacus.optimizers import DPOptimizer

    def add_noise(self):
        for parameter in self.params:
            parameter.grad = parameter.summed_grad.view_as(parameter)

    patch.setattr(DPOptimizer, "add_noise", add_noise)


def the_accountant_assumes_another_rate(patch):
    from robustsuite.defenses import private_descent

    honest = private_descent.spent
    patch.setattr(private_descent, "spent", lambda told, *rest: honest([(s, q / 2, t) for s, q, t in told], *rest))


BUGS = {
    ball_overshoots: "linear",
    ball_falls_short: "linear",
    step_descends: "linear",
    clean_errors_stand: "rejecting",
    rejected_is_success: "rejecting",
    rejected_is_right: "rejecting",
    zero_gradients_go_unseen: "masked",
    flags_are_ignored: "masked",
    everything_is_in_the_ball: "cheating",
    bounds_are_not_checked: "cheating",
    the_view_is_believed: "cheating",
    what_was_seen_is_forgotten: "cheating",
    nothing_is_restored: "cheating",
    the_world_is_reseeded: "cheating",
    draws_are_not_keyed: "determinism",
    the_seed_is_ignored: "determinism",
    intervals_are_of_90_percent: "statistics",
    gates_pass_on_the_value_alone: "statistics",
    poison_is_not_applied: "backdoored",
    the_trigger_is_not_shown: "backdoored",
    inversion_descends: "invertible",
    no_noise_is_added: "accounting",
    the_accountant_assumes_another_rate: "accounting",
}


SLOW = (step_descends, inversion_descends)  # the first escalates everything, the second inverts to the end


@pytest.mark.parametrize(
    ("bug", "name"),
    [
        pytest.param(bug, name, id=bug.__name__, marks=pytest.mark.slow if bug in SLOW else ())
        for bug, name in BUGS.items()
    ],
)
def test_a_planted_bug_is_caught(monkeypatch, bug, name):
    bug(monkeypatch)
    (result,) = play(name)
    assert not result.ok
    assert any(not finding.ok for finding in result.findings), result.error


def test_one_that_raises_has_failed_and_the_others_go_on(monkeypatch):
    def broken():
        yield known_answer.same("before", 1, 1)
        raise RuntimeError("no such luck")

    made = (
        known_answer.KnownAnswer("broken", "raises", broken),
        catalogue.ALL[0],
        known_answer.KnownAnswer("empty", "", lambda: iter(())),
    )
    seen = []
    broke, fine, empty = known_answer.outcomes(made, lambda *step: seen.append(step))
    assert (broke.ok, fine.ok, empty.ok) == (False, True, False)
    assert broke.error.rstrip().endswith("RuntimeError: no such luck")
    assert [finding.what for finding in broke.findings] == ["before"]
    assert seen == [("broken", 0, 3), ("statistics", 1, 3), ("empty", 2, 3), ("finished", 3, 3)]


def test_findings_hold_figures_against_known_ones():
    assert known_answer.near("", 0.5, 0.5 + 1e-9, 1e-8).ok
    assert not known_answer.near("", 0.5, 0.6, 0.05).ok
    assert not known_answer.near("", 0.5, float("nan"), 1.0).ok
    assert not known_answer.at_least("", 0.5, float("nan")).ok
    assert not known_answer.at_most("", 0.5, float("nan")).ok
    assert (known_answer.at_least("", 0.5, 0.5).ok, known_answer.at_most("", 0.5, 0.5).ok) == (True, True)


def call(*arguments):
    done = CliRunner().invoke(app, ["selftest", *arguments])
    return done.exit_code, done.stdout, done.stderr


def test_the_command_tells_what_it_found():
    code, out, err = call("statistics")
    assert code == 0
    assert "ok statistics" in out
    assert "Wilson 81/263" in out
    assert "1 of 1 tests as expected" in err


def test_the_command_as_json():
    code, out, _ = call("statistics", "--json", "--quiet")
    (told,) = json.loads(out)
    assert code == 0
    assert told["ok"]
    assert told["seconds"] > 0
    assert told["findings"][0] == {
        "what": "Wilson 81/263",
        "expected": "[0.2553, 0.3662]",
        "measured": "[0.2553, 0.3662]",
        "ok": True,
    }


def test_the_command_fails_with_the_reason(monkeypatch):
    monkeypatch.setattr(doubtful, "_CHEATS", {})
    monkeypatch.setattr(intervals, "_Z", 1.0)
    code, out, err = call("statistics", "cheating")
    assert code == 1
    assert "FAILED statistics" in out
    assert "ok cheating" in out
    assert "failed: statistics" in err


def test_an_unknown_name():
    code, _, err = call("statistic")
    assert code == 2
    assert "did you mean 'statistics'" in err
    with pytest.raises(RequestError):
        catalogue.chosen(["x"])
