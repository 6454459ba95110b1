"""Weights to files and back; nothing in a file is ever run."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn

from robustsuite.core import checks
from robustsuite.core.errors import RequestError, UntrustedFileError
from robustsuite.models.weight_files import StateDict, mending, read, refused
from robustsuite.models.wrap import Wrapped
from robustsuite.storage.files import located, write_atomically

_PREFIXES: Final = ("_module.", "module.", "_orig_mod.")  # of Opacus, DataParallel and torch.compile
_WRAPPED: Final = "model."  # of `rs.wrap`, and of Lightning's modules that hold the network so
_SHOWN: Final = 3


def save(module: nn.Module, path: str | Path) -> None:
    """Write a module's state dict as safetensors, whole or not at all."""
    from safetensors.torch import save as to_bytes

    # Clones, because safetensors refuses tensors that share memory (tied weights).
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in module.state_dict().items()}
    write_atomically(Path(path), to_bytes(tensors))


def load_into(module: nn.Module, path: str | Path) -> None:
    """Load weights into a module, which stays as it was if anything is wrong with them.

    safetensors, or a `.pt` of a state dict read with `weights_only=True`, also below the keys that trainers use. What
    fits is for torch's own strict rule to say, tried on a copy: weights from before PyTorch 0.4.1 do. Prefixes that
    Opacus, DataParallel and torch.compile put before the names are taken off, and so is that of `rs.wrap`: weights of a
    wrapped model fit the network inside, and the other way round. All names must fit, or nothing is loaded.

    Raises:
        UntrustedFileError: A file with code in it, an HTML page, a torn file, weights that are not finite, no state
            dict, or several that fit.
        RequestError: No such file, or keys or shapes that are not the module's.
    """
    file = located(path)
    while isinstance(module, Wrapped):
        module = module.model
    held = read(file)
    pool = held[:1] if held[0].alone else held
    tried = [(found.place, _fitting(module, found)) for found in pool]
    fitting = [(place, state) for place, state in tried if state is not None]
    if not fitting:
        raise _misfit(file, pool, module)
    if len(fitting) > 1:
        places = ", ".join(place for place, _ in fitting)
        line = mending(file, fitting[0][0])
        raise refused(file, f"it holds several state dicts that fit, {places}; the line that leaves one: {line}")
    state = fitting[0][1]
    for name, tensor in state.items():
        try:
            checks.finite(name, tensor)
        except RequestError as error:
            raise UntrustedFileError(
                f"expected weights that can be used, got checkpoint={str(file)!r}; {error}", name="checkpoint"
            ) from error
    module.load_state_dict(state)


def _fitting(module: nn.Module, found: StateDict) -> OrderedDict[str, Tensor] | None:
    """The weights under the names with which torch takes them; None where it takes them with none."""
    for state in _undressed(found):
        if not _refusal(module, state):
            return state
    return None


def _refusal(module: nn.Module, state: Mapping[str, Any]) -> str:
    """Why torch does not take these weights, tried on a copy; empty where it does."""
    try:
        trial, before = copy.deepcopy(module), None
    except Exception:  # not every module can be copied, such as one with weights that are computed from others
        trial, before = module, {name: value.detach().clone() for name, value in module.state_dict().items()}
    try:
        trial.load_state_dict(state)
    except Exception as error:  # modules have rules of their own
        return " ".join(f"{type(error).__name__}: {error}".split())
    finally:
        if before is not None:
            module.load_state_dict(before)
    return ""


def _undressed(found: StateDict) -> Iterator[OrderedDict[str, Tensor]]:
    """The weights as they are, then without each prefix that all of them share."""
    tensors, metadata = found.tensors, found.metadata
    while True:
        state = OrderedDict(tensors)
        if metadata:
            vars(state)["_metadata"] = OrderedDict(metadata)  # versions of modules, by which torch reads old weights
        yield state
        prefix = next((p for p in (*_PREFIXES, _WRAPPED) if tensors and all(k.startswith(p) for k in tensors)), None)
        if prefix is None:
            return
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
        metadata = {
            "" if key == prefix[:-1] else key.removeprefix(prefix): value
            for key, value in metadata.items()
            if key == prefix[:-1] or key.startswith(prefix)
        }


def _misfit(file: Path, pool: list[StateDict], module: nn.Module) -> RequestError:
    """Why none of these is of this module: what the nearest one lacks."""
    wanted = module.state_dict()
    dressed = [state for found in pool for state in _undressed(found)]
    nearest = max(dressed, key=lambda state: len(state.keys() & wanted.keys()))
    where = "" if len(pool) == 1 else f" in none of {', '.join(found.place for found in pool)}"
    reasons = _reasons(nearest, wanted)
    if not reasons:
        told = _refusal(module, nearest) or "under the names that it has"
        reasons = [f"torch refuses it ({told})"]
    return RequestError(
        f"expected the weights of this model{where}, got checkpoint={str(file)!r}; {' and '.join(reasons)}: give the "
        f"model that these weights are of, with its options",
        name="checkpoint",
    )


def _reasons(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """What the weights lack, have too much, and have in other shapes."""
    # Where the count of batches alone is missing it is for torch to say: it was not kept before PyTorch 0.4.1.
    missing = [key for key in wanted if key not in state and key.rpartition(".")[2] != "num_batches_tracked"]
    unexpected = [key for key in state if key not in wanted]
    wrong = [
        f"{key} {tuple(state[key].shape)} where the model has {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in state and state[key].shape != value.shape
    ]
    found = (("lacks", missing), ("has, and the model has not,", unexpected), ("has other shapes:", wrong))
    return [f"it {verb} {_few(keys)}" for verb, keys in found if keys]


def _few(keys: list[str]) -> str:
    more = len(keys) - _SHOWN
    return ", ".join(keys[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
