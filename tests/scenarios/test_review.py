"""A game looks at its own verdicts again: the runner asks every one, and knows none."""

from dataclasses import dataclass, replace

import pytest

import robustsuite as rs
from robustsuite.core.ball import Ball
from robustsuite.core.suspicions import Effect, Suspicion
from robustsuite.evaluation.judge import judge
from robustsuite.evaluation.records import Record
from robustsuite.evaluation.resolve import Game
from robustsuite.plugins.registry import attacks
from robustsuite.scenarios import Evasion, Poisoning, Utility
from robustsuite.scenarios.play import play
from robustsuite.scenarios.protocol import Reviewed
from robustsuite.testing import tiny_victim


@dataclass(frozen=True)
class Stricter(Utility):
    """A stranger's game, which doubts whatever it measured."""

    def review(self, attack, victim, metrics, *, seed):
        return Reviewed(replace(metrics, flags=(*metrics.flags, "brand-new")), {"seed": seed, "n": len(victim.test)})


def judged(scenario, n):
    names = dict.fromkeys(("key", "suite", "dataset", "model", "defense", "attack"), "none")
    entry = attacks.get("none")
    blank = Record(order=0, scenario=scenario.name, seed=3, **names)
    return judge(blank, Game(entry, entry.make(), scenario), tiny_victim(n), None)


def test_what_a_strangers_review_finds_stands_in_the_record():
    blank = Record(
        key="k", order=0, suite="s", dataset="d", model="m", defense="none", attack="none", scenario="x", seed=3
    )
    entry = attacks.get("none")
    record = judge(blank, Game(entry, entry.make(), Stricter()), tiny_victim(101), None)
    assert record.status == "ok"
    assert record.flags[-1] == "brand-new"
    assert record.review == {"seed": 3, "n": 101}


def test_a_review_that_raises_is_an_error_of_its_cell(monkeypatch):
    def broken(self, attack, victim, metrics, *, seed):
        raise ValueError("no second look")

    monkeypatch.setattr(Utility, "review", broken)
    blank = Record(
        key="k", order=0, suite="s", dataset="d", model="m", defense="none", attack="none", scenario="utility"
    )
    entry = attacks.get("none")
    record = judge(blank, Game(entry, entry.make(), Utility()), tiny_victim(20), None)
    assert record.status == "error"
    assert "no second look" in record.message


@pytest.mark.parametrize(
    ("attack", "game"),
    [
        ("pgd", Evasion(ball=Ball("linf", 0.1), follow_up=False)),
        ("pgd", Evasion(ball=Ball("linf", 0.0))),
        ("noise", Evasion(ball=Ball("linf", 0.1), access="blind")),
        ("fgsm", Evasion(ball=Ball("linf", 0.1))),
        ("label-flip", Poisoning(fraction=0.1)),
    ],
)
def test_what_is_not_examined_is_as_the_judge_left_it(attack, game):
    victim, made = tiny_victim(24), rs.attack(attack)
    metrics = play(made, game, victim, seed=0)
    assert game.review(made, victim, metrics, seed=0) == Reviewed(metrics)


def test_evasion_examines_a_white_box():
    victim, game, made = tiny_victim(24), Evasion(ball=Ball("linf", 0.1)), rs.attack("pgd", steps=3)
    found = game.review(made, victim, play(made, game, victim, seed=0), seed=0)
    assert {"verdict", "found_by"} <= set(found.metrics.per_sample)
    assert found.facts["rules"]
    assert all(Suspicion.of(code) for code in found.facts["checks"])


def test_what_starts_follow_ups_is_about_the_model_or_the_attack_and_withholds_the_verdict():
    assert Suspicion.that(Effect.STARTS) <= Suspicion.that(Effect.WITHHOLDS)
    assert Suspicion.that(Effect.MILD) | Suspicion.that(Effect.BLURS) <= Suspicion.that(Effect.STARTS)


def test_what_attacks_resolve_is_what_starts_follow_ups():
    starting = Suspicion.that(Effect.STARTS)
    resolved = [entry.resolves for entry in attacks.all()]
    assert {code for codes in resolved for code in codes} == starting
