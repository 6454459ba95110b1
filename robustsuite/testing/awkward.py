"""Networks that compute what `tiny_network` computes, each in a way that has broken an evaluation somewhere."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from robustsuite.core.ball import Ball, Threat
from robustsuite.core.deployed import Served
from robustsuite.core.errors import RequestError
from robustsuite.core.metric import Metrics
from robustsuite.plugins.by_name import attack
from robustsuite.plugins.expressions import parse_call
from robustsuite.plugins.registry import attacks
from robustsuite.scenarios import game
from robustsuite.scenarios.play import play
from robustsuite.scenarios.victim import Victim
from robustsuite.testing.law import Law, require
from robustsuite.testing.victims import tiny_network, tiny_samples

_SAMPLES = 21  # so that every batch size leaves a rest
_BATCH = 8  # of the networks that take no other


class BeforeAndAfter(nn.Module):
    """A network, and what is done before and after it.

    Args:
        inner: The network.
        after: What becomes of its answer.
        before: What becomes of its input.
    """

    def __init__(
        self,
        inner: nn.Module,
        after: Callable[[Tensor], Any] = lambda z: z,
        before: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> None:
        super().__init__()
        self.inner, self.after, self.before = inner, after, before

    def forward(self, x: Tensor) -> Any:
        """The answer in its own form."""
        return self.after(self.inner(self.before(x)))


@dataclass
class LogitsAndFeatures:
    """Logits beside something else."""

    logits: Tensor
    features: Tensor


class Labelled(Tensor):
    """A tensor of a class of its own."""


class Reused(nn.Module):
    """Hands out the same memory each time, as CUDA graphs and bound outputs do; a graph only where one is asked for."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self._out = inner, torch.zeros(4096, 4, device=_device(inner))

    def forward(self, x: Tensor) -> Tensor:
        """Logits in memory that the next call writes to."""
        logits: Tensor = self.inner(x)
        if logits.requires_grad:
            return logits
        out = self._out[: len(x)]
        out.copy_(logits)
        return out


class Counting(nn.Module):
    """Has a buffer that every forward pass changes."""

    calls: Tensor

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        self.calls += 1
        logits: Tensor = self.inner(x)
        return logits


class Autocast(nn.Module):
    """Computes in bfloat16 inside."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """Logits in bfloat16."""
        with torch.autocast(x.device.type, torch.bfloat16):
            logits: Tensor = self.inner(x)
        return logits


class Uncopied(nn.Module):
    """Cannot be copied."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        raise TypeError("not to be copied")

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.inner(x)
        return logits


class Bounded(nn.Module):
    """Has `bounds` that are those of its logits."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.bounds = inner, (-30.0, 30.0)

    def forward(self, x: Tensor) -> Tensor:
        """Logits within its bounds."""
        logits: Tensor = self.inner(x)
        return logits.clamp(*self.bounds)


class Plain(nn.Module):
    """Weights in plain attributes; no parameter and no buffer."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self._held = [inner]

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self._held[0].eval()(x)
        return logits


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


def _zeros(network: nn.Module, n: int) -> Tensor:
    return torch.zeros(n, 1, 8, 8, device=_device(network))


def _in_place(x: Tensor) -> Tensor:
    return x.clamp_(0, 1)


def _shifted(x: Tensor) -> Tensor:
    return x.sub_(0.5).add_(0.5)


def _viewed(x: Tensor) -> Tensor:
    return x.view(len(x), -1).view(x.shape)


def _eight(x: Tensor) -> Tensor:
    return x.view(_BATCH, -1).view(x.shape)


def _alone(x: Tensor) -> Tensor:
    if len(x) != 1:
        raise ValueError("one at a time")
    return x


def _checked(x: Tensor) -> Tensor:
    if x.dtype != torch.float32 or not x.is_contiguous():
        raise TypeError("float32 and contiguous")
    return x


def _lone_lost(z: Tensor) -> Tensor:
    return z.squeeze()


def _lone_refused(z: Tensor) -> Tensor:
    if len(z) == 1:
        raise ValueError("expected more than 1 value per channel")
    return z


def _scripted(inner: nn.Module, *, frozen: bool = False) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made: Any = torch.jit.trace(inner, _zeros(inner, 2), check_trace=False)  # type: ignore[no-untyped-call]
        script: nn.Module = torch.jit.freeze(made) if frozen else made
        return script


def _exported(inner: nn.Module) -> nn.Module:
    from torch.export import Dim, export

    rows = {0: Dim("n", min=1, max=4096)}
    return export(inner, (_zeros(inner, 4),), dynamic_shapes=(rows,)).module()


def _exported_for_eight(inner: nn.Module) -> nn.Module:
    from torch.export import export

    return export(inner, (_zeros(inner, _BATCH),)).module()


