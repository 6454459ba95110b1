"""Weights to files and back; nothing in a file is ever run."""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from robustsuite import checks
from robustsuite.errors import RequestError, UntrustedFileError
from robustsuite.files import absent, located, write_atomically
from robustsuite.models.wrap import Wrapped

_PREFIXES: Final = ("_module.", "module.", "_orig_mod.")  # of Opacus, DataParallel and torch.compile
_WRAPPED: Final = "model."  # of `rs.wrap`, and of Lightning's modules that hold the network so
_WRAPPERS: Final = ("state_dict", "model_state_dict", "model", "net", "weights")
_SHOWN: Final = 3


def save(module: nn.Module, path: str | Path) -> None:
    """Write a module's state dict as safetensors, whole or not at all."""
    from safetensors.torch import save as to_bytes

    # Clones, because safetensors refuses tensors that share memory (tied weights).
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in module.state_dict().items()}
    write_atomically(Path(path), to_bytes(tensors))


def load_into(module: nn.Module, path: str | Path) -> None:
    """Load weights into a module, which stays as it was if anything is wrong with them.

    safetensors, or a `.pt` of a state dict read with `weights_only=True`. Prefixes that Opacus, DataParallel and
    torch.compile put before the names are taken off, and so is that of `rs.wrap`: weights of a wrapped model fit the
    network inside, and the other way round. All names must fit, or nothing is loaded.

    Raises:
        UntrustedFileError: A file with code in it, an HTML page, a torn file, weights that are not finite.
        RequestError: No such file, or keys or shapes that are not the module's.
    """
    file = located(path)
    while isinstance(module, Wrapped):
        module = module.model
    state = _unprefixed(_read(file), module.state_dict())
    _check_keys(file, state, module.state_dict())
    for name, tensor in state.items():
        try:
            checks.finite(name, tensor)
        except RequestError as error:
            raise UntrustedFileError(
                f"expected weights that can be used, got checkpoint={str(file)!r}; {error}"
            ) from error
    module.load_state_dict(state)


def _read(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise checks.fail("an existing checkpoint", "checkpoint", str(file), absent(file))
    content = file.read_bytes()
    head = content[:512].lstrip()
    if not content:
        raise _refused(file, "it is empty")
    # Looked at first: the length that safetensors start with may have the bytes of any other mark.
    if content[8:9] == b"{" and int.from_bytes(content[:8], "little") <= len(content):
        return _safetensors(file, content)
    if head[:1] == b"<":
        raise _refused(file, "it is an HTML page, not weights; download the file itself")
    if content[:2] == b"PK" or content[:1] == b"\x80":
        return _torch(file, content)
    return _safetensors(file, content)


def _safetensors(file: Path, content: bytes) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return dict(load(content))
    except (SafetensorError, ValueError, KeyError) as error:
        raise _refused(file, f"it is neither safetensors nor a .pt ({error})") from error


def _torch(file: Path, content: bytes) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an old format is no reason to warn once its content has been checked
            state: Any = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = _reason(error)
        raise _refused(
            file, f"it holds more than weights ({reason}); save module.state_dict() by torch.save, or safetensors"
        ) from error
    except Exception as error:  # torch.load raises whatever a damaged archive makes it meet
        raise _refused(file, f"it cannot be read ({type(error).__name__}: {_reason(error)})") from error
    for key in _WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
            break
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise _refused(file, "it is no state dict; save module.state_dict()")
    return {str(key): value for key, value in state.items()}


def _reason(error: BaseException) -> str:
    """What is unsupported, out of torch's long advice on how to load it in spite of that."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = next((line for line in lines if "Unsupported" in line or "GLOBAL" in line), lines[0] if lines else "")
    return told.removeprefix("WeightsUnpickler error: ").partition(". Please")[0].partition(" was not an allowed")[0]


def _refused(file: Path, reason: str) -> UntrustedFileError:
    return UntrustedFileError(
        f"expected a file of weights, got checkpoint={str(file)!r}; {reason}; nothing in it was run"
    )


def _unprefixed(state: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights under the names that are wanted, or as near to them as prefixes lead."""
    nearest, tried = state, state
    while True:
        if tried.keys() == wanted.keys():
            return tried
        prefix = next((p for p in (*_PREFIXES, _WRAPPED) if tried and all(key.startswith(p) for key in tried)), None)
        if prefix is None:
            return nearest
        tried = {key.removeprefix(prefix): value for key, value in tried.items()}
        if not any(key.startswith(prefix) for key in wanted):
            nearest = tried


def _check_keys(file: Path, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    missing = [key for key in wanted if key not in state]
    unexpected = [key for key in state if key not in wanted]
    wrong = [
        f"{key} {tuple(state[key].shape)} where the model has {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in state and state[key].shape != value.shape
    ]
    found = (("lacks", missing), ("has, and the model has not,", unexpected), ("has other shapes:", wrong))
    reasons = [f"it {verb} {_few(keys)}" for verb, keys in found if keys]
    if reasons:
        raise RequestError(
            f"expected the weights of this model, got checkpoint={str(file)!r}; {' and '.join(reasons)}: give the "
            f"model that these weights are of, with its options"
        )


def _few(keys: list[str]) -> str:
    more = len(keys) - _SHOWN
    return ", ".join(keys[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
