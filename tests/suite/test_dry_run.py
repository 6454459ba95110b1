"""A dry run refuses what cannot run, all of it at once, each with its place; what it lets through ends in no error."""

import re

import numpy as np
import pytest
import torch
from typer.testing import CliRunner
from walking import ATTACKS, DEFENSES, KINDS, MODELS, suite_of, walk, write_data

import robustsuite as rs
from robustsuite.cli.app import app
from robustsuite.models.build import ModelSpec
from robustsuite.models.fitting import refuse_misfit
from robustsuite.runner.run import preview
from robustsuite.suite.load import load_suite

FAST = ("tabular, two classes",)
TARGETED = {"goal": "targeted", "target": "least-likely"}


def labelled(items):
    """The same plug-ins with labels of their own, so that one suite holds them all."""
    for index, item in enumerate(items):
        ((name, options),) = item.items() if isinstance(item, dict) else ((item, {}),)
        yield {name: {**options, "label": f"{name}-{index}"}}


def allowed(folder, path, kind, key, items, **more):
    """Those that a dry run lets through one by one."""
    for item in items:
        (folder / "one.yaml").write_text(suite_of(path, KINDS[kind][1], **{key: [item]}, **more))
        try:
            preview(load_suite(folder / "one.yaml"), folder / "none", device="cpu", cached=False)
        except rs.RequestError:
            continue
        yield item


def walked(folder, kind, *, threat=None, defenses=("none",)):
    path = write_data(folder, kind)
    more = {"threat": threat} if threat else {}
    attacks = list(allowed(folder, path, kind, "attacks", labelled(ATTACKS), **more))
    assert len(attacks) >= 20  # most attacks play on most data
    refused, errors = walk(
        folder,
        suite_of(path, KINDS[kind][1], attacks=attacks, defenses=defenses, **({"threat": threat} if threat else {})),
    )
    assert refused == ""
    assert errors == []


@pytest.mark.parametrize("kind", FAST)
def test_no_attack_that_is_let_through_ends_in_an_error(kind, tmp_path):
    walked(tmp_path, kind)


def test_no_defence_that_is_let_through_ends_in_an_error(tmp_path):
    path = write_data(tmp_path, "tabular, two classes")
    few = [d for d in DEFENSES if not isinstance(d, list)][::3]
    defenses = list(allowed(tmp_path, path, "tabular, two classes", "defenses", labelled(few)))
    assert walk(tmp_path, suite_of(path, 2, defenses=defenses)) == ("", [])


@pytest.mark.slow
@pytest.mark.parametrize("goal", [None, TARGETED], ids=["untargeted", "targeted"])
@pytest.mark.parametrize("kind", KINDS)
def test_attacks_on_data_of_every_kind(kind, goal, tmp_path):
    walked(tmp_path, kind, threat=goal)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_defences_on_data_of_every_kind(kind, tmp_path):
    path = write_data(tmp_path, kind)
    single = list(labelled([d for d in DEFENSES if not isinstance(d, list)]))
    composed = [d for d in DEFENSES if isinstance(d, list)]
    kept = list(allowed(tmp_path, path, kind, "defenses", [*single, *composed]))
    plays = [{"pgd": {"steps": 1}}, {"label-flip": {"fraction": 0.1}}, {"inversion-noise": {}}]
    for defense in kept:
        assert walk(tmp_path, suite_of(path, KINDS[kind][1], defenses=[defense], attacks=plays)) == ("", [])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_networks_on_data_of_every_kind(kind, tmp_path):
    path = write_data(tmp_path, kind)
    for model in MODELS:
        for defense in ("none", {"dp-sgd": {"delta": 0.001}}):
            text = suite_of(path, KINDS[kind][1], model=model, defenses=[defense], training={"batch_size": 1})
            assert walk(tmp_path, text)[1] == []


# what is refused, where, and with which words

