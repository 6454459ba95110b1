"""Transfer: what fools networks of one's own often fools the victim, whatever its gradients hide."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn

from robustsuite.access import Transfer, WhiteBox
from robustsuite.access.meter import Counted, Meter
from robustsuite.attacks.evasion import surrogates
from robustsuite.attacks.evasion.mi_fgsm import MIFGSM
from robustsuite.core import Streams, checks
from robustsuite.core.door import labels_of
from robustsuite.core.isolation import seeded, untouched
from robustsuite.models.build import ModelSpec
from robustsuite.plugins import register
from robustsuite.scenarios.protocol import Terms

_DIVERSE: Final = 0.5


@register.attack(
    "transfer",
    scenario="evasion",
    access="transfer",
    resolves=(
        "zero-gradients",
        "broken-gradients",
        "misleading-gradients",
        "gradients-in-forward",
        "not-adaptive",
        "jump-at-boundary",
        "jump-at-clean-inputs",
        "depends-on-autograd",
    ),
    taxonomy=("AML.T0043.003", "ML01:2023", "NISTAML.022"),
)
@dataclass(frozen=True, kw_only=True)
class TransferAttack:
    """Craft on surrogates by MI-FGSM with diverse inputs, and query the victim to see which of the results fool it.

    Inputs are crafted on all surrogates together first, then, for samples that are not broken yet, on each of them
    alone; the victim is queried once about each result. Surrogates are named, given as networks, or learnt from the
    victim's answers to data that the adversary holds: public data, else the training set, else the inputs under
    attack.

    Args:
        surrogate: A factory `package.module:function` or `path/to/file.py:function` of a network; None to learn some.
        surrogates: Networks to use beside it, given in Python; they are not written into records.
        networks: Names of the networks that are learnt where none is given; by default a CNN and an MLP for images,
            an MLP and a linear one for other inputs.
        samples: Known inputs that the victim is queried about, at most, at least 2; each also once with noise.
        epochs: Passes over them, at least 1.
        steps: Of MI-FGSM, at least 1.

    Raises:
        RequestError: A surrogate with other inputs or classes than the victim, or no data to learn one from.

    Guarantees:
        Learnt surrogates depend on the game's seed and the known data alone, so they are the same for every batch.

    References:
        Papernot et al., AsiaCCS 2017, arXiv:1602.02697; Dong et al., CVPR 2018, arXiv:1710.06081; Xie et al., CVPR
        2019, arXiv:1803.06978.

    Example:
        >>> TransferAttack(networks=("cnn",)).steps
        20
    """

    surrogate: str | None = None
    surrogates: tuple[Any, ...] = field(default=(), repr=False)
    networks: tuple[str, ...] = ()
    samples: int = 1000
    epochs: int = 10
    steps: int = 20

    def __post_init__(self) -> None:
        checks.integer("samples", self.samples, low=2)
        checks.integer("epochs", self.epochs, low=1)
        checks.integer("steps", self.steps, low=1)
        for network in self.surrogates:
            if not isinstance(network, nn.Module):
                raise checks.fail("modules", "surrogates", type(network).__name__, "pass a tuple of torch modules")

    def check(self, terms: Terms) -> None:
        """Refuse surrogates that take other inputs or tell other classes apart, and networks that there are not."""
        place = terms.classes, terms.shape, terms.bounds
        for name in self.networks:
            with seeded(0):
                ModelSpec(name)(*place)
        if self.surrogate is not None:
            with seeded(0):
                named = surrogates.made(self.surrogate, *place)
            surrogates.fits(named, _middle(named, terms), terms.classes, "surrogate")
        with untouched(*self.surrogates):
            for network in self.surrogates:
                surrogates.fits(network, _middle(network, terms), terms.classes, "surrogates")

    def __call__(self, view: Transfer, streams: Streams) -> Tensor:
        """Adversarial inputs `(N, …)` for the samples of this view."""
        view.refuse_no_budget()
        with untouched(*self.surrogates):
            return self._play(view, self._networks(view, streams.child("surrogates")), streams)

    def _play(self, view: Transfer, networks: list[nn.Module], streams: Streams) -> Tensor:
        found = view.x.clone()
        if view.ball.radius == 0:
            return found
        rows = torch.arange(len(found), device=found.device)
        candidates = [surrogates.Together(networks), *networks] if len(networks) > 1 else networks
        for place, network in enumerate(candidates):
            if len(rows) == 0:
                break
            x = self._craft(network, view.take(rows), streams.child("craft", place))
            found[rows] = x
            may = torch.tensor([view.remaining(int(row)) >= 1 for row in rows], device=rows.device)
            reached = torch.zeros_like(may)
            if may.any():
                scores = view.scores(x[may], rows[may])
                reached[may] = view.goal_reached(labels_of(scores), rows[may]) & (scores.sum(1) != 0)
            rows = rows[~reached & may]
        return found

    def _craft(self, network: nn.Module, view: Transfer, streams: Streams) -> Tensor:
        """What fools a surrogate; its passes are counted, what breaks it does not count."""
        meter = Meter()
        common = {name: getattr(view, name) for name in ("x", "y", "ids", "ball", "classes", "target", "grid")}
        white = WhiteBox(**common, meter=meter, model=Counted(network, meter))
        image = view.x.dim() == 4 and min(view.x.shape[2:]) >= 8
        moved: Tensor = MIFGSM(steps=self.steps, diversity=_DIVERSE if image else 0.0, stop=False)(white, streams)
        view.meter.forwards += meter.forwards
        view.meter.backwards += meter.backwards
        return moved

    def _networks(self, view: Transfer, streams: Streams) -> list[nn.Module]:
        made = {} if view.auxiliary is None else view.auxiliary.made
        key = f"transfer {streams.key}"
        if key not in made:
            made[key] = self._given(view) or self._learnt(view, streams)
        networks: list[nn.Module] = made[key]
        return networks

    def _given(self, view: Transfer) -> list[nn.Module]:
        given = {} if self.surrogate is None else {self.surrogate: surrogates.named(self.surrogate, view)}
        networks = [*given.values(), *self.surrogates]
        for network in networks:
            surrogates.fits(network, view.x[:1], view.classes, "surrogate" if self.surrogate else "surrogates")
        if networks:
            names = [*given, *(type(network).__name__ for network in self.surrogates)]
            view.meter.notes[f"crafted on {', '.join(names)}"] = None
        return networks

    def _learnt(self, view: Transfer, streams: Streams) -> list[nn.Module]:
        if view.ball.radius == 0:
            return []
        x, told = surrogates.material(view, self.samples, streams)
        if len(x) < 2:
            raise checks.fail("data that the victim answers to", "known", len(x), "give a surrogate")
        names = self.networks or surrogates.usual(tuple(view.x.shape[1:]))
        view.meter.notes[f"crafted on {', '.join(names)} learnt from {len(x)} answers of the victim"] = None
        return [surrogates.learnt(name, view, x, told, epochs=self.epochs, streams=streams) for name in names]


def _middle(network: nn.Module, terms: Terms) -> Tensor:
    """An input of the middle of the range, where the network is and as it is."""
    like = next((p for p in network.parameters() if p.is_floating_point()), torch.empty(0))
    return torch.full((1, *terms.shape), sum(terms.bounds) / 2, dtype=like.dtype, device=like.device)
