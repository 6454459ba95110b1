"""The door of a network: all that passes between it and the suite, in a form that both sides can rely on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from robustsuite.core.deadline import pause
from robustsuite.core.errors import ModelError, RobustsuiteError
from robustsuite.core.isolation import out_of_memory

_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 3, 5, 6, 10, 12, 20, 24, 25, 48, 50, 96, 100, 200, 500)
"""Batch sizes that a network may have been fixed to, in the order in which they are tried."""
_BLIND: Final = "the network raises where a gradient is asked for, and was run without one"
_FREE: Final = 2  # batch sizes beyond 1 that were answered, from which on a network is known to take any
_SAME: Final = 1e-3  # of the greatest logit; by so much may rounding differ between rows of a batch
_LOW: Final = (torch.float16, torch.bfloat16)
DTYPES: Final = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


class Door(nn.Module):
    """A network as the suite calls it: raw floating inputs to logits `(n, classes)`, whoever built it.

    What goes in is a contiguous copy in the network's dtype, so that a layer may work in place. What comes out is a
    copy as an ordinary tensor, float64 where the network answers in that and float32 otherwise, so that a network may
    use its buffers again. A tensor alone, `logits` by name, or the first of a tuple whose others have another shape is
    read. A network that loses the axis of a lone row is given that row twice, and one of a fixed batch size its
    batches filled up; one that raises only where a gradient is asked for has none. `notes` say so.

    Args:
        network: Left as it is; shares its mode.
        dtype: Of what it is given; by default that of its weights. A network without any is given floats as they are,
            which are float32 unless a caller knows better.

    Raises:
        ModelError: On a call: the network raises, or what it returns are no logits. Out of memory goes on as it is.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.network = network
        found = dtype or weights_dtype(network)
        self.dtype, self._known = found or torch.float32, found is not None
        self.layout = torch.contiguous_format
        self.whole: torch.dtype | None = None  # of integers that it was seen to take and to answer alike
        self.notes: dict[str, None] = {}
        self._size = 0  # of every batch, where the network takes no other
        self._doubled = False  # whether a lone row is given twice
        self._lone = False  # whether a lone row was answered as it is
        self._answered: set[int] = set()
        self.training = bool(getattr(network, "training", False))

    def beside(self, network: nn.Module, layout: torch.memory_format) -> Door:
        """The same door before a copy of the network that takes the same inputs, in another layout."""
        twin = Door(network, self.dtype if self._known else None)
        twin.layout, twin.notes, twin.whole = layout, self.notes, self.whole
        twin._size, twin._doubled, twin._lone = self._size, self._doubled, self._lone
        twin._answered = set(self._answered)
        return twin

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(n, classes)`."""
        n = len(x)
        if n == 0:
            return self.forward(x.new_zeros(1, *x.shape[1:]))[:0]
        if self._size:
            return torch.cat([self._filled(part) for part in torch.split(x, self._size)])
        if n == 1 and self._doubled:
            return self._ask(torch.cat([x, x]))[:1]
        try:
            logits = self._ask(x)
        except ModelError as error:
            failure = error
        else:
            if n > 1:
                self._answered.add(n)
            self._lone |= n == 1
            return logits
        if len(self._answered) >= _FREE and (n > 1 or self._lone):
            raise failure
        return self._otherwise(x, failure)

    def _otherwise(self, x: Tensor, failure: ModelError) -> Tensor:
        """The answer to a batch of a size that the network does not take, by one that it does take."""
        if len(x) == 1:
            try:
                logits = self._ask(torch.cat([x, x]))[:1]
            except ModelError:
                pass
            else:
                self._doubled = True
                self.notes["the network loses a lone sample, which was given twice"] = None
                return logits
            if len(self._answered) >= _FREE:
                raise failure
        for size in _SIZES:
            if size != len(x) and self._takes(x, size):
                self._size = size
                self.notes[f"the network takes batches of {size} alone, which were filled up"] = None
                return self.forward(x)
        raise failure

    def _takes(self, x: Tensor, size: int) -> bool:
        rows = torch.arange(size, device=x.device) % len(x)
        try:
            with torch.no_grad():
                there, back = self._ask(x[rows]), self._ask(x[rows.flip(0)])
        except (ModelError, RuntimeError, MemoryError):
            return False
        # Answers that do not go with their rows have lost the batch axis, and only look as if they had not.
        return torch.allclose(there.flip(0), back, rtol=_SAME, atol=_SAME * float(there.abs().max()), equal_nan=True)

    def _filled(self, x: Tensor) -> Tensor:
        rows = torch.arange(self._size, device=x.device).clamp_max(len(x) - 1)
        return self._ask(x if len(x) == self._size else x[rows])[: len(x)]

    def _ask(self, x: Tensor, *, blind: bool = False) -> Tensor:
        """The network's answer; where it raises and a gradient is asked for, once more without (`blind`)."""
        dtype = self.dtype if self._known and x.is_floating_point() else x.dtype
        if x.is_floating_point() and not dtype.is_floating_point:
            x = x.round()
        layout = self.layout if x.dim() == 4 else torch.contiguous_format
        given = x.to(dtype, copy=True, memory_format=layout)
        pause()
        try:
            answer = self.network(given)
        except RobustsuiteError:
            raise
        except Exception as error:  # a stranger's network may raise anything
            if out_of_memory(error):
                raise
            failure = ModelError(
                f"expected a network that answers inputs of shape {tuple(x.shape)} and {dtype}, got "
                f"{type(error).__name__}: {_first_line(error)}; give data as the network takes them, or wrap it in "
                f"a module"
            )
            failure.__cause__ = error
        else:
            return as_logits(answer, len(x), x.device)
        if blind or not (given.requires_grad and torch.is_grad_enabled()):
            raise failure
        with torch.no_grad():
            logits = self._ask(x.detach(), blind=True)
        self.notes[_BLIND] = None
        return logits


def working(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which the inputs of a network of this dtype are computed: its own, but at least float32."""
    return dtype if dtype.is_floating_point and dtype not in _LOW else torch.float32


def weights_dtype(network: nn.Module) -> torch.dtype | None:
    """The dtype of most floating weights, else of most floating buffers; None where there are none."""
    for held in (network.parameters(), network.buffers()):
        counts: Counter[torch.dtype] = Counter()
        for tensor in held:
            if tensor.dtype in DTYPES and not is_lazy(tensor):
                counts[tensor.dtype] += tensor.numel()
        if counts:
            return counts.most_common(1)[0][0]
    return None


def as_logits(answer: Any, n: int, device: torch.device | None = None) -> Tensor:
    """What a network returned for `n` rows, as a tensor `(n, classes)` that nobody else holds.

    Raises:
        ModelError: No logits; the message says how to make them.
    """
    found = tensor_of(answer, n)
    if found.layout is not torch.strided:
        found = found.to_dense()
    if type(found) is not Tensor:  # a subclass may compute in its own way
        found = found.as_subclass(Tensor)
    if found.dim() != 2 or len(found) != n:
        raise ModelError(
            f"expected logits of shape ({n}, classes), got shape={tuple(found.shape)}; keep the batch axis first; a "
            f'model with one logit is declared by rs.wrap(model, output="binary-logit"), one with one probability by '
            f'output="probabilities"'
        )
    if found.dtype not in (torch.float32, torch.float64):
        return found.to(torch.float32, copy=True) if device is None else found.to(device, torch.float32, copy=True)
    return found.clone() if device is None or found.device == device else found.to(device)


def tensor_of(answer: Any, n: int) -> Tensor:
    """The one tensor of logits in what a network returned.

    Raises:
        ModelError: There is none, or there are several.
    """
    if isinstance(answer, Tensor):
        return answer
    named = answer.get("logits") if isinstance(answer, Mapping) else getattr(answer, "logits", None)
    if isinstance(named, Tensor):
        return named
    parts = list(_parts(answer))
    found = [part for part in parts if isinstance(part, Tensor) and part.dim() == 2 and len(part) == n]
    if len(found) == 1 and (len(parts) == 1 or (isinstance(answer, (tuple, list)) and parts[0] is found[0])):
        return found[0]
    raise ModelError(
        f"expected logits as a tensor, got {_told(answer)}; return only the logits, by a module around the model whose "
        f"forward picks them"
    )


def labels_of(logits: Tensor) -> Tensor:
    """The label of each answer `(n,)`; one that is not finite has none, and gets the number beyond the last class.

    Example:
        >>> labels_of(torch.tensor([[0.0, 1.0], [float("nan"), 0.0]]))
        tensor([1, 2])
    """
    best, label = logits.max(1)
    return torch.where(best.isfinite(), label, logits.shape[1])


def _parts(answer: Any) -> Iterator[Any]:
    if isinstance(answer, Mapping):
        yield from answer.values()
    elif isinstance(answer, (tuple, list)):
        yield from answer


def _told(answer: Any) -> str:
    shapes = [str(tuple(p.shape)) if isinstance(p, Tensor) else type(p).__name__ for p in _parts(answer)]
    return f"{type(answer).__name__} of {', '.join(shapes)}" if shapes else type(answer).__name__


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
