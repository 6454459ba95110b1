"""Any evasion attack of the Adversarial Robustness Toolbox by name: `art:HopSkipJump` and its kin.

ART is imported when the first such name is asked for. What its attacks return goes to our judge like all artefacts.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, ClassVar, Final

import numpy as np
import torch
from torch import Tensor, nn

from robustsuite.access import Inputs, Oracle, WhiteBox
from robustsuite.attacks.evasion import art_bridge, art_catalogue
from robustsuite.core import BudgetError, RequestError, Streams, checks
from robustsuite.core.ball import NORMS
from robustsuite.core.isolation import differentiable, untouched
from robustsuite.plugins import Entry, attacks
from robustsuite.plugins.registry import Prefix
from robustsuite.scenarios.protocol import Terms

_SET_HERE: Final = frozenset(
    {"self", "estimator", "classifier", "estimator_orig", "norm", "targeted", "verbose", "verbose_es", "summary_writer"}
)
_FROM_RADIUS: Final = ("eps", "eps_step")
_PLAIN: Final = {"int": int, "float": float, "bool": bool, "str": str}
_ORDERS: Final = {"linf": np.inf, "l2": 2, "l1": 1}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArtAttack:
    """An attack of ART, with ART's own options.

    Norm, goal and knowledge come from the view. `eps` and `eps_step`, where ART has them and they are left at None, are
    the radius and ART's own share of it. Gradient attacks get the counted model. The others get an oracle, one sample
    at a time, which ends the attack when the sample's queries are spent; the nearest input that was seen to reach the
    goal within the ball is returned, a thousandth farther out where that reaches it too, else what ART returned.

    ART computes in float32: other inputs are cast for it, and its perturbation is added to the original. A result
    beyond the ball (minimum-norm attacks know no radius) is replaced by the untouched input, never projected.

    Guarantees:
        ART draws from global generators, and in places from one that the system seeds; all are seeded here per sample,
        and an attack that draws runs sample by sample, so its draws are the same in any batch. The model, its gradients
        and those generators are left as they were.

    References:
        Nicolae et al., 2018, arXiv:1807.01069.
    """

    art_name: ClassVar[str]
    plugin_name: ClassVar[str]

    def __post_init__(self) -> None:
        art_catalogue.find(self.art_name)
        package = art_catalogue.EXTRAS.get(self.art_name)
        if package and not getattr(self, "es", 0) and importlib.util.find_spec(package) is None:
            raise RequestError(f"expected the package that {self.plugin_name} needs, got none; pip install {package}")
        with art_bridge.reproducible(0):  # some constructors predict, and ART's data loaders draw
            self._build(self._dummy(), self._options())

    def check(self, terms: Terms) -> None:
        """Refuse a norm or a goal that ART's attack does not have, and data that it cannot play on."""
        name = self.plugin_name
        if self.art_name in art_catalogue.IMAGES_ONLY and len(terms.shape) != 3:
            raise checks.fail(f"images (channels, height, width) for {name}", "shape", terms.shape, "choose another")
        if self.art_name == "ShadowAttack" and terms.shape[0] not in (1, 3):
            raise checks.fail(f"images with 1 or 3 channels for {name}", "shape", terms.shape, "choose another")
        if self.art_name in art_catalogue.SEVERAL_CLASSES and terms.classes < 3:
            raise checks.fail(f"at least 3 classes for {name}", "classes", terms.classes, "choose another")
        if not terms.norm:
            return
        options = self._resolved(terms.norm, None, terms.targeted)
        with art_bridge.reproducible(0):
            self._build(self._dummy(), options)

    def _dummy(self) -> Any:
        """A model of two pixels, for constructors."""
        if art_catalogue.find(self.art_name)[1] == "white-box":
            return art_bridge.white_box(nn.Flatten(), (1, 2, 1), 2, (0.0, 1.0), gpu=False)
        return art_bridge.black_box(lambda x: np.zeros((len(x), 2), np.float32), (1, 2, 1), 2, (0.0, 1.0))

    def __reduce__(self) -> tuple[Callable[..., ArtAttack], tuple[str, dict[str, Any]]]:
        """Pickled by name, because the class is made on demand."""
        return _rebuild, (self.art_name, self._options())

    def __call__(self, view: Inputs, streams: Streams) -> Tensor:
        """Adversarial inputs `(N, …)` for the samples of this view.

        Raises:
            RequestError: The attack cannot play this norm or a targeted goal.
        """
        if view.ball.radius == 0:
            return view.x.clone()
        if isinstance(view, WhiteBox):
            with untouched(view.model), differentiable():
                return self._ascend(view, streams)
        if not isinstance(view, Oracle):
            raise RequestError(
                f"expected a model or an oracle, got a {type(view).__name__} view; {self.plugin_name} asks"
            )
        with differentiable():
            rows = torch.arange(len(view.y), device=view.x.device)
            return torch.cat([self._ask(view.take(row), streams) for row in rows[:, None]])

    def _options(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def _build(self, estimator: Any, options: dict[str, Any]) -> Any:
        cls = art_catalogue.find(self.art_name)[0]
        given = {key: value for key, value in options.items() if value is not None}
        with _explained(self.plugin_name, given):
            return cls(estimator, **given)

    def _generate(self, estimator: Any, view: Inputs) -> Tensor:
        """Run ART on these samples; inputs in the view's dtype, not yet confined to the ball."""
        attack = self._build(estimator, self._resolved(view.ball.norm, view.ball.radius, view.target is not None))
        wanted = view.y if view.target is None else view.target
        y = np.eye(view.classes, dtype=np.float32)[wanted.cpu().numpy()]
        x = view.x.detach().to("cpu", torch.float32).numpy().copy()
        blind = view.target is None and self.art_name in art_catalogue.TARGETED_ONLY
        moved: np.ndarray = attack.generate(x=x, y=None if blind else y)
        return art_bridge.lift(view, moved)

    def _resolved(self, norm: str, radius: float | None, targeted: bool) -> dict[str, Any]:
        """Options with everything that the game decides; the radius where it is known."""
        parameters = inspect.signature(art_catalogue.find(self.art_name)[0].__init__).parameters
        options = self._options()
        known = radius is not None and "eps" in parameters
        ratio = float(radius or 0.0) / parameters["eps"].default if known else 1.0
        for name in _FROM_RADIUS:
            if name in options and options[name] is None:
                options[name] = parameters[name].default * ratio
        decided = {"norm": _ORDERS[norm], "targeted": targeted, "verbose": False}
        options.update({name: value for name, value in decided.items() if name in parameters})
        aims = "targeted" in parameters or self.art_name in art_catalogue.TARGETED_ONLY
        aims &= self.art_name not in art_catalogue.UNTARGETED_ONLY
        if targeted and not aims:
            raise RequestError(
                f"expected an attack with a targeted form, got attack={self.plugin_name!r}; play the untargeted goal"
            )
        return options

    def _ascend(self, view: WhiteBox, streams: Streams) -> Tensor:
        """White-box attacks: together where ART draws nothing, one by one where it does."""
        bounds, shape = view.ball.bounds, tuple(view.x.shape[1:])
        model = art_bridge.SinglePrecision(view.model, view.x.dtype)
        estimator = art_bridge.white_box(model, shape, view.classes, bounds, gpu=view.x.is_cuda)

        def run(rows: Tensor) -> tuple[Tensor, bool]:
            part = view.take(rows)
            with art_bridge.reproducible(streams.child("art", int(part.ids[0])).key):
                before = art_bridge.drawn()
                moved = art_bridge.confine(part, self._generate(estimator, part))
                return moved, art_bridge.drawn() != before

        index = torch.arange(len(view.y), device=view.x.device)
        first, drew = run(index[:1])
        if not drew and len(index) > 1:
            others, drew = run(index[1:])
            if not drew:
                return torch.cat([first, others])
        return torch.cat([first, *(run(row)[0] for row in index[1:, None])])

    def _ask(self, view: Oracle, streams: Streams) -> Tensor:
        """Black-box attacks on one sample: the nearest success seen, else what ART returned, else the input."""
        asker = art_bridge.Asker(view)
        shape = tuple(view.x.shape[1:])
        estimator = art_bridge.black_box(asker, shape, view.classes, view.ball.bounds)
        returned = view.x
        with art_bridge.reproducible(streams.child("art", int(view.ids[0])).key), suppress(BudgetError):
            returned = art_bridge.confine(view, self._generate(estimator, view))
        best = asker.settle()
        return returned.clone() if best is None else best


@contextmanager
def _explained(label: str, options: dict[str, Any]) -> Iterator[None]:
    """What ART's constructor refuses is a request error."""
    try:
        yield
    except (ValueError, TypeError, IndexError, NotImplementedError) as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(
            f"expected options that ART accepts, got attack={label!r} with {options}; ART says: {error}"
        ) from error


@cache
def resolve(name: str) -> Entry:
    """The entry of `art:name`: a frozen dataclass whose fields are ART's own options.

    Raises:
        RequestError: ART has no such attack, or it cannot be played within a norm ball on a classifier.
    """
    found, access = art_catalogue.find(name)
    fields: list[tuple[str, Any, Any]] = []
    for parameter in inspect.signature(found.__init__).parameters.values():
        if parameter.name not in _SET_HERE:
            plain = _PLAIN.get(str(parameter.annotation).strip("'\""), Any)
            default = None if parameter.name in _FROM_RADIUS else parameter.default
            fields.append((parameter.name, plain if default is not None else Any, dataclasses.field(default=default)))
    label = f"art:{name}"
    norms = ("linf",) if name in art_catalogue.LINF_ONLY else NORMS
    space = {
        "art_name": name,
        "norms": norms,
        "plugin_name": label,
        "__doc__": _described(found, fields),
        "__module__": __name__,
    }
    cls = dataclasses.make_dataclass(
        f"Art{name}", fields, bases=(ArtAttack,), namespace=space, frozen=True, kw_only=True
    )
    optimization, evasion = (
        ("AML.T0043.000", "NISTAML.022") if access == "white-box" else ("AML.T0043.001", "NISTAML.025")
    )
    return Entry(label, "attack", cls, "evasion", access, taxonomy=(optimization, "ML01:2023", evasion))


def _described(found: type[Any], fields: list[tuple[str, Any, Any]]) -> str:
    """ART's own words: the first sentence, then the rest; and its links as references."""
    text, *links = re.split(r"\|?\s*(?:Paper|Module) link:\s*", inspect.getdoc(found) or found.__name__)
    first, *rest = re.split(r"(?<=\.)\s+(?=[A-Z])", " ".join(text.replace("|", " ").split()), maxsplit=1)
    papers = [link.split()[0].replace("https://arxiv.org/abs/", "arXiv:") for link in links if link.split()]
    options = [
        f"    {name}: ART's own; by default {'what the radius sets' if name in _FROM_RADIUS else field.default}."
        for name, _, field in fields
    ]
    referenced = ["", "References:", f"    {', '.join(papers)}"] if papers else []
    return "\n".join([first, *(f"\n{sentence}" for sentence in rest), "", "Args:", *options, *referenced])


def _rebuild(name: str, options: dict[str, Any]) -> ArtAttack:
    made: ArtAttack = resolve(name).cls(**options)
    return made


_SUMMARY: Final = "An evasion attack of the Adversarial Robustness Toolbox; --json lists them all."
attacks.add_prefix("art", Prefix(resolve, art_catalogue.offers, "evasion", _SUMMARY))
