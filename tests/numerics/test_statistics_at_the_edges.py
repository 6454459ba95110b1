"""Every rate, interval, median and threshold at its edges: 1 and 2 samples, odd, even, all equal, one class empty.

`STATISTICS` lists them, a line each: what it is called and the law that it obeys there. A statistic that is not in the
list fails the last tests: every public function of the statistics modules, and every figure that a game may give.
"""

import inspect
import itertools
import math
import statistics as python_statistics

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter
from scipy.stats import binom, binomtest, multinomial
from scipy.stats import t as student
from sklearn.metrics import precision_recall_fscore_support
from torch import nn

from robustsuite.core import intervals, metrics, paired
from robustsuite.core.ball import Ball
from robustsuite.core.deployed import Served
from robustsuite.core.errors import RequestError
from robustsuite.core.intervals import (
    at_level,
    clopper_pearson,
    interval,
    least_rate,
    median,
    over_repeats,
    rate,
    wilson,
)
from robustsuite.core.metric import Metric
from robustsuite.core.samples import Samples
from robustsuite.defenses.input_validation import InputValidation, joint_thresholds
from robustsuite.evaluation.joining import _median as joined_median
from robustsuite.models.build import ModelSpec
from robustsuite.results.deciding import samples_needed
from robustsuite.scenarios import SCENARIOS, Evasion, Inversion, Poisoning, Utility
from robustsuite.scenarios.chance import doubt_chance
from robustsuite.scenarios.inversion import _similarity, class_means
from robustsuite.scenarios.play import play
from robustsuite.scenarios.poisoning import Poison
from robustsuite.scenarios.victim import Victim
from robustsuite.training.parts import training_loss
from robustsuite.training.recipe import Recipe
from robustsuite.training.settings import Training
from robustsuite.training.trained import Trained

SIZES = (1, 2, 5, 6, 19)
RATES = np.linspace(0.0, 1.0, 41)
VALUES = ([0.3], [0.1, 0.9], [0.7, 0.1, 0.4], [0.8, 0.1, 0.9, 0.2], [0.5] * 4, [0.5] * 5, [2.0, math.inf])
CLASSES = 4  # of which class 2 never has a sample
# True and predicted classes.
LABELLED = (
    ([1], [1]),
    ([1], [0]),
    ([0, 1], [0, 0]),
    ([0, 0, 1, 3, 3], [0, 2, 1, 0, 3]),
    ([0, 0, 1, 1, 3, 3], [0, 1, 1, 1, 3, 2]),
    ([3] * 6, [3] * 6),
    ([3] * 6, [2] * 6),
)


def the_least_count_is_the_least():
    for wanted, known in itertools.product(range(1, 40), (0, 1, 2, 7)):
        assert intervals.least_count(lambda n, wanted=wanted: n >= wanted, known, 1000) == max(wanted, known + 1)
    assert intervals.least_count(lambda n: n >= 5000, 1, 1000) is None


def coverage(rule, n, rates=RATES):
    """Exact: the binomial mass of all outcomes whose interval holds the rate."""
    ends = np.array([rule(k, n) for k in range(n + 1)])
    mass = binom.pmf(np.arange(n + 1)[:, None], n, rates)
    return (mass * ((ends[:, :1] <= rates + 1e-12) & (rates - 1e-12 <= ends[:, 1:]))).sum(0)


# --- the laws


def intervals_cover(rule, least, sizes=SIZES, rates=RATES):
    for n in sizes:
        assert coverage(rule, n, rates).min() >= least - 1e-12
        for k in range(n + 1):
            low, high = rule(k, n)
            assert 0 <= low <= k / n <= high <= 1
    assert rule(0, 0) == (0.0, 1.0)


def a_rate_is_a_share():
    for outcomes in ([True], [False], [True, False], [True] * 7, [False] * 6, [True, False, True]):
        found = rate(torch.tensor(outcomes), "higher")
        assert found.value == sum(outcomes) / len(outcomes)
        assert (found.low, found.high) == interval(sum(outcomes), len(outcomes))
    assert math.isnan(rate(torch.zeros(0, dtype=torch.bool), "higher").value)


