"""What a network is, as digests: the classes and settings of its modules, its weights, and all other state.

Code is not followed, but for functions that a module holds: a change of what `forward` says shows in the digest of the
file, not in this one.
"""

from __future__ import annotations

import functools
import hashlib
import re
import types
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from robustsuite.core.canonical import digest
from robustsuite.plugins.loading import code_name

# What every module holds. `training` is left out because games set it, hooks because attacks put them on.
_OF_MODULES: Final = frozenset(vars(nn.Module())) | {"_initializing", "_c", "_concrete_type", "_compiled_call_impl"}
_PLAIN: Final = (bool, int, float, complex, str, bytes, type(None), type(...), torch.dtype, torch.device)
_CALLED: Final = (types.BuiltinFunctionType, types.MethodType, types.FunctionType)
_DEEPEST: Final = 12  # levels of containers and objects in one attribute; deeper ones count by their class

PARAMETER: Final = "parameter"
BUFFER: Final = "buffer"
ATTRIBUTE: Final = "attribute"


def network_digest(network: nn.Module) -> str:
    """24 hexadecimal digits over all that determines what a network answers, as far as it can be seen.

    Two networks of one digest have modules of the same classes and settings, equal parameters and buffers (those too
    that are not persistent), packed weights, extra state, and equal numbers, texts, tensors and arrays among the
    attributes of their modules. The mode, hooks and the code of classes are left out.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> before = network_digest(net)
        >>> net.offset = torch.zeros(2)
        >>> before == network_digest(net)
        False
    """
    return digest(network_parts(network))


def network_parts(network: nn.Module) -> dict[str, str]:
    """The digest of each part of a network, by its kind and place.

    Returns:
        `module <place>`, `parameter <name>`, `buffer <name>` or `attribute <place>.<name>` -> hexadecimal digits.
    """
    return _parts(network, frozenset())


def value_digest(value: Any) -> str:
    """24 hexadecimal digits over any value's class and content, as far as Python can see them."""
    return _Digest(frozenset()).of(value)


def plain_attributes(module: nn.Module) -> dict[str, Any]:
    """What a module holds beside its parameters, buffers, children, hooks and mode."""
    return {name: value for name, value in vars(module).items() if name not in _OF_MODULES}


def _parts(network: nn.Module, outer: frozenset[int]) -> dict[str, str]:
    """As `network_parts`; modules and parameters whose ids are in `outer` are digested elsewhere."""
    own = outer | {id(weight) for weight in network.parameters()} | {id(module) for module in network.modules()}
    parts: dict[str, str] = {}
    places: dict[int, str] = {}
    for place, module in network.named_modules(remove_duplicate=False):
        if id(module) in places:
            parts[f"module {place}"] = f"the same as {places[id(module)]}"
            continue
        places[id(module)] = place
        parts[f"module {place}"] = _Digest(own).of(_class(module))
        prefix = f"{place}." if place else ""
        for kind, name, value in _held(module):
            known = own if kind == ATTRIBUTE else outer
            parts[f"{kind} {prefix}{name}"] = _Digest(known).of(value)
    return parts


def _class(module: nn.Module) -> tuple[str, str]:
    """The class, and the code where it is data: in TorchScript."""
    return code_name(type(module)), str(getattr(module, "code", "")) if _scripted(module) else ""


def _held(module: nn.Module) -> Iterator[tuple[str, str, Any]]:
    """Kind, name and value of all that one module holds itself."""
    for name, weight in module.named_parameters(recurse=False):
        yield PARAMETER, name, weight
    for name, buffer in module.named_buffers(recurse=False):
        yield BUFFER, name, buffer
    for name, value in plain_attributes(module).items():
        # Counters and notes of what was seen, which a call may change, are private numbers and texts.
        if not (name.startswith("_") and isinstance(value, _PLAIN)):
            yield ATTRIBUTE, name, value
    if _scripted(module):
        yield from _of_script(module)
    elif type(module).get_extra_state is not nn.Module.get_extra_state:
        yield ATTRIBUTE, "get_extra_state()", module.get_extra_state()


def _scripted(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule)


def _of_script(module: nn.Module) -> Iterator[tuple[str, str, Any]]:
    """Constants that were frozen into the code, and the attributes that it reads."""
    script: Any = module
    try:
        code, constants = script.code_with_constants
    except (AttributeError, RuntimeError):  # a container without a forward of its own
        return
    for name, value in constants.const_mapping.items():
        yield ATTRIBUTE, f"constant {name}", value
    for name in sorted(set(re.findall(r"\b\w+\.(\w+)", code))):
        if script._c.hasattr(name):
            value = script._c.getattr(name)
            if not isinstance(value, (Tensor, torch.ScriptModule)):  # these are parameters, buffers and children
                yield ATTRIBUTE, name, value


