"""Straight-through by interception: what stops a gradient inside a forward pass is passed by, whoever wrote it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

Handler = Callable[["Passing", Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


class Passing(TorchFunctionMode):
    """While it is entered, functions without a useful gradient keep their values and get a straight-through one.

    Rounding and signs pass the gradient on unchanged; `detach`, `.data` and `no_grad` do not cut it; comparisons have
    the slope of a sigmoid once their answer is used as a number; the one-hot code of an arg max has that of a softmax.
    What it also does is look: which results `(n, classes)` were made of something that is none (`entries`), which
    comparisons gave one bool a sample (`cuts`), and whether a gradient was computed inside the pass (`inside`).

    Args:
        n: Samples in the batch.
        classes: Number of classes.
        width: Over what change of its operands a comparison is smeared, positive.
        quiet: Whether to only look and to leave every function as it is.

    References:
        Bengio et al., 2013, arXiv:1308.3432; Athalye et al., ICML 2018, arXiv:1802.00420.
    """

    def __init__(self, n: int, classes: int, width: float = 0.1, *, quiet: bool = False) -> None:
        super().__init__()
        self.width, self._shape, self._quiet = width, (n, classes), quiet
        self.entries: list[Tensor] = []
        self.cuts: list[tuple[Tensor, Tensor]] = []
        self.inside = 0
        self.soft = _Beside()  # of bools and integers that came of something differentiable, its smooth version
        self.choices = _Beside()  # of an arg max, the softmax

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `func`, or what stands in for it."""
        given = kwargs or {}
        if func in _GRADIENTS:
            self.inside += 1
        handler = None if self._quiet else _HANDLERS.get(func)
        result = func(*args, **given) if handler is None else handler(self, func, args, given)
        if isinstance(result, Tensor):
            self._look(result, args)
        return result

    def _look(self, result: Tensor, args: tuple[Any, ...]) -> None:
        if tuple(result.shape) != self._shape or not result.is_floating_point():
            return
        tensors = [a for arg in args for a in (arg if isinstance(arg, (tuple, list)) else (arg,))]
        if not any(isinstance(t, Tensor) and tuple(t.shape) == self._shape for t in tensors):
            self.entries.append(result)

    def cut(self, decided: Tensor, gap: Tensor) -> None:
        """Remember a comparison that gave one bool a sample, with how far beyond its threshold each one is."""
        if decided.shape == gap.shape and tuple(decided.shape) == self._shape[:1]:
            self.cuts.append((decided, gap))


class _Beside:
    """What belongs to tensors, each told by its identity; they are kept meanwhile, so that no other gets the same."""

    def __init__(self) -> None:
        self._held: dict[int, tuple[Tensor, Tensor]] = {}

    def put(self, tensor: Tensor, what: Tensor) -> Tensor:
        self._held[id(tensor)] = (tensor, what)
        return tensor

    def get(self, tensor: Any) -> Tensor | None:
        held = self._held.get(id(tensor))
        return None if held is None else held[1]


def _slope(tensor: Any) -> bool:
    return isinstance(tensor, Tensor) and tensor.requires_grad


def _through(value: Tensor, source: Tensor) -> Tensor:
    """The value, with the gradient of the source; bit-equal where the source is finite."""
    return value + (source - source.detach())


