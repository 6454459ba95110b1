"""Every attack and defence on data of every kind: what a dry run lets through, and what then happens in the cells."""

from __future__ import annotations

import numpy as np
import yaml

from robustsuite.core.errors import RequestError
from robustsuite.runner.run import preview, run
from robustsuite.suite.load import load_suite

# Kind of data -> (shape of one input, classes, training samples)
KINDS = {
    "digits-like": ((1, 8, 8), 4, 60),
    "colour": ((3, 16, 16), 4, 60),
    "tabular": ((20,), 4, 60),
    "tabular, two classes": ((20,), 2, 60),
    "two classes": ((1, 8, 8), 2, 60),
    "three classes": ((1, 8, 8), 3, 60),
    "grey without channels": ((8, 8), 4, 60),
    "few": ((1, 8, 8), 4, 8),
    "one of each": ((1, 8, 8), 2, 2),
    "small images": ((3, 2, 2), 4, 60),
    "five channels": ((5, 8, 8), 4, 60),
    "flat images": ((1, 8, 3), 4, 60),
}
ATTACKS = (
    {"cascade": {"steps": 3, "targets": 2, "promising": 1, "rounds": 1, "queries": 5}},
    {"apgd": {"steps": 4}},
    {"apgd": {"steps": 4, "loss": "dlr"}},
    {"apgd": {"steps": 4, "loss": "dlr", "targets": 3}},
    {"autoattack": {"steps": 3, "queries": 5}},
    {"autoattack": {"steps": 3, "queries": 5, "targets": 3}},
    {"autoattack": {"steps": 3, "queries": 5, "version": "rand"}},
    {"badnets": {"size": 2, "fraction": 0.1}},
    {"badnets": {"size": 9, "fraction": 0.1}},
    {"badnets": {"size": 1, "target": 4, "fraction": 0.1}},
    {"badnets": {"size": 1, "target": 3, "fraction": 0.1}},
    {"badnets": {"size": 1, "fraction": 0}},
    {"bpda": {"steps": 3}},
    {"carlini-wagner": {"steps": 3}},
    {"class-mean": {}},
    {"ddn": {"steps": 3}},
    {"deepfool": {"steps": 3}},
    {"fab": {"steps": 3}},
    {"fab": {"steps": 3, "targets": 10}},
    {"fgsm": {}},
    {"fmn": {"steps": 3}},
    {"hop-skip-jump": {"queries": 30, "evaluations": 4}},
    {"inversion-noise": {}},
    {"inversion-noise": {"evaluator": "mlp"}},
    {"inversion-noise": {"evaluator": "cnn"}},
    {"inversion-noise": {"evaluator": "nonsense"}},
    {"inversion-noise": {"classes": 100}},
    {"label-flip": {"fraction": 0.1}},
    {"label-flip": {"fraction": 1}},
    {"label-flip": {"fraction": 0.1, "source": 1, "target": 0}},
    {"label-flip": {"fraction": 0.1, "source": 7}},
    {"label-flip": {"fraction": 0.1, "target": 4}},
    {"mi-fgsm": {"steps": 2}},
    {"mi-fgsm": {"steps": 2, "diversity": 0.5}},
    {"mi-fgsm": {"steps": 2, "translation": 3, "scales": 2, "nesterov": True}},
    {"mi-fgsm": {"steps": 2, "translation": 25}},
    {"model-inversion": {"steps": 3}},
    {"noise": {}},
    {"pgd": {"steps": 2}},
    {"pgd": {"steps": 2, "loss": "dlr"}},
    {"square": {"queries": 8}},
    {"transfer": {"samples": 8, "epochs": 1, "steps": 2}},
    {"transfer": {"samples": 8, "epochs": 1, "steps": 2, "networks": ["cnn"]}},
    {"transfer": {"samples": 8, "epochs": 1, "steps": 2, "networks": ["resnet18"]}},
    {"transfer": {"samples": 8, "epochs": 1, "steps": 2, "networks": ["dp-cnn"]}},
)
HALF = {"validation": 0.5}
DEFENSES = (
    "none",
    {"adversarial-training": {"attack": {"pgd": {"steps": 1}}}},
    {"adversarial-training": {"attack": "fgsm-rs"}},
    {"adversarial-training": {"attack": {"mi-fgsm": {"steps": 1, "diversity": 0.5}}}},
    {"adversarial-training": {"attack": {"mi-fgsm": {"steps": 1, "translation": 3}}}},
    {"adversarial-training": {"attack": {"apgd": {"steps": 2, "targets": 3}}}},
    {"adversarial-training": {"attack": {"apgd": {"steps": 2, "loss": "dlr"}}}},
    {"adversarial-training": {"attack": {"autoattack": {"steps": 2, "queries": 2}}}},
    {"adversarial-training": {"attack": {"fab": {"steps": 2}}}},
    {"adversarial-training": {"attack": {"fmn": {"steps": 2}}}},
    {"adversarial-training": {"attack": {"bpda": {"steps": 2}}}},
    {"adversarial-training": {"attack": {"cascade": {"steps": 2, "rounds": 0}}}},
    {"adversarial-training": {"attack": {"carlini-wagner": {"steps": 2}}}},
    {"adversarial-training": {"attack": {"deepfool": {"steps": 2}}}},
    {"adversarial-training": {"attack": {"ddn": {"steps": 2}}}},
    {"adversarial-training": {"attack": "noise"}},
    {"dp-sgd": {"delta": 0.001}},
    {"dp-sgd": {"delta": 0.05}},
    {"dp-sgd": {"delta": 0.001, "training": {"batch_size": 64}}},
    {"dp-sgd": {"delta": 0.001, "grad_sample_mode": "ghost"}},
    {"dp-sgd": {"delta": 0.001, "grad_sample_mode": "functorch"}},
    {"dp-sgd": {"delta": 0.001, "epsilon": 0.0001}},
    {"dp-sgd": {"delta": 0.001, "noise_multiplier": 0}},
    {"dp-sgd": {"delta": 0.001, "accountant": "prv"}},
    "input-validation",
    {"input-validation": {"false_alarm_rate": 0.5}},
    {"input-validation": {"false_alarm_rate": 0.5, "neighbours": 1, "training": {"validation": 0.5}}},
    {"input-validation": {"false_alarm_rate": 0.5, "neighbours": 1, "median_window": 3, "training": HALF}},
    {"input-validation": {"detectors": ["range"]}},
    [{"dp-sgd": {"delta": 0.03}}, {"input-validation": {"detectors": ["range"]}}],
    [{"dp-sgd": {"delta": 0.001}}, {"input-validation": {"false_alarm_rate": 0.5, "neighbours": 1}}],
    *({"broken": {"kind": kind}} for kind in (
        "scaled-logits", "softmax", "detached", "argmax", "levels", "jpeg", "random-pruning", "random-dropout",
        "purification", "temperature", "thermometer", "random-resize", "winners-take-all", "crossmax", "diversity",
        "one-bit",
    )),
    [{"broken": {"kind": "random-resize"}}, {"dp-sgd": {"delta": 0.001}}],
    [{"broken": {"kind": "crossmax"}}, {"dp-sgd": {"delta": 0.001}}],
    [{"broken": {"kind": "jpeg"}}, {"input-validation": {"detectors": ["range"]}}],
)  # fmt: skip
MODELS = (
    "mlp", "logistic", "cnn", "dp-cnn", {"name": "resnet18", "width": 4}, {"name": "wide-resnet", "widen": 1},
    {"name": "resnet18", "width": 4, "norm": "group"}, "squeezenet1_1", "mobilenet_v3_small", "alexnet", "vit_b_32",
)  # fmt: skip