class Checkpointed(nn.Module):
    """Computes its layers again on the way back, by re-entrant checkpoints."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = checkpoint(self.inner, x, use_reentrant=True)
        return logits


class Inferring(nn.Module):
    """Answers in inference mode, and so has no gradient."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """Logits that cannot be differentiated."""
        with torch.inference_mode():
            logits: Tensor = self.inner(x)
        return logits


class Unable(torch.autograd.Function):
    """The identity, whose backward pass raises."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        """The input."""
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        """Nothing."""
        raise NotImplementedError("no derivative")


class Functional(nn.Module):
    """Computes row by row, and gradients on the way, by `torch.func`."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """Logits, with nothing of a gradient added."""
        slope: Tensor = torch.func.grad(lambda z: self.inner(z).logsumexp(1).sum())(x)
        rows: Tensor = torch.func.vmap(lambda row: self.inner(row[None])[0])(x)
        return rows + 0 * slope.flatten(1).sum(1, keepdim=True)


def _through_numpy(x: Tensor) -> Tensor:
    return torch.from_numpy(x.numpy().copy())


AWKWARD: dict[str, Callable[[nn.Module], nn.Module]] = {
    "clamps its input in place": partial(BeforeAndAfter, before=_in_place),
    "shifts its input in place": partial(BeforeAndAfter, before=_shifted),
    "begins with an in-place activation": lambda net: nn.Sequential(nn.ReLU(inplace=True), net),
    "views its input": partial(BeforeAndAfter, before=_viewed),
    "insists on contiguous float32": partial(BeforeAndAfter, before=_checked),
    "loses the axis of a lone row": partial(BeforeAndAfter, after=_lone_lost),
    "refuses a lone row": partial(BeforeAndAfter, after=_lone_refused),
    "takes lone rows only": partial(BeforeAndAfter, before=_alone),
    "takes batches of eight only": partial(BeforeAndAfter, before=_eight),
    "answers in float16": partial(BeforeAndAfter, after=Tensor.half),
    "answers in bfloat16": partial(BeforeAndAfter, after=Tensor.bfloat16),
    "answers in float64": partial(BeforeAndAfter, after=Tensor.double),
    "answers with a tuple": partial(BeforeAndAfter, after=lambda z: (z,)),
    "answers with a tuple of logits and maps": partial(BeforeAndAfter, after=lambda z: (z, z[:, :, None])),
    "answers with a dict": partial(BeforeAndAfter, after=lambda z: {"logits": z, "features": z * 2}),
    "answers with an object": partial(BeforeAndAfter, after=lambda z: LogitsAndFeatures(z, z * 2)),
    "answers with a transposed tensor": partial(BeforeAndAfter, after=lambda z: z.t().contiguous().t()),
    "answers with a subclass": partial(BeforeAndAfter, after=lambda z: z.as_subclass(Labelled)),
    "hands out the same memory each time": Reused,
    "counts its calls in a buffer": Counting,
    "computes under autocast": Autocast,
    "cannot be copied": Uncopied,
    "has bounds of its own": Bounded,
    "has no parameters": Plain,
    "is in float64": lambda net: net.double(),
    "is in bfloat16": lambda net: net.bfloat16(),
    "is in float16": lambda net: net.half(),
    "is in training mode": lambda net: net.train(),
    "is laid out channels-last": lambda net: net.to(memory_format=torch.channels_last),
    "is a script": _scripted,
    "is a frozen script": partial(_scripted, frozen=True),
    "is exported": _exported,
    "is exported for batches of eight": _exported_for_eight,
    "computes again on the way back": Checkpointed,
    "runs as data-parallel": nn.DataParallel,
    "answers in inference mode": Inferring,
    "computes by torch.func": Functional,
    "raises on the way back": partial(BeforeAndAfter, before=Unable.apply),
    "raises where a gradient is asked for": partial(BeforeAndAfter, before=_through_numpy),
}
"""What is awkward -> how to make it of `tiny_network`; a new kind is one line here."""

_ROUGH = ("float16", "autocast", "bfloat16")
_BLIND = ("inference mode", "raises")


def awkward_laws(
    played: tuple[str, ...] = ("fgsm", "pgd(steps=3)", "square(queries=10)"), device: str = "cpu"
) -> list[Law]:
    """For each awkward network: attacks run, and come to the verdicts that they come to on the plain one.

    Verdicts may differ where the network itself computes in another precision, and white-box ones where it gives no
    gradient; then only that nothing fails is asked.

    Args:
        played: Attacks, as expressions.
        device: Where the networks are.
    """
    return [Law(name, "judged-as-the-plain-one", partial(_judged_alike, name, played, device)) for name in AWKWARD]


def awkward_network(name: str, device: str = "cpu") -> nn.Module:
    """One of `AWKWARD`, of a copy of `tiny_network` on this device.

    Raises:
        RequestError: No such name.
    """
    if name not in AWKWARD:
        raise RequestError(f"expected one of {', '.join(AWKWARD)}, got name={name!r}; choose one of them")
    return AWKWARD[name](_copied(device))


def _copied(device: str) -> nn.Module:
    return copy.deepcopy(tiny_network()).eval().to(device)


def _judged_alike(name: str, played: tuple[str, ...], device: str) -> None:
    for expression in played:
        plain, awkward = (_robust(net, expression, device) for net in (_copied(device), awkward_network(name, device)))
        blind = any(word in name for word in _BLIND) and "square" not in expression
        if not blind:
            differ = int((plain.per_sample["robust"] != awkward.per_sample["robust"]).sum())
            allowed = 1 if any(word in name for word in _ROUGH) else 0
            require(differ <= allowed, f"{expression} judges a network that {name} as the plain one", differ)


def _robust(network: nn.Module, expression: str, device: str) -> Metrics:
    entry = attacks.get(parse_call(expression)[0])
    scenario = game(entry, Threat(ball=Ball("linf", 0.1)), {})
    victim = Victim(Served(network), tiny_samples(_SAMPLES, first=10_000), device=device)
    return play(attack(expression), scenario, victim, seed=0)