def _identity(mode: Passing, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ARG001
    result = func(*args, **kwargs)
    return _through(result.detach(), args[0]) if _slope(args[0]) else result


def _uncut(mode: Passing, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ARG001
    return args[0].clone() if _slope(args[0]) else func(*args, **kwargs)


def _still(mode: Passing, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ARG001
    """Gradients stay on, and a tensor that has one keeps it."""
    if args and isinstance(args[0], Tensor):
        return args[0] if args[0].grad_fn is not None else func(*args, **kwargs)
    return None


def _outside(mode: Passing, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ARG001
    return func(args[0].detach(), *args[1:], **kwargs)


def _compare(sign: float) -> Handler:
    def handle(mode: Passing, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        decided = func(*args, **kwargs)
        if not any(_slope(arg) for arg in args[:2]) or len(args) < 2:
            return decided
        gap = sign * (args[0] - args[1])
        mode.cut(decided, gap)
        return mode.soft.put(decided, torch.sigmoid(gap / mode.width))

    return handle


def _convert(mode: Passing, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    result, soft = func(*args, **kwargs), mode.soft.get(args[0])
    if soft is None:
        return result
    return _through(result, soft.to(result.dtype)) if result.is_floating_point() else mode.soft.put(result, soft)


def _multiply(mode: Passing, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    result = func(*args, **kwargs)
    for a, b in ((args[0], args[1]), (args[1], args[0])) if len(args) > 1 else ():
        soft = mode.soft.get(a)
        if soft is not None and mode.soft.get(b) is None:
            factor = b.detach() if isinstance(b, Tensor) else b
            other = result if result.is_floating_point() else result.to(soft.dtype)
            return other + (soft - soft.detach()) * factor
    return result


def _choose(mode: Passing, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    result = func(*args, **kwargs)
    soft = mode.soft.get(args[0])
    if soft is None or len(args) < 3:
        return result
    yes, no = (a.detach() if isinstance(a, Tensor) else a for a in args[1:3])
    return result + (soft - soft.detach()) * (yes - no)


def _negate(mode: Passing, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    result, soft = func(*args, **kwargs), mode.soft.get(args[0])
    return result if soft is None else mode.soft.put(result, 1 - soft)


def _arg_max(mode: Passing, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    result = func(*args, **kwargs)
    if _slope(args[0]) and args[0].dim() == 2 and result.shape == args[0].shape[:1]:
        return mode.choices.put(result, args[0].softmax(1))
    return result


def _one_hot(mode: Passing, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    result, soft = func(*args, **kwargs), mode.choices.get(args[0])
    return mode.soft.put(result, soft) if soft is not None and soft.shape == result.shape else result


_GRADIENTS: Final = frozenset({torch.autograd.grad, Tensor.backward, torch.autograd.backward})
_HANDLERS: Final[dict[Any, Handler]] = {
    **dict.fromkeys(
        (torch.round, torch.floor, torch.ceil, torch.trunc, torch.sign, torch.fix, torch.sgn, Tensor.round,
         Tensor.floor, Tensor.ceil, Tensor.trunc, Tensor.sign, Tensor.fix, Tensor.sgn), _identity),
    **dict.fromkeys((torch.detach, Tensor.detach, Tensor.data.__get__), _uncut),  # type: ignore[attr-defined]
    **dict.fromkeys((torch._C._set_grad_enabled, Tensor.requires_grad_), _still),
    **dict.fromkeys((Tensor.numpy, Tensor.__array__), _outside),
    **dict.fromkeys((torch.gt, torch.ge, torch.greater, torch.greater_equal, Tensor.gt, Tensor.ge, Tensor.__gt__,
                     Tensor.__ge__), _compare(1.0)),
    **dict.fromkeys((torch.lt, torch.le, torch.less, torch.less_equal, Tensor.lt, Tensor.le, Tensor.__lt__,
                     Tensor.__le__), _compare(-1.0)),
    **dict.fromkeys((Tensor.float, Tensor.double, Tensor.half, Tensor.bfloat16, Tensor.to, Tensor.type, Tensor.type_as,
                     Tensor.int, Tensor.long), _convert),
    **dict.fromkeys((torch.mul, torch.multiply, Tensor.mul, Tensor.multiply, Tensor.__mul__, Tensor.__rmul__),
                    _multiply),
    **dict.fromkeys((torch.where,), _choose),
    **dict.fromkeys((Tensor.__invert__, torch.logical_not, Tensor.logical_not, torch.bitwise_not), _negate),
    **dict.fromkeys((torch.argmax, Tensor.argmax), _arg_max),
    F.one_hot: _one_hot,
}  # fmt: skip