class _Digest:
    """The digest of one value.

    Args:
        known: Ids of modules and parameters that count by their class alone, since they are digested elsewhere.
    """

    def __init__(self, known: frozenset[int]) -> None:
        self._known, self._met, self._found = known, dict[int, Any](), hashlib.sha256()

    def of(self, value: Any) -> str:
        """24 hexadecimal digits over the value's class and content."""
        self._add(value, 0)
        return self._found.hexdigest()[:24]

    def _put(self, content: str | bytes) -> None:
        self._found.update(content if isinstance(content, bytes) else content.encode())

    def _add(self, value: Any, depth: int) -> None:
        self._put(f"<{code_name(type(value))} ")
        if id(value) in self._known:
            self._put("known")
        elif isinstance(value, Tensor):
            self._tensor(value, depth)
        elif isinstance(value, _PLAIN):
            self._put(repr(value))
        elif isinstance(value, np.ndarray) and value.dtype != object:
            self._put(f"{value.dtype}{value.shape}")
            self._put(np.ascontiguousarray(value).tobytes())
        elif isinstance(value, type):
            self._put(code_name(value))
        elif depth < _DEEPEST:
            self._composed(value, depth + 1)
        self._put(">")

    def _composed(self, value: Any, depth: int) -> None:
        if isinstance(value, nn.Module):
            self._once(value, digest(_parts(value, self._known)), depth)
        elif isinstance(value, Mapping):
            for item in value.items():
                self._add(item, depth)
        elif isinstance(value, Set):
            self._put(repr(sorted(_Digest(self._known).of(item) for item in value)))
        elif isinstance(value, np.generic):
            self._put(value.tobytes())
        elif isinstance(value, _CALLED):
            self._function(value, depth)
        elif isinstance(value, functools.partial):
            self._add((value.func, value.args, value.keywords), depth)
        elif isinstance(value, torch.ScriptObject):  # packed weights of quantised layers
            self._add(_state_of_script(value), depth)
        elif isinstance(value, Sequence):
            for item in value:
                self._add(item, depth)
        elif hasattr(value, "__dict__") and not isinstance(value, torch.fx.Graph):  # a graph's code stands beside it
            self._once(value, dict(vars(value)), depth)

    def _once(self, value: Any, content: Any, depth: int) -> None:
        """Add an object that may lead back to itself."""
        if id(value) not in self._met:
            self._met[id(value)] = value  # kept, so that no other object gets its id meanwhile
            self._add(content, depth)

    def _function(self, value: Any, depth: int) -> None:
        """Its name, and what it is made of where Python can see that."""
        bound = getattr(value, "__self__", None)
        if bound is not None and not isinstance(bound, types.ModuleType):
            self._add(bound, depth)
        if isinstance(value, types.MethodType):
            value = value.__func__
        self._put(str(getattr(value, "__qualname__", "")))
        if isinstance(value, types.FunctionType):
            made_of = value.__defaults__, value.__kwdefaults__, [_cell(cell) for cell in value.__closure__ or ()]
            self._once(value, made_of, depth)
            self._code(value.__code__, depth)

    def _code(self, code: types.CodeType, depth: int) -> None:
        self._put(code.co_code)
        self._put(repr(code.co_names))
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self._code(constant, depth)
            else:
                self._add(constant, depth)

    def _tensor(self, tensor: Tensor, depth: int) -> None:
        if is_lazy(tensor):
            self._put("lazy")
            return
        self._put(f"{tensor.dtype}{tuple(tensor.shape)}{tensor.layout}")
        tensor = tensor.detach()
        if type(tensor) not in (Tensor, nn.Parameter) and hasattr(tensor, "__tensor_flatten__"):
            names, about = tensor.__tensor_flatten__()  # a subclass around other tensors, such as weights of torchao
            self._add([about, *(getattr(tensor, name) for name in names)], depth + 1)
        elif tensor.is_quantized:
            self._add([tensor.int_repr(), *_scales(tensor)], depth + 1)
        elif tensor.layout is not torch.strided:
            self._add(tensor.to_dense(), depth + 1)
        elif tensor.device.type != "meta":
            plain = tensor.resolve_conj().resolve_neg().cpu().contiguous()
            self._put(plain.reshape(-1).view(torch.uint8).numpy().tobytes())


def _state_of_script(value: Any) -> Any:
    try:
        return value.__getstate__()
    except (AttributeError, RuntimeError):  # a class that cannot be saved
        return None


def _cell(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # empty
        return None


def _scales(tensor: Tensor) -> tuple[Any, ...]:
    if tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return tensor.q_scale(), tensor.q_zero_point()
    return tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points(), tensor.q_per_channel_axis()
