"""Tensors, arrays, Datasets and DataLoaders become `Samples`, and nothing is scaled or clipped on the way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from robustsuite import checks
from robustsuite.data.batches import pair
from robustsuite.data.samples import Samples
from robustsuite.isolation import seeded

_BATCH = 256


def to_samples(data: Any, *, classes: int | None, bounds: tuple[float, float] = (0.0, 1.0)) -> Samples:
    """What a user hands in, as samples on the CPU.

    Floating inputs keep their dtype; integers (0-255 images, say) become float32 of the same values and must lie within
    `bounds` like any other. Drawing from a Dataset or DataLoader leaves the global random state and the loader's own
    generator as they were; a loader that shuffles gives the same order each time.

    Args:
        data: `(x, y)` of tensors or arrays, a torch `Dataset` or `DataLoader` of such pairs, or `Samples`. Entries may
            have names instead of an order (`robustsuite.data.batches.pair`): `{"image": x, "label": y}`.
        classes: How many classes there are; None for one more than the greatest label.
        bounds: Least and greatest input value that the model declares. `Samples` carry their own.

    Raises:
        RequestError: Anything else, an empty set, lengths that differ, NaN or infinite inputs (naming the first index),
            inputs out of bounds (naming min and max), labels that are no integers or out of range.

    Example:
        >>> to_samples((torch.zeros(4, 2), torch.tensor([0, 1, 2, 0])), classes=None).classes
        3
    """
    if isinstance(data, Samples):
        return data if classes in (None, data.classes) else replace(data, classes=classes)
    x, y = arrays_of(data)
    inputs, labels = as_inputs(x), as_labels(y)
    if len(labels) == 0 or len(inputs) == 0:
        raise checks.fail("at least one sample", "len(x)", len(inputs), "check the data that you pass in")
    count = max(2, int(labels.max()) + 1) if classes is None else classes
    return Samples(inputs, labels, count, bounds)


def arrays_of(data: Any) -> tuple[Any, Any]:
    """Inputs and labels of a pair, of entries with names, or of every row of a `Dataset` or `DataLoader`.

    Raises:
        RequestError: None of these, rows of several shapes, or entries that leave open which one is the label.
    """
    if isinstance(data, TensorDataset):
        return pair(tuple(data.tensors))
    return _drawn(data) if isinstance(data, (Dataset, DataLoader)) else pair(data)


def as_inputs(x: Any, *, keep_bytes: bool = False) -> Tensor:
    """Inputs `(N, …)` as a detached CPU tensor: floats as they are, whole numbers as float32, uint8 too on request.

    Raises:
        RequestError: Not numbers, or fewer than two axes.
    """
    tensor = _tensor("x", x)
    if tensor.dim() < 2:
        raise checks.fail("inputs (N, …)", "x.shape", tuple(tensor.shape), "give one row of values per sample")
    if tensor.is_complex():
        raise checks.fail("real inputs", "x.dtype", str(tensor.dtype), "pass real and imaginary parts as channels")
    if tensor.is_floating_point() or (keep_bytes and tensor.dtype == torch.uint8):
        return tensor
    return tensor.to(torch.float32)


def as_labels(y: Any) -> Tensor:
    """Labels `(N,)` as int64; `(N, 1)` and floats of whole value are read as what they mean.

    Raises:
        RequestError: One-hot rows, or values that are no integers.
    """
    tensor = _tensor("y", y)
    if tensor.dim() == 2 and tensor.shape[1] == 1:
        tensor = tensor[:, 0]
    if tensor.dim() != 1:
        raise checks.fail("labels (N,)", "y.shape", tuple(tensor.shape), "pass y.argmax(1) where rows are one-hot")
    whole = tensor.to(torch.int64)
    if tensor.is_floating_point() and not torch.equal(whole.to(tensor.dtype), tensor):
        index = int((whole.to(tensor.dtype) != tensor).nonzero()[0])
        raise checks.fail("whole numbers as labels", f"y[{index}]", float(tensor[index]), "number the classes from 0")
    return whole


def _tensor(name: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    # A PIL image passes for an array of its bytes, height first, which is not what a network takes.
    picture = hasattr(value, "__array_interface__") and not isinstance(value, (np.ndarray, np.generic))
    array = np.asarray(value)
    if picture or array.dtype.kind not in "biuf":
        kind = (
            type(value).__name__ if picture or array.dtype.kind == "O" else f"{type(value).__name__} of {array.dtype}"
        )
        remedy = "convert images by torchvision.transforms.v2.ToImage and ToDtype(torch.float32, scale=True)"
        raise checks.fail(f"numbers in {name}", f"type({name})", kind, remedy)
    # NumPy's unsigned integers beyond 8 bits have no counterpart that torch can compute with.
    array = array.astype(np.int64) if array.dtype.kind in "iu" and array.dtype != np.uint8 else array
    return torch.from_numpy(np.array(array))


def _drawn(data: Dataset[Any] | DataLoader[Any]) -> tuple[Any, Any]:
    """Every row of a Dataset or DataLoader."""
    loader = data if isinstance(data, DataLoader) else DataLoader(data, batch_size=_BATCH, collate_fn=_stack)
    xs, ys = [], []
    with seeded(0), _generator_kept(loader):
        for batch in loader:
            x, y = pair(batch)
            xs.append(as_inputs(x))
            ys.append(as_labels(y))
    if not xs:
        raise checks.fail("at least one sample", "len(data)", 0, "check the data that you pass in")
    shapes = sorted({tuple(x.shape[1:]) for x in xs})
    if len(shapes) > 1:
        raise checks.fail("inputs of one shape", "shapes", shapes[:2], "resize them in the Dataset")
    return torch.cat(xs), torch.cat(ys)


def _stack(rows: list[Any]) -> tuple[Tensor, Tensor]:
    pairs = [pair(row) for row in rows]
    inputs = [_tensor("x", x) for x, _ in pairs]
    shapes = sorted({tuple(x.shape) for x in inputs})
    if len(shapes) > 1:
        raise checks.fail("inputs of one shape", "shapes", shapes[:2], "resize them in the Dataset")
    return torch.stack(inputs), torch.stack([_tensor("y", y).reshape(()) for _, y in pairs])


@contextmanager
def _generator_kept(loader: DataLoader[Any]) -> Iterator[None]:
    own = [g for g in (loader.generator, getattr(loader.sampler, "generator", None)) if g is not None]
    states = [g.get_state() for g in own]
    try:
        yield
    finally:
        for generator, state in zip(own, states, strict=True):
            generator.set_state(state)
