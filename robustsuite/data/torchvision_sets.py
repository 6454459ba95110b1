"""Image sets that torchvision knows, held as uint8."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from robustsuite.core.errors import RequestError, UntrustedFileError
from robustsuite.data.image_folder import image_folder
from robustsuite.data.sources import Part, Source
from robustsuite.storage.places import VARIABLE, data_root

CIFAR10_JPEG: Final = "cifar10-jpeg"


@dataclass(frozen=True)
class _Known:
    """torchvision's class, how it names its parts, and the folder that it reads below the root."""

    cls: str
    train: Mapping[str, Any]
    test: Mapping[str, Any]
    classes: int
    below: str = ""


_TRAIN: Final = {"train": True}
_TEST: Final = {"train": False}
_SETS: Final = {
    "mnist": _Known("MNIST", _TRAIN, _TEST, 10, "MNIST/raw"),
    "fashion-mnist": _Known("FashionMNIST", _TRAIN, _TEST, 10, "FashionMNIST/raw"),
    "kmnist": _Known("KMNIST", _TRAIN, _TEST, 10, "KMNIST/raw"),
    "cifar10": _Known("CIFAR10", _TRAIN, _TEST, 10, "cifar-10-batches-py"),
    "cifar100": _Known("CIFAR100", _TRAIN, _TEST, 100, "cifar-100-python"),
    "svhn": _Known("SVHN", {"split": "train"}, {"split": "test"}, 10),
}
NAMES: Final = tuple(_SETS)
# Together 9,000: what is left of MNIST and CIFAR-10 where all training samples and 1,000 test samples are asked for.
USUAL: Final = {"trusted": 1000, "calibration": 1000, "judge": 3500, "adversary": 3500}


def torchvision_set(name: str, root: str | None, *, download: bool) -> Source:
    """A data set by name.

    CIFAR-10 is also found as `cifar10-jpeg/train.zip` and `test.zip` where torchvision's own files are absent; it then
    goes by that name, because figures on JPEGs differ a little from figures on the originals.

    Args:
        name: One of `NAMES`.
        root: Folder that holds the data; None for `$ROBUSTSUITE_DATA`, else the user's cache.
        download: Whether torchvision may fetch what is missing.

    Raises:
        RequestError: The data are not there, or the download failed.
        UntrustedFileError: The files are there and cannot be read.
    """
    known, folder = _SETS[name], data_root(root)
    if name == "cifar10" and not download and not (folder / known.below).exists() and (folder / CIFAR10_JPEG).is_dir():
        return replace(image_folder(CIFAR10_JPEG, folder / CIFAR10_JPEG, None), usual=USUAL)
    train = _load(name, known, folder, dict(known.train), download)
    test = _load(name, known, folder, dict(known.test), download)
    names = tuple(str(c).partition(" - ")[0] for c in getattr(train, "classes", range(known.classes)))
    return Source(name, Part.of(*_arrays(train)), Part.of(*_arrays(test)), known.classes, names, usual=USUAL)


def _load(name: str, known: _Known, folder: Path, part: dict[str, Any], download: bool) -> Any:
    import torchvision.datasets

    place = folder / known.below
    try:
        return getattr(torchvision.datasets, known.cls)(str(folder), download=download, **part)
    except Exception as error:  # torchvision raises whatever its parsers meet, assertions among them
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if download:
            raise RequestError(
                f"expected to download dataset={name!r} into {place}, got {type(error).__name__}: {reason}; check the "
                f"network, or put the files there and leave out download"
            ) from error
        if isinstance(error, RuntimeError) and ("not found" in reason or "corrupted" in reason):
            raise RequestError(
                f"expected the files of dataset={name!r}, got none that are whole in {place}; set root or ${VARIABLE} "
                f"to the folder that holds them, or download: true to fetch them there"
            ) from error
        raise UntrustedFileError(
            f"expected the files of dataset={name!r}, got one in {place} that cannot be read ({reason}); fetch it again"
        ) from error


def _arrays(data: Any) -> tuple[Tensor, Tensor]:
    """uint8 `(N, C, H, W)` and int64 `(N,)` of any of torchvision's sets."""
    raw = data.data
    x = raw if isinstance(raw, Tensor) else torch.from_numpy(np.ascontiguousarray(raw))
    if x.dim() == 3:
        x = x[:, None]
    elif x.shape[-1] == 3:
        x = x.permute(0, 3, 1, 2).contiguous()
    labels = data.targets if hasattr(data, "targets") else data.labels
    return x, torch.as_tensor(labels).to(torch.int64)
