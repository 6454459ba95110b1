"""What this machine's processors have: units for short floats, and cores for this process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch

THREADS: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Variables by which libraries size their pools when they are loaded."""

# What torch calls the units, of x86 and of ARM. Without one of them it computes all the same, several times slower
# than in float32.
_UNITS: Final = {
    torch.bfloat16: ("amx_bf16", "avx512_bf16", "avx10_2", "avx_ne_convert", "bf16", "sve_bf16"),
    torch.float16: ("amx_fp16", "avx512_fp16", "avx10_2", "fp16_arith"),
}


def has_units(dtype: torch.dtype, device: str) -> bool:
    """Whether a device computes in this type at the speed that it was made for, as far as it can be asked.

    A processor is asked for its units, and CUDA for its compute capability and what it does not emulate. Where nobody
    can be asked (a GPU of another machine, a device of another kind) the answer is yes.

    Args:
        dtype: `torch.bfloat16` or `torch.float16`; every other type is at home everywhere.
        device: Such as `cpu` or `cuda:1`.
    """
    kind, _, index = device.partition(":")
    if dtype not in _UNITS:
        return True
    if kind == "cpu":
        return any(_processor().get(unit, False) for unit in _UNITS[dtype])
    if kind == "cuda" and torch.cuda.is_available():
        place = int(index or torch.cuda.current_device())
        if dtype == torch.float16:
            return torch.version.hip is not None or _fast_in_float16(*torch.cuda.get_device_capability(place))
        with torch.cuda.device(place):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return True


def _fast_in_float16(major: int, minor: int) -> bool:
    """Whether a GPU of this compute capability has more operations of float16 per cycle than of float32.

    So CUDA's programming guide, table of arithmetic throughput: before 7.0 only 5.3, 6.0 and 6.2; 6.1, all of the
    GeForce 10 series, has a 64th.
    """
    return major >= 7 or (major, minor) in ((5, 3), (6, 0), (6, 2))


def _processor() -> dict[str, Any]:
    """The units of this machine's processor by name."""
    ask: Any = getattr(torch.cpu, "get_capabilities", None)
    if ask is not None:
        return dict(ask())
    # Before torch knew all of them by name it knew these.
    known = {
        "avx512_bf16": "_is_avx512_bf16_supported",
        "amx_bf16": "_is_amx_tile_supported",
        "amx_fp16": "_is_amx_fp16_supported",
    }
    return {unit: getattr(torch.cpu, name)() for unit, name in known.items() if hasattr(torch.cpu, name)}


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def fair_threads() -> Iterator[None]:
    """Within the block a worker of pytest-xdist takes no more threads than its share of the cores, at least one.

    Threads of two pools that share a core wait for each other at every operation, and all of them become several times
    slower. In a process of its own torch keeps the threads that it has. What it had it gets back.
    """
    before = torch.get_num_threads()
    workers = os.environ.get("PYTEST_XDIST_WORKER_COUNT", "")
    share = max(1, cores() // int(workers)) if workers.isdecimal() and int(workers) > 0 else before
    try:
        if share < before:
            torch.set_num_threads(share)
        yield
    finally:
        if share < before:
            torch.set_num_threads(before)


@contextmanager
def threads_of_children(threads: int) -> Iterator[None]:
    """Processes that are started in this block size their pools for so many threads when they load their libraries."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