def the_least_rate_covers():
    """Simulated where rates are equal, which is worst; sizes differ, one group is empty, and all may be right."""
    generator = np.random.default_rng(0)
    for sizes, p in (((36,) * 10, 0.95), ((36,) * 10, 0.8), ((1, 2, 5, 0), 0.9), ((2, 2), 0.5), ((200, 3, 0, 50), 0.9)):
        missed = 0
        for _ in range(600):
            found = least_rate([torch.from_numpy(generator.random(n) < p) for n in sizes], "higher")
            assert found.low <= found.value <= found.high
            missed += not found.low <= p <= found.high
        assert missed / 600 <= 0.05 + 1.64 * (0.05 * 0.95 / 600) ** 0.5
    one = torch.tensor([True, False, True])
    alone = least_rate([one, one[:0]], "higher")
    assert (alone.low, alone.high) == clopper_pearson(2, 3)
    assert math.isnan(least_rate([one[:0]], "higher").value)


def the_median_is_numpys(function=median):
    for values in VALUES:
        for order in itertools.islice(itertools.permutations(values), 24):
            for given in (order, torch.tensor(order), torch.tensor(order, dtype=torch.float64)):
                assert function(given) == pytest.approx(float(np.median(values)), abs=1e-7)
                assert function(given) == pytest.approx(python_statistics.median(values), abs=1e-7)
    assert function(torch.tensor([3, 4])) == 3.5
    assert math.isnan(function([]))


def repeats_have_students_interval():
    for values in ([0.5], [0.2, 0.4], [0.1, 0.5, 0.6], [0.3] * 4):
        found = over_repeats([Metric(v, 10, v - 0.1, v + 0.1, "rate") for v in values])
        count, mean = len(values), sum(values) / len(values)
        spread = 0.0 if count == 1 else float(np.std(values, ddof=1)) * student.ppf(0.975, count - 1) / count**0.5
        assert found.value == pytest.approx(mean)
        assert found.high == pytest.approx(min(1.0, mean + math.hypot(spread, 0.1)))
        assert found.low == pytest.approx(max(0.0, mean - math.hypot(spread, 0.1)))


def mcnemar_is_exact():
    for worse, better in itertools.product(range(7), repeat=2):
        expected = binomtest(worse, worse + better).pvalue if worse + better else 1.0
        assert paired.mcnemar(worse, better) == pytest.approx(expected)


def sign_flips_are_enumerated():
    for differences in ([1], [1, -1], [1, 1, 1], [2, -1, 1, 1], [0, 0], [1] * 6):
        swaps = [abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
                 for signs in itertools.product((1, -1), repeat=len(differences))]  # fmt: skip
        assert paired.sign_flip(differences) == pytest.approx(np.mean(np.array(swaps) >= abs(sum(differences))))


def the_paired_interval_covers():
    """A score interval: over few samples at least .92, and all of [-1, 1] of none."""
    for n in (1, 2, 5, 6):
        ends = {(a, b): paired.paired_interval(a, b, n) for a in range(n + 1) for b in range(n + 1 - a)}
        assert all(low <= (a - b) / n <= high for (a, b), (low, high) in ends.items())
        for gain, loss in itertools.product((0.0, 0.1, 0.3, 0.45, 0.5), repeat=2):
            held = [k for k, (low, high) in ends.items() if low - 1e-9 <= gain - loss <= high + 1e-9]
            mass = sum(multinomial.pmf([a, b, n - a - b], n, [gain, loss, 1 - gain - loss]) for a, b in held)
            assert mass >= 0.92
    assert paired.paired_interval(0, 0, 0) == (-1.0, 1.0)


def crossed_differences_hold_their_value():
    for n, trainings in itertools.product((1, 2, 5, 6), (2, 3)):
        same = np.ones((trainings, n), dtype=bool)
        equal, lost = paired.crossed(same, same), paired.crossed(same, ~same)
        assert (equal.value, equal.p) == (0.0, 1.0)
        assert equal.low < 0 < equal.high
        assert lost.value == -1.0
        assert lost.low == -1.0 <= lost.high
        assert lost.p >= lost.p_weights == pytest.approx(paired.sign_flip([-trainings] * n))
        assert paired.repeats_needed(equal, 0.05) is None  # nothing to call


