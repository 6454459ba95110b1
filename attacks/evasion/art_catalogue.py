"""Which evasion attacks of the Adversarial Robustness Toolbox can be played here, and with what knowledge."""

from __future__ import annotations

import difflib
import inspect
from functools import cache
from typing import Any, Final

import numpy as np

from robustsuite.core import RequestError
from robustsuite.plugins.registry import Offer

LINF_ONLY: Final = frozenset({"BasicIterativeMethod"})
"""Attacks of a fixed radius whose only norm is linf, without an option that says so."""

DECISIONS: Final = frozenset({"BoundaryAttack", "GeoDA", "HopSkipJump", "SignOPTAttack"})
"""Attacks that their papers define on labels alone."""

TARGETED_ONLY: Final = frozenset({"SaliencyMapMethod"})
"""Attacks without a `targeted` option whose `y` is always a target."""

IMAGES_ONLY: Final = frozenset({"CarliniL0Method", "ShadowAttack", "SimBA", "SquareAttack"})
"""Attacks that index rows and columns of channels."""

UNTARGETED_ONLY: Final = frozenset({"SignOPTAttack"})
"""Attacks whose `targeted` option needs a start of the target class, which nobody has here."""

SEVERAL_CLASSES: Final = frozenset({"SignOPTAttack"})
"""Attacks that ART refuses to play on two classes."""

EXTRAS: Final = {"AutoAttack": "multiprocess", "PixelAttack": "cma", "ThresholdAttack": "cma"}
"""Packages that attacks import without ART requiring them; the two pixel attacks only with `es=0`."""

_GRADIENTS: Final = frozenset({"LossGradientsMixin", "ClassGradientsMixin"})
_CLASSIFIERS: Final = _GRADIENTS | {"ClassifierMixin", "NeuralNetworkMixin"}
_OTHER_TASKS: Final = ("ObjectDetector", "ObjectTracker", "SpeechRecognizer")
_LEFT_OUT: Final = {
    "AdversarialPatch": "a patch is bounded by no norm",
    "AdversarialPatchNumpy": "a patch is bounded by no norm",
    "AdversarialPatchPyTorch": "a patch is bounded by no norm",
    "CompositeAdversarialAttackPyTorch": "it changes hue and rotation, which no norm bounds",
    "FeatureAdversariesNumpy": "it needs guide inputs",
    "FeatureAdversariesPyTorch": "it needs guide inputs",
    "FrameSaliencyAttack": "it wraps another attack object and needs video",
    "GRAPHITEBlackbox": "it needs masks and a printed target",
    "GRAPHITEWhiteboxPyTorch": "it needs masks and a printed target",
    "LowProFool": "it needs importances of tabular features",
    "OverTheAirFlickeringPyTorch": "it needs video",
    "SpatialTransformation": "it moves pixels, which no norm bounds",
    "TargetedUniversalPerturbation": "one perturbation for all samples depends on the batch",
    "UniversalPerturbation": "one perturbation for all samples depends on the batch",
    "Wasserstein": "its ball is none of linf, l2, l1",
}


@cache
def _classes() -> dict[str, type[Any]]:
    import art.attacks.evasion as module
    from art.attacks import EvasionAttack

    found = {name: cls for name, cls in vars(module).items() if inspect.isclass(cls) and issubclass(cls, EvasionAttack)}
    return dict(sorted(found.items()))


def _obstacle(name: str) -> str:
    """Why ART's class cannot be played here; empty where it can."""
    if name in _LEFT_OUT:
        return _LEFT_OUT[name]
    if name == "GeoDA" and not hasattr(np, "mat"):
        return "it calls np.mat, which NumPy 2 does not have"
    needs = _requirements(name)
    if "TensorFlow" in name:
        return "it needs a TensorFlow model"
    if any(task in need for need in needs for task in _OTHER_TASKS) or not needs & _CLASSIFIERS:
        return "it attacks no PyTorch classifier"
    return ""


def _requirements(name: str) -> frozenset[str]:
    return frozenset(getattr(r, "__name__", str(r)) for r in _classes()[name]._estimator_requirements)


def _access(name: str) -> str:
    if name in DECISIONS:
        return "decision-based"
    # AutoAttack asks only for a classifier but is an ensemble of gradient attacks.
    return "white-box" if _requirements(name) & _GRADIENTS or name == "AutoAttack" else "score-based"


def names() -> dict[str, str]:
    """ART's evasion attacks that can be played here, with the access each asks for; imports ART.

    Gradient attacks are white-box; attacks defined on decisions see labels; all others see scores.
    """
    return {name: _access(name) for name in _classes() if not _obstacle(name)}


def offers() -> list[Offer]:
    """Every evasion attack of ART with what it needs beside the knowledge of its access; imports ART."""
    return [Offer(name, _needs(name), _obstacle(name)) for name in _classes()]


def _needs(name: str) -> tuple[str, ...]:
    package = EXTRAS.get(name)
    found = (f"package {package}" + (" unless es=0" if package == "cma" else ""),) if package else ()
    return found + (("a target, or it takes one at random",) if name in TARGETED_ONLY else ())


def find(name: str) -> tuple[type[Any], str]:
    """ART's class of this name and the access it asks for.

    Raises:
        RequestError: No such class (with the near matches), or one that cannot be played here (with the reason).
    """
    if name not in _classes():
        near = difflib.get_close_matches(name, names(), n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(names())}"
        raise RequestError(f"expected an evasion attack of ART, got art:{name}; {hint}")
    obstacle = _obstacle(name)
    if obstacle:
        raise RequestError(f"expected an attack within a norm ball on a classifier, got art:{name}; {obstacle}")
    return _classes()[name], _access(name)
