"""All that a training leaves in a network, to be kept and put back: more than its state dict holds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from robustsuite.models.digest import plain_attributes

_BUFFER: Final = "buffer not in the state dict: "
_ATTRIBUTE: Final = "attribute: "


class State(NamedTuple):
    """Tensors by name, and numbers and texts that modules hold."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]


def captured(network: nn.Module) -> State:
    """The state dict, buffers that are not persistent, and tensors, numbers and texts among the modules' attributes.

    The tensors are copies, for layers that a network uses twice share memory.
    """
    tensors = {name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)}
    tensors |= {f"{_BUFFER}{name}": buffer for name, buffer in network.named_buffers() if name not in tensors}
    attributes = dict(_attributes(network))
    tensors |= {f"{_ATTRIBUTE}{name}": value for name, value in attributes.items() if isinstance(value, Tensor)}
    values = {name: value for name, value in attributes.items() if _simple(value)}
    plain = {"memory_format": torch.contiguous_format}
    return State({name: value.detach().clone(**plain) for name, value in tensors.items()}, values)


def put_back(network: nn.Module, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Make a network as it was when its state was captured.

    Raises:
        RuntimeError: The tensors are of another network.
    """
    extra = {name for name in tensors if name.startswith((_BUFFER, _ATTRIBUTE))}
    network.load_state_dict({name: value for name, value in tensors.items() if name not in extra})
    buffers = dict(network.named_buffers())
    with torch.no_grad():
        for name in extra:
            if name.startswith(_ATTRIBUTE):
                place, attribute = _place(network, name.removeprefix(_ATTRIBUTE))
                setattr(place, attribute, tensors[name].clone())
            else:
                _put_buffer(network, buffers, name.removeprefix(_BUFFER), tensors[name])
    for name, value in values.items():
        place, attribute = _place(network, name)
        setattr(place, attribute, value)


def _put_buffer(network: nn.Module, buffers: Mapping[str, Tensor], name: str, value: Tensor) -> None:
    if name in buffers and buffers[name].shape == value.shape:
        buffers[name].copy_(value)
        return
    place, attribute = _place(network, name)
    place.register_buffer(attribute, value.clone(), persistent=False)


def _attributes(network: nn.Module) -> Iterator[tuple[str, Any]]:
    for place, module in network.named_modules():
        for name, value in plain_attributes(module).items():
            yield f"{place}.{name}" if place else name, value


def _place(network: nn.Module, name: str) -> tuple[nn.Module, str]:
    place, _, attribute = name.rpartition(".")
    return network.get_submodule(place), attribute


def _simple(value: Any) -> bool:
    return type(value) in (bool, int, str, type(None)) or (type(value) is float and math.isfinite(value))
