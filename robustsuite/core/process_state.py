"""What a stranger's code does to the process that it runs in is undone after each piece of work, and told."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import random
import signal
import sys
import sysconfig
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch

from robustsuite.core import patches

_PYTHON: Final = ("stdlib", "platstdlib")
_JOIN: Final = 2.0  # seconds that a thread gets to end
_SIGNALS: Final = ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM", "SIGCHLD", "SIGUSR1", "SIGUSR2", "SIGFPE")
_STREAMS: Final = ("stdin", "stdout", "stderr", "excepthook", "displayhook")
_FLAGS: Final = (
    *(("cudnn", torch.backends.cudnn, name) for name in ("enabled", "benchmark", "deterministic", "allow_tf32")),
    *(("mkldnn", torch.backends.mkldnn, name) for name in ("enabled", "deterministic", "allow_tf32")),
    *(("products on CUDA", torch.backends.cuda.matmul, name) for name in ("allow_tf32", "fp32_precision")),
)
_DRAWS: Final = "random numbers"
_depth = 0
_told: list[tuple[str, tuple[str, ...]]] = []
Part = tuple[Callable[[], Any], Callable[[Any], Any]]


@dataclass
class Aftermath:
    """What a piece of work left behind.

    Args:
        changed: What it changed of what figures rest on; it was put back.
        lasting: What could not be put back.
    """

    changed: tuple[str, ...] = ()
    lasting: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.changed or self.lasting)

    def __str__(self) -> str:
        said = [f"it changed {', '.join(self.changed)}, which was put back"] if self.changed else []
        return "; ".join([*said, *(f"it left {what}, which cannot be put back" for what in self.lasting)])


@dataclass(frozen=True)
class ProcessState:
    """How a process was.

    Args:
        parts: By name, how to read and to write what figures rest on, and what it was.
        quiet: The same for what libraries change as they are imported: it is put back and not told.
        tables: Dictionaries that only plug-ins' registration writes to, with a copy of each.
    """

    parts: dict[str, tuple[Part, Any]]
    quiet: dict[str, tuple[Part, Any]]
    tables: list[tuple[str, MutableMapping[Any, Any], dict[Any, Any]]] = field(default_factory=list)

    @classmethod
    def taken(cls, tables: Iterable[tuple[str, MutableMapping[Any, Any]]] = ()) -> ProcessState:
        """How it is now.

        Args:
            tables: Dictionaries that work must leave alone, each with its name; what their values hold counts too.
        """
        written = [(name, table, dict(table)) for given, whole in tables for name, table in _within(given, whole)]
        return cls(_read(_parts()), _read(_quiet()), written)

    def restore(self, *, draws: bool = True) -> tuple[str, ...]:
        """Make it so again; returns the names of what had changed, but for what is quiet.

        Args:
            draws: Whether random numbers start where they did, too.

        Raises:
            Exception: Something cannot be put back.
        """
        changed = [name for name, place in self.parts.items() if _put_back(*place)]
        for name, table, before in self.tables:
            if len(table) != len(before) or any(table.get(key, self) is not value for key, value in before.items()):
                table.clear()
                table.update(before)
                changed.append(name)
        for name, place in self.quiet.items():
            if name.startswith(_DRAWS) and not draws:
                continue
            with contextlib.suppress(Exception):  # a folder may be gone
                _put_back(*place)
        return tuple(changed)


@contextmanager
def contained(state: ProcessState) -> Iterator[Aftermath]:
    """Undo what the block does to this process; what it did is in `Aftermath` afterwards.

    Args:
        state: How the process is to be.
    """
    found, pid, before = Aftermath(), os.getpid(), set(threading.enumerate())
    try:
        with _noted():
            yield found
    finally:
        if os.getpid() != pid:
            os._exit(0)  # a copy of this process that the block made, and that must not go on with its work
        lasting = [f"the thread {thread.name!r}" for thread in _ended(before)]
        changed: list[str] = []
        for undo in (patches.undo, state.restore):
            try:
                changed += undo()
            except Exception as error:
                lasting.append(f"what cannot be read or written any more ({type(error).__name__}: {error})")
        found.changed, found.lasting = tuple(changed), tuple(lasting)


@contextmanager
def strangers_code(what: str) -> Iterator[None]:
    """Load or ask a stranger's code in this block: what it does to the process is undone at once, and told by `told`.

    Args:
        what: Whose code.
    """
    state, pid = ProcessState.taken(), os.getpid()
    try:
        with _noted():
            yield
    finally:
        if os.getpid() != pid:
            os._exit(0)  # a copy of this process that the code made, and that must not go on with its work
        changed = (*patches.undo(), *state.restore(draws=False))
        if changed:
            _told.append((what, changed))


@contextmanager
def _noted() -> Iterator[None]:
    """Note which functions are there; within another such block, those of before it stay what shall be."""
    global _depth
    patches.remember()
    if _depth == 0:
        patches.accept()
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1


def told() -> tuple[str, ...]:
    """What was undone since this or `undone` was asked last, in a sentence each."""
    notes = dict.fromkeys(f"{what} changed {', '.join(changed)}, which was put back" for what, changed in _told)
    _told.clear()
    return tuple(notes)


def undone() -> tuple[str, ...]:
    """Names of what was undone since this or `told` was asked last."""
    names = dict.fromkeys(name for _, changed in _told for name in changed)
    _told.clear()
    return tuple(names)


def _ended(before: set[threading.Thread]) -> list[threading.Thread]:
    """End the threads that were started since, but for those of libraries; returns those that go on."""
    since = (thread for thread in threading.enumerate() if thread not in before and thread.ident is not None)
    started = [thread for thread in since if not _of_library(thread)]
    for thread in started:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))
    for thread in started:
        thread.join(_JOIN)
    return [thread for thread in started if thread.is_alive()]


def _of_library(thread: threading.Thread) -> bool:
    """Whether what runs in a thread stands in an installed file."""
    run = getattr(thread, "_target", None) or type(thread).run
    file = getattr(getattr(run, "__code__", None), "co_filename", "")
    return "site-packages" in file or any(file.startswith(sysconfig.get_paths()[name]) for name in _PYTHON)


def _read(parts: dict[str, Part]) -> dict[str, tuple[Part, Any]]:
    found = {}
    for name, part in parts.items():
        with contextlib.suppress(Exception):  # this version, or this machine, has none
            found[name] = part, part[0]()
    return found


def _put_back(part: Part, before: Any) -> bool:
    """Whether it was another; then it is again."""
    get, put = part
    if get() == before:
        return False
    put(before)
    return True


def _parts() -> dict[str, Part]:
    flags = {f"{title}.{name}": _attribute(owner, name) for title, owner, name in _FLAGS}
    handlers = {name: _handler(name) for name in _SIGNALS if hasattr(signal, name)}
    return {
        # Devices first: what is asked below makes tensors.
        "the default device": (_default_device, torch.set_default_device),
        "modes of torch": (_modes, _leave_modes),
        "the default dtype": (torch.get_default_dtype, torch.set_default_dtype),
        "threads": (torch.get_num_threads, torch.set_num_threads),
        "gradients": (torch.is_grad_enabled, torch._C._set_grad_enabled),
        "deterministic algorithms": (_deterministic, _set_deterministic),
        "the precision of products": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        "detection of anomalies": (torch.is_anomaly_enabled, torch.set_anomaly_enabled),
        "autocast": (lambda: torch.is_autocast_enabled("cpu"), lambda on: torch.set_autocast_enabled("cpu", on)),
        "denormal numbers": (_flushes, torch.set_flush_denormal),
        "hooks of all modules": (_hooks, _set_hooks),
        "tracing": (sys.gettrace, sys.settrace),
        "profiling": (sys.getprofile, sys.setprofile),
        **flags,
        **(handlers if threading.current_thread() is threading.main_thread() else {}),
    }


def _quiet() -> dict[str, Part]:
    return {
        f"{_DRAWS} of Python": (random.getstate, random.setstate),
        f"{_DRAWS} of NumPy": (_numpy_state, np.random.set_state),
        f"{_DRAWS} of torch": (lambda: torch.get_rng_state().numpy().tobytes(), _set_rng),
        "errors of NumPy": (np.geterr, lambda kept: np.seterr(**kept)),
        "what warns": _attribute(warnings, "warn"),
        "warnings": (lambda: list(warnings.filters), _set_filters),
        "recursion": (sys.getrecursionlimit, sys.setrecursionlimit),
        "the working folder": (os.getcwd, os.chdir),
        "environment variables": (lambda: dict(os.environ), _set_environment),
        "the import path": (lambda: list(sys.path), _set_path),
        **{name: _attribute(sys, name) for name in _STREAMS},
    }


def _attribute(owner: Any, name: str) -> Part:
    return lambda: getattr(owner, name), lambda value: setattr(owner, name, value)


def _handler(name: str) -> Part:
    number = getattr(signal, name)
    return lambda: signal.getsignal(number), lambda before: signal.signal(number, before)


def _default_device() -> Any:
    context = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    return None if context is None else context.device


def _modes() -> tuple[int, int, bool]:
    return torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack(), torch.is_inference_mode_enabled()


def _leave_modes(before: tuple[int, int, bool]) -> None:
    while torch._C._len_torch_function_stack() > before[0]:
        torch._C._pop_torch_function_stack()
    while torch._C._len_torch_dispatch_stack() > before[1]:
        torch._C._pop_torch_dispatch_stack()
    if _modes() != before:
        raise RuntimeError("a mode of torch is still on, or was left")


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _set_deterministic(before: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def _flushes() -> bool:
    return bool(torch.tensor([1e-39], dtype=torch.float32, device="cpu").mul(0.5).eq(0))


def _tables_of_hooks() -> list[MutableMapping[Any, Any]]:
    owners = (torch.nn.modules.module, sys.modules[torch.optim.Optimizer.__module__])
    found = [value for owner in owners for name, value in sorted(vars(owner).items()) if name.startswith("_global_")]
    return [table for table in found if isinstance(table, MutableMapping)]


def _hooks() -> list[dict[Any, Any]]:
    return [dict(table) for table in _tables_of_hooks()]


def _set_hooks(before: list[dict[Any, Any]]) -> None:
    for table, kept in zip(_tables_of_hooks(), before, strict=True):
        table.clear()
        table.update(kept)


def _numpy_state() -> Any:
    kind, keys, *rest = np.random.get_state(legacy=True)
    return kind, tuple(np.asarray(keys).tolist()), *rest


def _set_rng(before: bytes) -> None:
    torch.set_rng_state(torch.frombuffer(bytearray(before), dtype=torch.uint8))


def _set_filters(before: list[Any]) -> None:
    warnings.filters[:] = before  # type: ignore[index]
    getattr(warnings, "_filters_mutated", lambda: None)()


def _set_environment(before: dict[str, str]) -> None:
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


def _set_path(before: list[str]) -> None:
    """What was appended stays, for modules that are imported later."""
    sys.path[:] = [*before, *(place for place in sys.path if place not in before)]


def _within(name: str, table: MutableMapping[Any, Any]) -> Iterator[tuple[str, MutableMapping[Any, Any]]]:
    """A table, and the fields of what stands in it."""
    yield name, table
    for key, value in table.items():
        if dataclasses.is_dataclass(value) and not isinstance(value, type) and hasattr(value, "__dict__"):
            yield f"{name}[{key!r}]", vars(value)
