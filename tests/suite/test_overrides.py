"""`--set a.b=c` in every place that a suite has."""

import pytest

from robustsuite.core.errors import RequestError
from robustsuite.suite.overrides import apply_overrides

VALUES = {
    "model": "cnn",
    "training": {"epochs": 5},
    "defenses": ["none", {"dp-sgd": {"epsilon": 3}}, ["input-validation", {"adversarial-training": None}]],
    "attacks": ["fgsm", {"pgd": {"steps": 4}}, {"pgd": {"steps": 9, "label": "long"}}],
}


@pytest.mark.parametrize(
    ("override", "path"),
    [
        ("training.epochs=2", ("training", "epochs")),
        ("training.lr=1e-3", ("training", "lr")),
        ("threat.radius=8/255", ("threat", "radius")),
        ("model.width=3", ("model", "width")),
        ("defenses.1.dp-sgd.epsilon=2", ("defenses", 1, "dp-sgd", "epsilon")),
        ("defenses.1.epsilon=2", ("defenses", 1, "dp-sgd", "epsilon")),
        ("defenses.dp-sgd.epsilon=2", ("defenses", 1, "dp-sgd", "epsilon")),
        ("defenses.2.0.kind=a", ("defenses", 2, 0, "input-validation", "kind")),
        ("defenses.2.adversarial-training.warmup=1", ("defenses", 2, 1, "adversarial-training", "warmup")),
        ("attacks.fgsm.step_size=0.5", ("attacks", 0, "fgsm", "step_size")),
        ("attacks.long.steps=1", ("attacks", 2, "pgd", "steps")),
        ("attacks.pgd.steps=1", ("attacks", 1, "pgd", "steps")),
        ("attacks.0=noise", ("attacks", 0)),
    ],
)
def test_paths(override, path):
    changed, typed = apply_overrides(VALUES, [override])
    assert typed == {path: f"--set {override}"}
    found = changed
    for key in path:
        found = found[key]
    text = override.partition("=")[2]
    assert str(found) == {"1e-3": "0.001"}.get(text, text)


def test_the_value_is_yaml_and_the_original_stays():
    before = repr(VALUES)
    changed, _ = apply_overrides(VALUES, ["defenses=[none]", "training={epochs: 1, lr: 2}", "model.name=mlp"])
    assert changed["defenses"] == ["none"]
    assert changed["training"] == {"epochs": 1, "lr": 2}
    assert changed["model"] == {"name": "mlp"}
    assert repr(VALUES) == before


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training", "expected key.path=value"),
        ("training..lr=1", "expected key.path=value"),
        ("=1", "expected key.path=value"),
        ("attacks.7=fgsm", r"index in \[0, 2\]"),
        ("attacks.pdg.steps=1", "did you mean 'pgd'"),
        ("training.epochs.x=1", "expected a mapping or a list"),
        ("training.epochs=[1", "expected YAML"),
    ],
)
def test_refused(override, words):
    with pytest.raises(RequestError, match=words) as caught:
        apply_overrides(VALUES, [override])
    assert override in str(caught.value)


def test_two_items_of_one_name_are_named_by_index():
    values = {"attacks": [{"pgd": {}}, "pgd"]}
    with pytest.raises(RequestError, match="by its index"):
        apply_overrides(values, ["attacks.pgd.steps=1"])


def test_numbers_are_read_as_they_are_written():
    assert apply_overrides(VALUES, ["training.epochs=1:30"])[0]["training"]["epochs"] == "1:30"
    with pytest.raises(RequestError, match=r"--set training.epochs=010:1: expected a number .*, got 010; write 10, or"):
        apply_overrides(VALUES, ["training.epochs=010"])