def write_data(folder, kind):
    """An npz file of this kind of data, balanced and separable."""
    shape, classes, n = KINDS[kind]
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", n), ("test", 12)):
        y = np.arange(count) % classes
        x = 0.25 + 0.5 * y.reshape(-1, *[1] * len(shape)) / (classes - 1) + 0.1 * rng.uniform(-1, 1, (count, *shape))
        arrays |= {f"x_{part}": x.astype("float32"), f"y_{part}": y}
    path = folder / f"{kind.replace(' ', '-').replace(',', '')}.npz"
    np.savez(path, **arrays)
    return path


def suite_of(path, classes, *, attacks=("noise",), defenses=("none",), model="mlp", **more):
    """The text of a suite with tiny settings."""
    return yaml.safe_dump(
        {
            "name": "walk",
            "dataset": {"name": "npz", "path": str(path), "classes": classes},
            "model": model,
            "training": {"epochs": 1, "batch_size": 8, **more.pop("training", {})},
            "threat": {"norm": "linf", "radius": 0.05, "curve_samples": 0, **more.pop("threat", {})},
            "attacks": [dict(a) if isinstance(a, dict) else a for a in attacks],
            "defenses": list(defenses),
            **more,
        }
    )


def walk(folder, text):
    """What a dry run refuses, else the last lines of the errors of the cells; both empty where all is well."""
    file = folder / "s.yaml"
    file.write_text(text)
    try:
        suite = load_suite(file)
        preview(suite, folder / "none", device="cpu", cached=False)
    except RequestError as error:
        return str(error), []
    outcome = run(suite, folder / "run", device="cpu", cached=False, fresh=True)
    return "", [
        f"{r.defense} x {r.attack}: {r.message.strip().splitlines()[-1]}"
        for r in outcome.records
        if r.status == "error"
    ]