SUITE = """\
name: s
dataset: {{name: npz, path: data.npz, classes: 4{sizes}}}
model: {model}
training: {{epochs: 1, batch_size: 8, validation: {validation}}}
threat: {{norm: linf, radius: 0.05, curve_samples: 0}}
defenses:
  - none
  - {defense}
attacks:
  - noise
  - {attack}
"""
PLAIN = {"sizes": "", "model": "mlp", "validation": 0.1, "defense": "adversarial-training", "attack": "fgsm"}
REFUSED = [
    ("tabular", "attack", "badnets", 11, "attacks[1].badnets: expected images (channels, height, width) for a patch"),
    ("tabular", "attack", "mi-fgsm: {diversity: 0.5}", 11, "attacks[1].mi-fgsm.diversity: expected images"),
    ("tabular", "attack", "mi-fgsm: {translation: 3}", 11, "attacks[1].mi-fgsm.translation: expected images"),
    ("tabular", "attack", "class-mean: {evaluator: cnn}", 11, "attacks[1].class-mean.evaluator: expected an evaluator"),
    ("tabular", "attack", "class-mean: {evaluator: mlp}", 11, "attacks[1].class-mean.evaluator: expected an evaluator"),
    ("tabular", "attack", "transfer: {networks: [cnn]}", 11, "attacks[1].transfer: expected images"),
    ("tabular", "model", "cnn", 3, "model: expected images (channels, height, width) for cnn, got shape=(20,)"),
    ("digits-like", "model", "dp-cnn", 3, "model: expected images of at least 14 x 14 for dp-cnn, got shape=(1, 8, 8)"),
    ("digits-like", "model", "alexnet", 3, "model: expected images that alexnet can take, got shape=(1, 8, 8)"),
    ("digits-like", "attack", "badnets: {target: 4}", 11, "attacks[1].badnets.target: expected an integer in [0, 3]"),
    ("digits-like", "attack", "badnets: {size: 9}", 11, "attacks[1].badnets.size: expected a patch of at most 8 pixel"),
    ("digits-like", "attack", "badnets: {fraction: 0}", 11, "attacks[1].badnets.fraction: expected a fraction of 43 t"),
    ("digits-like", "attack", "label-flip: {source: 4}", 11, "attacks[1].label-flip.source: expected an integer in [0"),
    ("digits-like", "attack", "label-flip: {target: 4}", 11, "attacks[1].label-flip.target: expected an integer in [0"),
    ("digits-like", "defense", "dp-sgd: {delta: 0.03}", 8, "defenses[1].dp-sgd.delta: expected a delta below 1 / 43"),
    ("digits-like", "defense", "dp-sgd: {delta: 0.001, training: {batch_size: 61}}", 8,
     "defenses[1].dp-sgd.training.batch_size: expected a batch_size of at most the 43 private training samples"),
    ("digits-like", "defense", "input-validation", 2, "dataset.calibration: expected at least 39 samples"),
    ("tabular", "defense", "input-validation: {median_window: 3, false_alarm_rate: 0.5, neighbours: 1}", 8,
     "defenses[1].input-validation.median_window: expected images of at least 3 x 3"),
    ("tabular", "defense", "broken: {kind: jpeg}", 8, "defenses[1].broken.kind: expected images"),
    ("tabular", "defense", "adversarial-training: {attack: {mi-fgsm: {diversity: 0.5}}}", 8,
     "defenses[1].adversarial-training.attack.mi-fgsm.diversity: expected images"),
    ("digits-like", "defense", "adversarial-training: {attack: ddn}", 8,
     "defenses[1].adversarial-training.norm: expected a norm that ddn has"),
]  # fmt: skip


def refusal(folder, kind, **changes):
    write_data(folder, kind).rename(folder / "data.npz")
    given = {**PLAIN, **changes}
    braced = {k: f"{{{v}}}" if k in ("attack", "defense") and ":" in v else v for k, v in given.items()}
    (folder / "s.yaml").write_text(SUITE.format(**braced))
    done = CliRunner().invoke(app, ["run", "s.yaml", "--dry-run"])
    return done.exit_code, done.stderr


