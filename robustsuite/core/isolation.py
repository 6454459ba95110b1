"""Leave no trace: what a model, a caller's tensors and the global random state were, they are again afterwards."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from robustsuite.core.errors import TamperingError


@contextmanager
def untouched(*modules: nn.Module) -> Iterator[None]:
    """Evaluate in eval mode without gradients to weights, then restore everything, also when the body raises.

    Restored: each module's `training` flag, each parameter's `requires_grad` and `.grad`, every buffer bit for bit.
    Backward hooks whose owner can pause them (per-sample gradients of a differentially private training) rest
    meanwhile: they would raise on a pass that asks for no gradient of the weights.
    """
    pausable = _pausable_hooks(modules)
    parts = [part for module in modules for part in module.modules()]
    modes = [(part, part.training) for part in parts if hasattr(part, "training")]  # a frozen script has no mode
    weights = [(p, p.requires_grad, p.grad) for module in modules for p in module.parameters()]
    buffers = [(b, b.detach().clone()) for module in modules for b in module.buffers()]
    try:
        for owner in pausable:
            owner.disable_hooks()
        for part, _ in modes:
            part.training = False
        for parameter, _, _ in weights:
            parameter.requires_grad_(False)
            parameter.grad = None
        yield
    finally:
        for owner in pausable:
            owner.enable_hooks()
        for part, mode in modes:
            part.training = mode
        for parameter, required, grad in weights:
            parameter.requires_grad_(required)
            parameter.grad = grad
        with torch.no_grad():
            for buffer, value in buffers:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


@contextmanager
def weights_lent(network: nn.Module, who: str) -> Iterator[None]:
    """Weights that foreign code might reach in this block; what it writes to them is undone, and is an error.

    Args:
        network: Whose parameters.
        who: Whom the error names.

    Raises:
        TamperingError: They were written to. Where the block raises, that error goes on instead.
    """
    kept = [
        (part, name, weight, weight.detach().clone())
        for part in network.modules()
        for name, weight in part.named_parameters(recurse=False)
        if not is_lazy(weight)
    ]
    try:
        yield
    except BaseException:
        for place in kept:
            _put_back(*place)
        raise
    changed = [_put_back(*place) for place in kept]
    if any(changed):
        raise TamperingError(
            f"expected plug-ins that leave the model as it is, got {who}, under which its weights were written to; "
            f"they were put back: copy the model before training it"
        )


def _put_back(part: nn.Module, name: str, weight: nn.Parameter, before: Tensor) -> bool:
    """Whether this weight is no longer the one from before; then it is again."""
    same = weight.shape == before.shape and weight.dtype == before.dtype
    if same and getattr(part, name, None) is weight and torch.equal(_bits(weight), _bits(before)):
        return False
    weight.data = before
    part._parameters[name] = weight
    return True


def _bits(tensor: Tensor) -> Tensor:
    """The same memory as bytes, in which NaN equals itself."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def _pausable_hooks(modules: tuple[nn.Module, ...]) -> list[Any]:
    """Owners of backward hooks that are enabled and can be told to rest."""
    owners: dict[int, Any] = {}
    for module in modules:
        for part in module.modules():
            for hook in part._backward_hooks.values():
                owner = getattr(getattr(hook, "func", hook), "__self__", None)
                if getattr(owner, "hooks_enabled", False) and hasattr(owner, "disable_hooks"):
                    owners[id(owner)] = owner
    return list(owners.values())


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of Python, NumPy and torch inside the block, and put them back afterwards."""
    python_state = random.getstate()
    numpy_state = np.random.get_state()
    cuda = list(range(torch.cuda.device_count())) if _accelerated() else []
    with torch.random.fork_rng(devices=cuda):
        try:
            random.seed(seed)
            np.random.seed(seed % 2**32)
            _seed_torch(seed % 2**63)
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


def _seed_torch(seed: int) -> None:
    """As `torch.manual_seed`, which formats and keeps the stack for each kind of device that is not there: 3 x 3 ms."""
    if _accelerated():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


@cache
def _accelerated() -> bool:
    """Whether there is an accelerator; asked once, because torch looks for a driver on the disk each time."""
    return torch.accelerator.is_available()


@contextmanager
def single_precision() -> Iterator[None]:
    """Make tensors in float32 here, whatever torch's default dtype is."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def differentiable() -> Iterator[None]:
    """Allow gradients here even where the caller runs under `no_grad` or `inference_mode`."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def out_of_memory(error: BaseException) -> bool:
    """Whether this error says that memory ran out; torch has a class for it on an accelerator, but none on the CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)