def holm_is_its_definition():
    for p in ([0.04], [0.04, 0.01], [0.02] * 3, [0.5, 1.0, 0.001, 0.0]):
        order = sorted(p)
        expected = [max(min(1.0, (len(p) - i) * order[i]) for i in range(order.index(x) + 1)) for x in p]
        assert paired.holm(p) == pytest.approx(expected)
    assert paired.holm([]) == []


def the_samples_needed_decide():
    for true, floor in ((1.0, 0.5), (1.0, 0.9), (0.0, 0.1), (0.6, 0.3)):
        n = samples_needed(true, floor)
        decided = [interval(k, n)[0] >= floor if true >= floor else interval(k, n)[1] < floor for k in range(n + 1)]
        assert binom.pmf(np.arange(n + 1), n, true) @ np.array(decided) >= 0.8
    assert samples_needed(0.5, 0.5) is None


def chance_is_told_from_better():
    for n in (1, 2, 5):
        assert doubt_chance(torch.zeros(n, dtype=torch.bool), torch.arange(n) % 2, 2) == ()  # too few to tell
    assert doubt_chance(torch.zeros(0, dtype=torch.bool), torch.zeros(0, dtype=torch.long), 2) == ()
    y = torch.arange(60) % 3  # of 4 classes, so one is empty
    assert doubt_chance(y == 0, y, 4) == ("near-chance",)
    assert doubt_chance(y < 3, y, 4) == ()
    assert doubt_chance(torch.ones(60, dtype=torch.bool), torch.zeros(60, dtype=torch.long), 2) == ()  # of one class


def joint_thresholds_keep_the_rate():
    """Of M + 1 inputs, each of which may be the fresh one, k detectors reject at most the share that was asked for.

    That is the chance of a fresh input where all are exchangeable: no draw decides, for scores that are free, tied, the
    same for all detectors, opposite, or all equal.
    """
    generator = torch.Generator().manual_seed(0)
    kinds = {
        "free": lambda s: s,
        "tied": lambda s: s.clamp_min(0.5).mul(4).round(),
        "one": lambda s: s[..., :1].expand_as(s),
        "opposite": lambda s: torch.cat([s[..., :1], -s[..., :1], s[..., 2:]], -1),
        "all equal": torch.zeros_like,
    }
    for k, share, m in ((1, 0.05, 19), (2, 0.05, 39), (2, 0.05, 40), (2, 0.5, 3), (3, 0.1, 29), (2, 0.1, 99)):
        for made in kinds.values():
            pool = made(torch.randn(m + 1, max(k, 2), generator=generator))[:, :k]
            rejected = 0
            for i in range(m + 1):
                others = pool[torch.arange(m + 1) != i]
                cuts = joint_thresholds({str(j): others[:, j] for j in range(k)}, share)
                assert all(math.isfinite(cut) for cut in cuts.values())
                rejected += bool((pool[i] > torch.tensor(list(cuts.values()))).any())
            assert rejected <= share * (m + 1) + 1e-9
    for k, m in ((1, 18), (2, 19), (2, 38), (3, 58)):  # too few for the rate: nothing is rejected, and it is refused
        free = torch.arange(float(m * k)).reshape(k, m).flip(0)
        opposite = {str(i): row if i % 2 else -row for i, row in enumerate(free)}
        assert all(math.isinf(cut) for cut in joint_thresholds(opposite, 0.05).values())
    for detectors, needed in ((("feature-squeezing",), 19), (("feature-distance", "feature-squeezing"), 39)):
        with pytest.raises(RequestError, match=f"at least {needed} samples"):
            InputValidation(detectors=detectors).enough(needed - 1)
        InputValidation(detectors=detectors).enough(needed)


