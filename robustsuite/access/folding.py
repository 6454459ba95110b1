"""A copy of a network for evaluation: each BatchNorm folded into the layer before it, so that a pass does less."""

from __future__ import annotations

import copy
import operator
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from robustsuite.core.errors import ModelError

_FOLDS: Final[dict[type[nn.Module], type[nn.Module]]] = {
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
    nn.Conv3d: nn.BatchNorm3d,
    nn.Linear: nn.BatchNorm1d,
}
_HOOKS: Final = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

# What a rounding error passes through without being blown up, as a quantiser or a sort would.
_SMOOTH_MODULES: Final = (
    *_FOLDS, *_FOLDS.values(), nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Softplus,
    nn.Hardtanh, nn.ReLU6, nn.Hardswish, nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d, nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d, nn.GroupNorm, nn.LayerNorm,
)  # fmt: skip
_SMOOTH_FUNCTIONS: Final[frozenset[Any]] = frozenset({
    F.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.softplus, F.avg_pool2d, F.adaptive_avg_pool2d,
    F.max_pool2d, F.dropout, torch.relu, torch.tanh, torch.sigmoid, torch.flatten, torch.cat, torch.add, torch.sub,
    torch.mul, torch.mean, operator.add, operator.iadd, operator.sub, operator.mul, operator.truediv,
    operator.getitem, getattr,
})  # fmt: skip
_SMOOTH_METHODS: Final = frozenset({"view", "reshape", "flatten", "size", "mean", "relu", "tanh", "add", "contiguous"})


class Folded(NamedTuple):
    """A copy with `folds` BatchNorms folded away; `smooth` where all that it does is known to keep rounding small."""

    network: nn.Module
    folds: int
    smooth: bool


def fold(network: nn.Module) -> Folded:
    """A copy of a network in eval mode that computes the same function up to rounding, with fewer layers.

    Where the network's code cannot be traced, its parts are tried one by one. The code itself stays: only a layer's
    weights and the BatchNorm behind it (which becomes the identity) are replaced, and only where each of the two is
    called in one place, the one directly on the other. What a caller must still check is that the copy answers alike.

    Args:
        network: Left as it is.

    Raises:
        ModelError: A copy of the network shares weights with it.
        Exception: Whatever copying the network raises, where it cannot be copied.
    """
    traced = copy.deepcopy(network)  # tracing runs the network's code on placeholders, which may leave marks on it
    graphs = list(_graphs(traced, ""))
    pairs = list(_pairs(graphs))
    folded = copy.deepcopy(network)
    if {p.data_ptr() for p in folded.parameters()} & {p.data_ptr() for p in network.parameters() if p.numel()}:
        raise ModelError(
            "expected copies of a network to have weights of their own, got shared ones; mend __deepcopy__"
        )
    for layer, norm in pairs:
        before, after = folded.get_submodule(layer), folded.get_submodule(norm)
        fuse: Any = fuse_linear_bn_eval if isinstance(before, nn.Linear) else fuse_conv_bn_eval
        _replace(folded, layer, fuse(before, after))
        _replace(folded, norm, nn.Identity())
    whole = len(graphs) == 1 and graphs[0][0] == ""
    return Folded(folded.requires_grad_(False), len(pairs), whole and _smooth(graphs[0][1], graphs[0][2]))


def _replace(network: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(network.get_submodule(parent), own, new)


def _graphs(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module, fx.Graph]]:
    """Each part whose code can be traced, as large as possible: its name, itself and its graph."""
    try:
        graph = fx.Tracer().trace(module)
    except Exception:  # code of any kind runs on placeholders here, and may raise anything
        for name, child in module.named_children():
            yield from _graphs(child, f"{prefix}{name}.")
    else:
        yield prefix, module, graph


def _pairs(graphs: list[tuple[str, nn.Module, fx.Graph]]) -> Iterator[tuple[str, str]]:
    """Names of a layer and of the BatchNorm that alone is called on its output."""
    calls = Counter(
        id(root.get_submodule(str(node.target)))
        for _, root, graph in graphs
        for node in graph.nodes
        if node.op == "call_module"
    )
    for prefix, root, graph in graphs:
        for node in graph.nodes:
            before = node.args[0] if node.op == "call_module" and node.args else None
            if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
                continue
            layer, norm = (root.get_submodule(str(n.target)) for n in (before, node))
            if calls[id(layer)] == calls[id(norm)] == 1 and _foldable(layer, norm):
                yield f"{prefix}{before.target}", f"{prefix}{node.target}"


def _foldable(layer: nn.Module, norm: nn.Module) -> bool:
    # Exact types: a subclass (a quantised, masked or parametrised layer) may compute something else.
    if _FOLDS.get(type(layer)) is not type(norm):
        return False
    if any(getattr(part, hooks) for part in (layer, norm) for hooks in _HOOKS):
        return False
    return not norm.training and getattr(norm, "running_mean", None) is not None


def _smooth(root: nn.Module, graph: fx.Graph) -> bool:
    for node in graph.nodes:
        if node.op == "call_module":
            known = type(root.get_submodule(str(node.target))) in _SMOOTH_MODULES
        elif node.op == "call_function":
            known = node.target in _SMOOTH_FUNCTIONS
        elif node.op == "call_method":
            known = node.target in _SMOOTH_METHODS
        else:
            known = True
        if not known:
            return False
    return True
