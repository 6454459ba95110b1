"""Functions of torch, NumPy, Python and this suite that a stranger's code has replaced are put back.

A plug-in may patch `torch.relu` for its own purposes; every later figure of the process would rest on the patch. So
what stands in these modules and classes is remembered before a stranger's code is loaded, and compared by identity,
which takes some milliseconds. What is beneath Python is not seen: kernels that were registered by `torch.library`, and
memory that was written to through pointers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter, is_
from types import BuiltinFunctionType, FunctionType, GetSetDescriptorType, MethodDescriptorType, ModuleType
from types import WrapperDescriptorType as SlotType
from typing import Any, Final

import torch

_MODULES: Final = (
    *("builtins", "random", "time", "math", "os", "io", "json", "hashlib", "copy", "pickle", "threading", "numpy"),
    *("numpy.random", "numpy.linalg", "torch", "torch._C", "torch._C._nn", "torch.functional", "torch.random"),
    *("traceback", "shutil", "pathlib", "tempfile", "contextlib", "functools", "itertools", "dataclasses"),
    *("torch._tensor", "torch.linalg", "torch.special", "torch.fft", "torch.overrides", "safetensors.torch"),
)
_FAMILIES: Final = ("robustsuite.", "torch.nn.", "torch.optim.", "torch.autograd.", "torch.utils.data.")
_LOADED: Final = ("robustsuite_plugin_", "robustsuite_file_")  # a stranger's own
_PARTS: Final = (
    *(FunctionType, BuiltinFunctionType, MethodDescriptorType, SlotType, GetSetDescriptorType, staticmethod),
    *(classmethod, property, cached_property),
)
_CONSTANTS: Final = (bool, int, float, str, bytes, tuple, frozenset)
_ABSENT: Final = object()
_BY_TORCH: Final = (
    "torch.manual_seed",
    "torch.compile",
    "torch.Storage",
)  # when its compiler is imported; by the dtype

_INSIDE: Final = ("__code__", "__defaults__", "__kwdefaults__")


@dataclass
class _Owner:
    """A module or a class.

    Args:
        title: Its name.
        owner: Itself.
        before: By name, what must stand in it.
        names: All that was there.
        seen: Its names and its values when it was last found in order. Compared first, at the speed of C: nothing need
            be looked at where nothing was touched, and that is so for nearly all of them nearly always.
    """

    title: str
    owner: Any
    before: dict[str, Any]
    names: set[str]
    seen: tuple[list[str], list[Any]] = ([], [])

    def untouched(self) -> bool:
        """Whether names and values are the very ones that were there when it was last looked at."""
        now, (names, values) = vars(self.owner), self.seen
        return _same(list(now.values()), values) and _same(list(now), names)

    def look(self) -> None:
        """Remember that it is in order as it is now."""
        self.seen = list(vars(self.owner)), list(vars(self.owner).values())


_kept: dict[int, _Owner] = {}
_functions: dict[int, FunctionType] = {}
_insides: tuple[list[Any], ...] = ([], [], [])
"""What the functions have in them, in their order: a list for each of `_INSIDE`."""
_modules: dict[str, ModuleType] = {}
_passed: set[str] = set()
"""Names of modules that do not count."""


def remember() -> None:
    """Take note of what is there now; what was noted before is left as it was."""
    for name in sys.modules.keys() - _passed:
        module = sys.modules.get(name)
        if not _ours(name):
            _passed.add(name)
        if name in _passed or name in _modules or not isinstance(module, ModuleType):
            continue
        _modules[name] = module
        _note(name, module)
        for value in list(vars(module).values()):
            if isinstance(value, type) and _ours(value.__module__) and id(value) not in _kept:
                _note(f"{value.__module__}.{value.__qualname__}", value)
    if id(torch._C.TensorBase) not in _kept:
        _note("torch.Tensor", torch._C.TensorBase)


def accept() -> None:
    """Take what is there now for what shall be: whoever changed it since, it was no stranger's code."""
    for kept in _kept.values():
        if kept.untouched():
            continue
        now, before = vars(kept.owner), kept.before
        kept.names.update(now)
        for name in [name for name, value in before.items() if now.get(name, _ABSENT) is not value]:
            if name in now:
                before[name] = now[name]
            else:
                del before[name]
        kept.look()
    for inside, part in zip(_insides, _INSIDE, strict=True):
        inside[:] = map(attrgetter(part), _functions.values())
    for name in _modules:
        _modules[name] = sys.modules.get(name, _modules[name])