def class_weights_have_mean_one():
    """Weights reach the sample's class alone, with smoothing or without, whatever classes are empty or single."""
    logits = torch.randn(6, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for y in (y for y, _ in LABELLED):
        samples = Samples(torch.zeros(len(y), 2), torch.tensor(y), CLASSES)
        for smoothing in (0.0, 0.1):
            plain, weighted = (
                training_loss(Training(class_weights=kind, label_smoothing=smoothing), samples)(
                    logits[: len(y)], samples.y
                )
                for kind in ("none", "balanced")
            )
            counts = torch.bincount(samples.y, minlength=CLASSES)
            weights = len(y) / (len(set(y)) * counts[samples.y].double())
            assert torch.allclose(weighted, plain * weights)
            assert float(weights.mean()) == pytest.approx(1.0)


# --- the figures of the games


class Told(nn.Module):
    """The input is the logits, up to a factor."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, x):
        return x.flatten(1) * self.scale


class Gives:
    """A trainer that gives one model, whatever it is to train."""

    def __init__(self, model):
        self.model = model

    def job(self, job):
        return Trained(self.model)


def saying(labels, confidence=0.9):
    return confidence * nn.functional.one_hot(torch.tensor(labels), CLASSES).float()


def told(y, said, **known):
    return Victim(Served(Told()), Samples(saying(said), torch.tensor(y), CLASSES), **known)


def utility_is_sklearns():
    for y, said in LABELLED:
        found = play(lambda view, streams: None, Utility(), told(y, said), seed=0).values
        right = np.array(y) == np.array(said)
        assert found["clean_accuracy"].value == right.mean()
        assert found["clean_accuracy"].low == interval(int(right.sum()), len(y))[0]
        macro = precision_recall_fscore_support(y, said, labels=sorted(set(y)), average="macro", zero_division=0)
        names = ("precision_macro", "recall_macro", "f1_macro")
        assert [found[name].value for name in names] == pytest.approx(list(macro[:3]))
        sure = math.exp(2.7) / (math.exp(2.7) + CLASSES - 1)  # of every answer, so that they share a bin
        assert found["expected_calibration_error"].value == pytest.approx(abs(right.mean() - sure), abs=1e-6)


def evasion_counts():
    """Samples of which some are moved to another class, at distances of their own."""
    for n, broken in ((1, 1), (1, 0), (2, 1), (5, 3), (6, 4), (6, 6), (6, 0)):
        y = [0, 1, 3, 3, 0, 1][:n]
        victim = told(y, y)
        moved = victim.test.inputs().clone()
        for i in range(broken):
            moved[i, (y[i] + 1) % CLASSES] = 0.91 + 0.01 * i
        asked = [3 + i for i in range(n)]

        def attack(view, streams, moved=moved, asked=asked):
            for row, i in enumerate(view.ids.tolist()):
                for _ in range(asked[i]):
                    view.labels(view.x[row : row + 1], torch.tensor([row]))
            return moved[view.ids]

        game = Evasion(ball=Ball("linf", 1.0), access="decision-based", follow_up=False)
        found = play(attack, game, victim, seed=0).values
        assert found["robust_accuracy"].value == (n - broken) / n
        assert found["attack_success_rate"].value == found["attack_success_rate_all"].value == broken / n
        assert found["queries_median"].value == np.median(asked)
        if broken:
            assert found["distance_median"].value == pytest.approx(np.median([0.91 + 0.01 * i for i in range(broken)]))
        else:
            assert "distance_median" not in found


def poisoning_counts():
    """The model before is always right, and what the trainer gives answers as `said`; a class of the four is empty."""
    for y, said in LABELLED:
        train = Samples(saying([0, 1, 3]), torch.tensor([0, 1, 3]), CLASSES)

        class Shifted(Told):
            """Answers as `said`, in the order of the test samples, which are asked at once."""

            def __init__(self, said=said):
                super().__init__()
                self.said = saying(said)

            def forward(self, x):
                return self.said[: len(x)] * self.scale

        victim = told(y, y, train=train, recipe=Recipe(build=ModelSpec("logistic")), trainer=Gives(Served(Shifted())))
        nothing = Poison(torch.zeros(0, dtype=torch.long), train.x[:0], train.y[:0])
        found = play(lambda view, streams, nothing=nothing: nothing, Poisoning(fraction=0.5), victim, seed=0).values
        right = np.array(y) == np.array(said)
        assert found["clean_accuracy"].value == right.mean()
        assert found["accuracy_drop"].value == pytest.approx(1 - right.mean())
        low, high = paired.paired_interval(int((~right).sum()), 0, len(y))
        assert (found["accuracy_drop"].low, found["accuracy_drop"].high) == (low, high)
        assert found["recall_worst_class"].value == min(right[np.array(y) == c].mean() for c in set(y))
        assert found["poisoned"].value == 0


def inversion_counts_what_was_trained_on():
    """Two of four classes have samples; what is made of the others is right and is not counted, or wrong likewise."""
    for have, made in (([1], [0, 1, 2, 3]), ([0, 3], [0, 2, 2, 3]), ([0, 1, 3], [0, 3, 2, 1]), ([1, 3], [1, 0, 0, 1])):
        train = Samples(saying(have), torch.tensor(have), CLASSES)
        victim = told(have, have, train=train, trainer=Gives(Served(Told())), part={"judge": train}.get)
        game = Inversion(access="blind")
        found = play(lambda view, streams, made=made: saying(made), game, victim, seed=0)
        hits = [made[c] == c for c in have]
        value = found.values["inversion_accuracy"]
        assert (value.value, value.n) == (sum(hits) / len(have), len(have))
        assert (value.low, value.high) == interval(sum(hits), len(have))
        assert found.values["inversion_accuracy_top5"].value == 1.0  # of four classes
        distances = [float((saying([made[c]]) - saying([c])).norm()) for c in have]
        assert found.values["inversion_distance_members"].value == pytest.approx(np.median(distances))
        assert found.per_sample["counted"].tolist() == [c in have for c in range(CLASSES)]


def similarity_is_ssim_with_mirrored_borders():
    """Wang et al.'s formula over uniform windows at every pixel, by scipy's filter in the mode that is named."""
    generator = torch.Generator().manual_seed(0)
    for count, side, window in ((1, 3, 3), (2, 4, 3), (3, 7, 7), (2, 8, 7)):
        made, means = torch.rand(2, count, 1, side, side, generator=generator)
        a, b = made.double().numpy(), means.double().numpy()

        def smooth(image, window=window):
            return uniform_filter(image, size=(1, 1, window, window), mode="mirror")

        ma, mb = smooth(a), smooth(b)
        va, vb, cab = smooth(a * a) - ma * ma, smooth(b * b) - mb * mb, smooth(a * b) - ma * mb
        c1, c2 = 0.01**2, 0.03**2
        expected = ((2 * ma * mb + c1) * (2 * cab + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))).mean()
        assert _similarity(made, means, (0.0, 1.0)).value == pytest.approx(expected, abs=1e-4)
        assert _similarity(made, made, (0.0, 1.0)).value == pytest.approx(1.0, abs=1e-5)
    assert math.isnan(_similarity(made[:0], made[:0], (0.0, 1.0)).value)
    assert math.isnan(_similarity(torch.zeros(2, 5), torch.zeros(2, 5), (0.0, 1.0)).value)


def class_means_are_means():
    x, y = torch.tensor([[0.0], [1.0], [0.4]]), torch.tensor([0, 0, 3])
    assert torch.allclose(class_means(Samples(x, y, CLASSES)), torch.tensor([[0.5], [0.0], [0.0], [0.4]]))


def joined_medians_are_over_all():
    columns = {
        "clean_correct": torch.tensor([True, True, False, True, True]),
        "robust": torch.tensor([False, False, False, True, False]),
        "distance": torch.tensor([0.1, 0.4, 9.0, 7.0, 0.2]),
        "queries": torch.tensor([1, 4, 99, 9, 2]),
    }
    assert joined_median("queries_median", 4, columns) == 3.0
    assert joined_median("distance_median", 3, columns) == pytest.approx(0.2)
    assert joined_median("distance_median", 4, columns) == pytest.approx(0.3)


def a_level_gives_its_exact_interval():
    for count, n in ((0, 7), (3, 7), (7, 7), (50, 101)):
        told = at_level(intervals.rate(torch.arange(n) < count, "higher"), 0.99)
        assert (told.low, told.high) == clopper_pearson(count, n, 0.99)
        assert told.low <= told.value <= told.high
    assert at_level(told, None) is told


STATISTICS = {
    "wilson": lambda: intervals_cover(wilson, 0.92, (150, 200), np.linspace(0.05, 0.95, 91)),
    "clopper_pearson": lambda: intervals_cover(clopper_pearson, 0.95),
    "interval": lambda: intervals_cover(interval, 0.93, (*SIZES, 99, 100, 101)),
    "rate": a_rate_is_a_share,
    "least_rate": the_least_rate_covers,
    "at_level": a_level_gives_its_exact_interval,
    "median": the_median_is_numpys,
    "over_repeats": repeats_have_students_interval,
    "mcnemar": mcnemar_is_exact,
    "sign_flip": sign_flips_are_enumerated,
    "paired_interval": the_paired_interval_covers,
    "crossed": crossed_differences_hold_their_value,
    "repeats_needed": crossed_differences_hold_their_value,
    "holm": holm_is_its_definition,
    "least_count": the_least_count_is_the_least,
    "samples_needed": the_samples_needed_decide,
    "near-chance": chance_is_told_from_better,
    "joint_thresholds": joint_thresholds_keep_the_rate,
    "class weights": class_weights_have_mean_one,
    "class means": class_means_are_means,
    "joined medians": joined_medians_are_over_all,
    "clean_accuracy": utility_is_sklearns,
    "precision_macro": utility_is_sklearns,
    "recall_macro": utility_is_sklearns,
    "f1_macro": utility_is_sklearns,
    "expected_calibration_error": utility_is_sklearns,
    "robust_accuracy": evasion_counts,
    "attack_success_rate": evasion_counts,
    "attack_success_rate_all": evasion_counts,
    "distance_median": evasion_counts,
    "queries_median": evasion_counts,
    "accuracy_drop": poisoning_counts,
    "recall_worst_class": poisoning_counts,
    "poisoned": poisoning_counts,
    "inversion_accuracy": inversion_counts_what_was_trained_on,
    "inversion_accuracy_top5": inversion_counts_what_was_trained_on,
    "inversion_distance_members": inversion_counts_what_was_trained_on,
    "inversion_ssim": similarity_is_ssim_with_mirrored_borders,
}
ELSEWHERE = {
    "backdoor_success_rate": "rate, of samples whose label is not the target: tests/scenarios/test_poisoning_judge.py",
    "backdoor_success_rate_clean_twin": "the same",
    "attack_power": "rate: tests/sanity/test_power.py",
    "target_hit_rate": "rate: tests/scenarios/test_evasion_judge.py",
    "rejection_rate_clean": "rate",
    "rejection_rate_attack": "rate",
    "evaluator_accuracy": "rate",
    "held_out_recognised": "rate",
    "class_mean_recognised": "rate",
    "noise_recognised": "rate",
    "latency_ms": "median of twenty, which nobody knows beforehand",
    "parameters": "no sample statistic",
    "epsilon": "accounted: tests/defenses/test_privacy_accounting.py",
    "delta": "accounted",
    "train_seconds": "no sample statistic",
}


@pytest.mark.parametrize("law", dict.fromkeys(STATISTICS.values()), ids=lambda law: law.__name__)
def test_it_holds_at_the_edges(law):
    law()


@pytest.mark.parametrize("module", [intervals, paired])
def test_every_function_of_the_statistics_is_listed(module):
    public = {name for name, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module.__name__}
    assert {name for name in public if not name.startswith("_")} <= set(STATISTICS)


def test_every_figure_of_a_game_is_listed():
    given = {name.removesuffix(metrics.FOLLOWED_UP) for kind in SCENARIOS.values() for name in kind.metrics}
    assert given <= set(STATISTICS) | set(ELSEWHERE)
    assert not set(STATISTICS) & set(ELSEWHERE)


def test_no_median_but_the_one():
    """torch's takes the lower of the middle two; a network's own layers and filters are no statistics."""
    from pathlib import Path

    root = Path(intervals.__file__).parents[2]
    allowed = {"defenses/broken.py"}  # CrossMax, of an odd number of networks
    files = [f for folder in ("robustsuite", "attacks", "defenses") for f in (root / folder).rglob("*.py")]
    assert len(files) > 100
    guilty = {f.relative_to(root).as_posix() for f in files if ".median(" in f.read_text().replace("np.median(", "")}
    assert guilty <= allowed
