"""What a file of weights holds, found without running anything in it."""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from robustsuite.core import checks
from robustsuite.core.errors import UntrustedFileError
from robustsuite.storage.files import absent

# Keys under which trainers keep what others call the state dict, the most usual first.
_USUAL: Final = (
    *("state_dict", "model_state_dict", "model", "net", "weights"),
    *("model_state", "model_weights", "network", "net_state_dict", "params", "module"),
)
_DEPTH: Final = 3
_SHOWN: Final = 8
_FOREIGN: Final = {
    ".onnx": "it is an ONNX graph, not the weights of a module: save module.state_dict() of the network that was "
    "exported, or give a factory of a module that asks the graph (attacks by gradients are not applicable then)",
    ".h5": "it holds weights of Keras, not of a torch module",
    ".keras": "it holds weights of Keras, not of a torch module",
}
_HDF5: Final = b"\x89HDF\r\n\x1a\n"


class StateDict(NamedTuple):
    """A state dict in a file.

    Attributes:
        path: Keys and indices that lead to it; empty where the file is a state dict.
        tensors: By name.
        metadata: What torch keeps beside it, versions of modules among it; empty where there is none.
        alone: Whether its keys are the usual ones, so that no other state dict of the file is meant.
    """

    path: tuple[str | int, ...]
    tensors: dict[str, Tensor]
    metadata: dict[str, Any]
    alone: bool

    @property
    def place(self) -> str:
        """As Python writes it."""
        return "".join(f"[{step!r}]" for step in self.path)


def read(file: Path) -> list[StateDict]:
    """Every state dict that a file holds; those of usual keys first.

    Raises:
        RequestError: No such file.
        UntrustedFileError: A file with code in it, an HTML page, a torn file, or one without a state dict.
    """
    if not file.is_file():
        raise checks.fail("an existing checkpoint", "checkpoint", str(file), absent(file))
    content = file.read_bytes()
    head = content[:512].lstrip()
    if not content:
        raise refused(file, "it is empty")
    # Looked at first: the length that safetensors start with may have the bytes of any other mark.
    if content[8:9] == b"{" and int.from_bytes(content[:8], "little") <= len(content):
        return [StateDict((), _safetensors(file, content), {}, True)]
    if head[:1] == b"<":
        raise refused(file, "it is an HTML page, not weights; download the file itself")
    if file.suffix.lower() in _FOREIGN or content.startswith(_HDF5):
        raise refused(file, _FOREIGN.get(file.suffix.lower(), _FOREIGN[".h5"]))
    if content[:2] == b"PK" or content[:1] == b"\x80":
        return _held(file, _torch(file, content))
    return [StateDict((), _safetensors(file, content), {}, True)]


def refused(file: Path, reason: str) -> UntrustedFileError:
    """The one form that these errors have."""
    return UntrustedFileError(
        f"expected a file of weights, got checkpoint={str(file)!r}; {reason}; nothing in it was run", name="checkpoint"
    )


def mending(file: Path, place: str) -> str:
    """The line that leaves only the weights."""
    return f'torch.save(torch.load({str(file)!r}, weights_only=True){place}, "weights.pt")'


def _safetensors(file: Path, content: bytes) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return dict(load(content))
    except (SafetensorError, ValueError, KeyError) as error:
        raise refused(file, f"it is neither safetensors nor a .pt ({error})") from error


def _torch(file: Path, content: bytes) -> Any:
    if _scripted(content):
        raise refused(file, "it is a TorchScript archive: give a factory that returns torch.jit.load(path)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an old format is no reason to warn once its content has been checked
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = _reason(error)
        raise refused(
            file, f"it holds more than weights ({reason}); save module.state_dict() by torch.save, or safetensors"
        ) from error
    except Exception as error:  # torch.load raises whatever a damaged archive makes it meet
        raise refused(file, f"it cannot be read ({type(error).__name__}: {_reason(error)})") from error


def _scripted(content: bytes) -> bool:
    if content[:2] != b"PK":
        return False
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, ValueError, OSError):
        return False


def _reason(error: BaseException) -> str:
    """What is unsupported, out of torch's long advice on how to load it in spite of that."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = next((line for line in lines if "Unsupported" in line or "GLOBAL" in line), lines[0] if lines else "")
    return told.removeprefix("WeightsUnpickler error: ").partition(". Please")[0].partition(" was not an allowed")[0]


def _held(file: Path, content: Any) -> list[StateDict]:
    found = list(_states(content, (), usual=True))
    if not found:
        tensors = isinstance(content, Mapping) and any(isinstance(value, Tensor) for value in content.values())
        if tensors:
            line = mending(file, "").replace("torch.save(", "torch.save({k: v for k, v in ", 1)
            line = line.replace(', "weights', '.items() if torch.is_tensor(v)}, "weights', 1)
        else:
            line = 'torch.save(module.state_dict(), "weights.pt")'
        raise refused(file, f"it is no state dict: it holds {shown(content)}; the line that mends it: {line}")
    return found


def _states(value: Any, path: tuple[str | int, ...], *, usual: bool) -> Iterator[StateDict]:
    """Every mapping of tensors below a value."""
    if isinstance(value, Mapping) and value and all(isinstance(item, Tensor) for item in value.values()):
        metadata = getattr(value, "_metadata", None)
        tensors = {str(key): item for key, item in value.items()}
        yield StateDict(path, tensors, dict(metadata) if isinstance(metadata, Mapping) else {}, usual)
    elif isinstance(value, Mapping) and len(path) < _DEPTH:
        order = [*(key for key in _USUAL if key in value), *(key for key in value if key not in _USUAL)]
        for key in order:
            yield from _states(value[key], (*path, key), usual=usual and key in _USUAL)
    elif isinstance(value, (list, tuple)) and len(path) < _DEPTH:
        for index, item in enumerate(value):
            yield from _states(item, (*path, index), usual=usual and len(value) == 1)


def shown(content: Any) -> str:
    """Keys and types at the top of what a file holds."""
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    others_first = sorted(content.items(), key=lambda item: isinstance(item[1], Tensor))
    told = [f"{key!r} ({type(value).__name__})" for key, value in others_first[:_SHOWN]]
    more = len(content) - _SHOWN
    return ", ".join(told) + (f" and {more} more" if more > 0 else "") if told else "nothing"