def undo() -> tuple[str, ...]:
    """Put back what is no longer what was remembered; returns its names.

    Raises:
        TypeError: Something cannot be put back.
    """
    changed = [name for name, module in _modules.items() if sys.modules.get(name) is not module]
    for name in changed:
        sys.modules[name] = _modules[name]
    for kept in [kept for kept in _kept.values() if not kept.untouched()]:
        changed += [f"{kept.title}.{name}" for name in _put_back(kept.owner, kept.before, kept.names)]
        kept.look()
    changed += [f"{function.__module__}.{function.__qualname__}" for function in _functions_put_back()]
    return tuple(name for name in changed if name not in _BY_TORCH)


def _functions_put_back() -> list[FunctionType]:
    """Those whose code or defaults were others; they are again what they were."""
    functions = list(_functions.values())
    now = [list(map(attrgetter(part), functions)) for part in _INSIDE]
    if all(map(_same, now, _insides)):
        return []
    found = []
    for function, *insides in zip(functions, *now, *_insides, strict=True):
        if not _same(insides[:3], insides[3:]):
            function.__code__, function.__defaults__, function.__kwdefaults__ = insides[3:]
            found.append(function)
    return found


def remembered() -> bool:
    """Whether a stranger's code may have been loaded since."""
    return bool(_kept)


def _same(now: Sequence[Any], before: Sequence[Any]) -> bool:
    return len(now) == len(before) and all(map(is_, now, before))


def _put_back(owner: Any, before: dict[str, Any], names: set[str]) -> Iterator[str]:
    now = vars(owner)
    wrong = [name for name, value in before.items() if now.get(name, _ABSENT) is not value]
    added = [name for name in now.keys() - names if _shadows(owner, name, now[name])]
    for name in wrong:
        if not _is_hooked(owner, name, before[name]):
            setattr(owner, name, before[name])
            yield name
    for name in added:
        delattr(owner, name)
        yield name


def _is_hooked(owner: Any, name: str, before: Any) -> bool:
    """Whether torch has wrapped this step of an optimizer itself, as it does when the first one is made."""
    step = vars(owner).get(name)
    wrapper = torch.optim.Optimizer.profile_hook_step
    known = isinstance(step, FunctionType) and any(step.__code__ is part for part in wrapper.__code__.co_consts)
    return known and getattr(step, "__wrapped__", None) is before


def _shadows(owner: Any, name: str, value: Any) -> bool:
    """Whether what was added hides something: a method of a base class, or a name that every module has."""
    if isinstance(owner, type):
        return isinstance(value, _PARTS) and any(name in vars(base) for base in owner.__mro__[1:])
    python = vars(_modules["builtins"])
    return callable(value) and python.get(name, value) is not value


def _note(title: str, owner: Any) -> None:
    module = isinstance(owner, ModuleType)
    held = {name: value for name, value in vars(owner).items() if _counts(name, value, module=module)}
    _kept[id(owner)] = kept = _Owner(title, owner, held, set(vars(owner)))
    kept.look()
    for value in held.values():
        if isinstance(value, FunctionType) and id(value) not in _functions:
            _functions[id(value)] = value
            for inside, part in zip(_insides, _INSIDE, strict=True):
                inside.append(getattr(value, part))


def _counts(name: str, value: Any, *, module: bool) -> bool:
    if not module:
        return isinstance(value, _PARTS)
    return callable(value) or isinstance(value, ModuleType) or (isinstance(value, _CONSTANTS) and name.isupper())


def _ours(name: str) -> bool:
    return not name.startswith(_LOADED) and (name in _MODULES or f"{name}.".startswith(_FAMILIES))