@pytest.mark.parametrize(("kind", "key", "value", "line", "words"), REFUSED, ids=[f"{r[0]}-{r[2]}" for r in REFUSED])
def test_each_is_refused_at_its_place(kind, key, value, line, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said = refusal(tmp_path, kind, **{key: value})
    text = " ".join(said.split())
    assert code == 2
    assert f"s.yaml:{line}: {words}" in text
    assert "s.yaml has 1 problem; nothing was started" in text
    assert not (tmp_path / "runs").exists()


def test_all_at_once_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changes = {"attack": "badnets: {target: 9}", "defense": "dp-sgd: {delta: 0.5}", "model": "dp-cnn"}
    code, said = refusal(tmp_path, "digits-like", **changes)
    assert code == 2
    assert [int(line) for line in re.findall(r"s\.yaml:(\d+): ", said)] == [3, 8, 11]
    assert CliRunner().invoke(app, ["run", "s.yaml", "--out", "out"]).exit_code == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("part", "count"), [("train", 1000), ("test", 1000)])
def test_more_samples_than_there_are(part, count, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path, "digits-like").rename(tmp_path / "data.npz")
    (tmp_path / "s.yaml").write_text(
        f"name: s\nmodel: mlp\ndataset:\n  name: npz\n  path: data.npz\n  {part}: {count}\n"
    )
    done = CliRunner().invoke(app, ["run", "s.yaml", "--dry-run"])
    assert done.exit_code == 2
    assert f"s.yaml:6: dataset.{part}: expected at most" in " ".join((done.output + done.stderr).split())


def test_python_refuses_the_same():
    data, ball, net = (torch.rand(8, 20), torch.arange(8) % 2), rs.Ball("linf", 0.1), torch.nn.Linear(20, 2)
    with pytest.raises(rs.RequestError, match=r"expected images .* got translation=3"):
        rs.perturb("mi-fgsm(translation=3)", net, *data, ball)
    with pytest.raises(rs.RequestError, match=r"expected images .* got diversity=0.5"):
        rs.evaluate(net, data, ["fgsm", "mi-fgsm(diversity=0.5)"], ball)


def test_one_sample_too_many_for_a_batch_normalisation(tmp_path):
    """A last batch of one sample cannot be normalised on maps of one pixel: 57 = 7 x 8 + 1 train, 56 do not."""
    net = ModelSpec("resnet18", options=(("width", 4),))
    for shape, smallest, fits in (((1, 8, 8), 1, False), ((1, 8, 8), 2, True), ((1, 16, 16), 1, True)):
        if fits:
            refuse_misfit(net, 4, shape, (0.0, 1.0), smallest=smallest)
        else:
            with pytest.raises(rs.RequestError, match="in training on a batch of 1 ValueError"):
                refuse_misfit(net, 4, shape, (0.0, 1.0), smallest=smallest)


def test_the_smallest_counts_that_do_run(tmp_path, monkeypatch):
    """delta just below 1 / N, batch = N, 19 samples to calibrate two detectors at 0.1: each bound is met exactly."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    y = np.arange(60) % 4
    x = (y[:, None, None, None] / 4 + 0.1 * rng.uniform(size=(60, 1, 8, 8))).astype("float32")
    np.savez("data.npz", x_train=x, y_train=y, x_test=x[:12], y_test=y[:12])
    for name, ok in (
        ("dp-sgd: {delta: 0.01666, training: {batch_size: 60}}", True),
        ("dp-sgd: {delta: 0.01667}", False),
    ):
        (tmp_path / "s.yaml").write_text(SUITE.format(**{**PLAIN, "sizes": ", train: 60", "defense": f"{{{name}}}"}))
        assert (CliRunner().invoke(app, ["run", "s.yaml", "--dry-run"]).exit_code == 0) is ok
    two = "{input-validation: {false_alarm_rate: 0.1}}"
    for count, ok in ((19, True), (18, False)):
        sizes = f", train: 30, calibration: {count}"
        (tmp_path / "s.yaml").write_text(SUITE.format(**{**PLAIN, "sizes": sizes, "defense": two}))
        assert (CliRunner().invoke(app, ["run", "s.yaml", "--dry-run"]).exit_code == 0) is ok
