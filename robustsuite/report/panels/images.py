"""Tensors to small PNG images inside the page."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from torch import Tensor

_LARGEST: Final = 112  # pixels a side; larger images are shown smaller, to keep the page small
_DOWN: Final = (59, 110, 196)  # a change towards black
_UP: Final = (205, 92, 40)  # a change towards white


def is_image(batch: Tensor) -> bool:
    """Whether a batch can be drawn: `(N, C, H, W)` with one or three channels."""
    return batch.dim() == 4 and batch.shape[1] in (1, 3) and min(batch.shape[-2:]) > 1 and len(batch) > 0


def span(*batches: Tensor) -> tuple[float, float]:
    """The usual input bounds that hold these values, or their own extremes."""
    least = min(float(batch.min()) for batch in batches)
    most = max(float(batch.max()) for batch in batches)
    for low, high in ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)):
        if low - 1e-6 <= least and most <= high + 1e-6:
            return low, high
    return least, most


def png(image: Tensor, bounds: tuple[float, float]) -> str:
    """A data URI of an image `(C, H, W)` with values within `bounds`, black to white."""
    low, high = bounds
    grid = ((image.float() - low) / max(high - low, 1e-12) * 255).round().clamp(0, 255)
    return _encode(grid)


def difference(clean: Tensor, moved: Tensor, largest: float) -> str:
    """A data URI of what changed between two images `(C, H, W)`.

    One channel: blue where it got darker, orange where it got lighter, clear where nothing changed. Three channels:
    grey where nothing changed. Full strength stands for a change of `largest`.
    """
    import torch

    change = ((moved.float() - clean.float()) / max(largest, 1e-12)).clamp(-1, 1)
    if len(change) == 3:
        return _encode((127.5 * (change + 1)).round())
    up = (change > 0).float()
    colour = torch.tensor(_UP)[:, None, None] * up + torch.tensor(_DOWN)[:, None, None] * (1 - up)
    return _encode(torch.cat([colour, 255 * change.abs()]).round())


def _encode(grid: Tensor) -> str:
    import torch
    from PIL import Image

    array = grid.to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[array.shape[2]]
    image = Image.fromarray(array[:, :, 0] if mode == "L" else array)
    if max(image.size) > _LARGEST:
        image.thumbnail((_LARGEST, _LARGEST))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
