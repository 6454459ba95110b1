"""Tensors, arrays, Datasets and DataLoaders become `Samples`, and nothing is scaled or clipped on the way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from robustsuite.core import checks
from robustsuite.core.errors import RequestError
from robustsuite.core.isolation import seeded
from robustsuite.core.samples import Samples
from robustsuite.data.batches import pair
from robustsuite.data.loaders import endless, in_order, readable

_ONE_LABEL: Final = (
    "models are judged as classifiers of whole inputs: several labels an input, maps of labels and regression are not"
)


def to_samples(data: Any, *, classes: int | None, bounds: tuple[float, float] = (0.0, 1.0)) -> Samples:
    """What a user gives, as samples on the CPU.

    Floating inputs keep their dtype. Integers and booleans (bytes, tokens, counts) become floats of the same values and
    must lie within `bounds` like any other; that they were whole stays known, and what is made of them is whole too. A
    Dataset, also one behind a DataLoader, is read once and in its own order: a loader that
    shuffles, drops the last batch or resamples changes nothing, and the samples' `notes` say what it would have done
    (`robustsuite.data.loaders`). Drawing leaves the global random state and the loader's own generator as they were.

    Args:
        data: `(x, y)` of tensors or arrays, a torch `Dataset` or `DataLoader` of such pairs, or `Samples`. Entries may
            have names instead of an order (`robustsuite.data.batches.pair`): `{"image": x, "label": y}`.
        classes: How many classes there are; None for one more than the greatest label.
        bounds: Least and greatest input value that the model declares. `Samples` carry their own.

    Raises:
        RequestError: Anything else, an empty set, lengths that differ, NaN or infinite inputs (naming the first index),
            inputs out of bounds (naming min and max), labels that are no integers or out of range, a stream
            without a length.

    Example:
        >>> to_samples((torch.zeros(4, 2), torch.tensor([0, 1, 2, 0])), classes=None).classes
        3
    """
    if isinstance(data, Samples):
        return data if classes in (None, data.classes) else replace(data, classes=classes)
    x, y, notes = _read(data)
    inputs, labels = as_inputs(x, keep_whole=True), as_labels(y)
    if len(labels) == 0 or len(inputs) == 0:
        raise checks.fail("at least one sample", "len(x)", len(inputs), "check the data that you pass in")
    count = max(2, int(labels.max()) + 1) if classes is None else classes
    if inputs.is_floating_point():
        return Samples(inputs, labels, count, bounds, notes=notes)
    said = f"inputs are whole numbers ({str(inputs.dtype).removeprefix('torch.')}), and so is all that attacks make"
    # float32 holds whole numbers up to 2^24.
    exact = torch.float32 if float(inputs.double().abs().max()) <= 2**24 else torch.float64
    return Samples(inputs.to(exact), labels, count, bounds, notes=(*notes, said), whole=inputs.dtype)


def arrays_of(data: Any) -> tuple[Any, Any]:
    """Inputs and labels of a pair, of entries with names, or of every row of a `Dataset` or `DataLoader`.

    Raises:
        RequestError: None of these, rows of several shapes, or entries that leave open which one is the label.
    """
    return _read(data)[:2]


def _read(data: Any) -> tuple[Any, Any, tuple[str, ...]]:
    """Inputs, labels, and what is worth a note."""
    if isinstance(data, TensorDataset):
        return *pair(tuple(data.tensors)), ()
    if isinstance(data, (Dataset, DataLoader)):
        return _drawn(data)
    if hasattr(data, "__next__") or (hasattr(data, "__iter__") and not hasattr(data, "__len__")):
        raise endless(data)
    return *pair(data), ()


def as_inputs(x: Any, *, keep_bytes: bool = False, keep_whole: bool = False) -> Tensor:
    """Inputs `(N, …)` as a detached CPU tensor: floats as they are, whole numbers as float32.

    Args:
        x: The inputs.
        keep_bytes: Whether uint8 stays.
        keep_whole: Whether integers and booleans stay.

    Raises:
        RequestError: Not numbers, or fewer than two axes.
    """
    tensor = _tensor("x", x)
    if tensor.dim() < 2:
        raise checks.fail("inputs (N, …)", "x.shape", tuple(tensor.shape), "give one row of values per sample")
    if tensor.is_complex():
        raise checks.fail("real inputs", "x.dtype", str(tensor.dtype), "pass real and imaginary parts as channels")
    if tensor.is_floating_point() or keep_whole or (keep_bytes and tensor.dtype == torch.uint8):
        return tensor
    return tensor.to(torch.float32)


def as_labels(y: Any, name: str = "y") -> Tensor:
    """Labels `(N,)` as int64; `(N, 1)` and floats of whole value are read as what they mean.

    Args:
        y: The labels.
        name: What errors call them.

    Raises:
        RequestError: One-hot or multi-hot rows, maps, or values that are no integers.
    """
    tensor = _tensor(name, y)
    if tensor.dim() == 2 and tensor.shape[1] == 1:
        tensor = tensor[:, 0]
    if tensor.dim() != 1:
        raise checks.fail("labels (N,)", f"{name}.shape", tuple(tensor.shape), _remedy(tensor))
    if tensor.is_complex():
        raise checks.fail("whole numbers as labels", f"{name}.dtype", str(tensor.dtype), "number the classes from 0")
    whole = tensor.to(torch.int64)
    if tensor.is_floating_point() and not torch.equal(whole.to(tensor.dtype), tensor):
        index = int((whole.to(tensor.dtype) != tensor).nonzero()[0])
        raise checks.fail(
            "whole numbers as labels", f"{name}[{index}]", float(tensor[index]), "number the classes from 0"
        )
    return whole


def _remedy(y: Tensor) -> str:
    """What to do about labels of more than one axis."""
    if y.dim() != 2:
        return _ONE_LABEL
    one_hot = bool(((y == 0) | (y == 1)).all()) and bool((y.sum(1) == 1).all())
    return (
        "these rows are one-hot: pass y.argmax(1)" if one_hot else _ONE_LABEL + " (y.argmax(1) where rows are one-hot)"
    )


def _tensor(name: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    # A PIL image passes for an array of its bytes, height first, which is not what a network takes.
    picture = hasattr(value, "__array_interface__") and not isinstance(value, (np.ndarray, np.generic))
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError):  # rows of several shapes, tensors on a device
        array = np.empty(0, dtype=object)
    if picture or array.dtype.kind not in "biuf":
        kind = (
            type(value).__name__ if picture or array.dtype.kind == "O" else f"{type(value).__name__} of {array.dtype}"
        )
        remedy = "convert images by torchvision.transforms.v2.ToImage and ToDtype(torch.float32, scale=True)"
        raise checks.fail(f"numbers in {name}", f"type({name})", kind, remedy)
    # NumPy's unsigned integers beyond 8 bits have no counterpart that torch can compute with.
    array = array.astype(np.int64) if array.dtype.kind in "iu" and array.dtype != np.uint8 else array
    return torch.from_numpy(np.array(array))


def _drawn(data: Dataset[Any] | DataLoader[Any]) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Every row of a Dataset or DataLoader, once and in order."""
    xs, ys, count = [], [], 0
    with seeded(0), readable(data):
        reading = in_order(data, _stack)
        for batch in reading.batches:
            x, y = (_tensor(name, part) for name, part in zip("xy", pair(batch), strict=True))
            inputs = as_inputs(x, keep_whole=True)
            room = len(inputs) if reading.most is None else reading.most - count
            xs.append(inputs[:room])
            ys.append(y[:room] if y.dim() else y)
            count += len(xs[-1])
            if count == reading.most:
                break
    if not count:
        raise checks.fail("at least one sample", "len(data)", 0, "check the data that you pass in")
    notes = [reading.note] if reading.note else []
    if reading.most is not None and count < reading.most:
        notes.append(f"the stream has a length of {reading.most:,} and gave {count:,} rows")
    return _joined("x", xs), _joined("y", ys), tuple(notes)


def _joined(name: str, parts: list[Tensor]) -> Tensor:
    """Batches one after the other."""
    shapes = sorted({tuple(part.shape[1:]) for part in parts})
    if len(shapes) > 1 or not all(part.dim() for part in parts):
        raise _ragged(name, shapes)
    return torch.cat(parts)


def _ragged(name: str, shapes: list[tuple[int, ...]]) -> RequestError:
    if name == "y":
        return checks.fail("one label for each input", "shapes", shapes[:2], _ONE_LABEL)
    return checks.fail("inputs of one shape", "shapes", shapes[:2], "resize them in the Dataset")


def _stack(rows: list[Any]) -> tuple[Tensor, Tensor]:
    pairs = [pair(row) for row in rows]
    columns = []
    for name, column in zip("xy", zip(*pairs, strict=True), strict=True):
        tensors = [_tensor(name, value) for value in column]
        shapes = sorted({tuple(tensor.shape) for tensor in tensors})
        if len(shapes) > 1:
            raise _ragged(name, shapes)
        columns.append(torch.stack(tensors))
    return columns[0], columns[1]
