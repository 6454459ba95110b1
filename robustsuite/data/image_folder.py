"""A data set from class folders of images."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from robustsuite.core import checks
from robustsuite.data.images import ImageTree, natural
from robustsuite.data.sources import Part, Source


def image_folder(name: str, path: Path, size: tuple[int, int] | None) -> Source:
    """Classes are folders in natural order (s1, s2, …, s10); images stay uint8, grey or RGB as they are.

    Args:
        name: Name for records and tables.
        path: A folder or a .zip of class folders, of `train/` and `test/` with class folders in both, or a folder that
            holds `train.zip` and `test.zip`.
        size: (height, width) to resize to, or None.

    Raises:
        RequestError: Fewer than two classes, a test class that is not trained on, images outside class folders.
        UntrustedFileError: A file that is no zip or, once it is read, no image.
    """
    parts = _parts(path)
    rows = next(iter(parts.values())) if len(parts) == 1 else parts["train"]
    classes = sorted({label for label, _, _ in rows}, key=natural)
    if len(classes) < 2:
        raise checks.fail("at least 2 class folders", "path", str(path), f"it holds only {', '.join(classes)}")
    strangers = sorted({label for label, _, _ in parts.get("test", ())} - set(classes))
    if strangers:
        raise checks.fail("test classes that are in train/", "path", str(path), f"test/{strangers[0]} is not")
    test = _part(parts["test"], classes, size) if len(parts) > 1 else None
    notes = _another_order(classes)
    return Source(name, _part(rows, classes, size), test, len(classes), tuple(classes), notes=notes)


def _another_order(classes: list[str]) -> tuple[str, ...]:
    """What to say where classes are numbered otherwise in the order of strings, in which torchvision reads folders."""
    strings = sorted(classes)
    if strings == classes:
        return ()
    first = next(i for i, (ours, theirs) in enumerate(zip(classes, strings, strict=True)) if ours != theirs)
    return (
        f"class folders are numbered in natural order, in which class {first} is {classes[first]!r}; in the order of "
        f"strings, by which torchvision's ImageFolder numbers them, it is {strings[first]!r}: a model trained in that "
        f"order is read by wrong labels here, so name the folders with leading zeros, or evaluate on an ImageFolder",
    )


Row = tuple[str, ImageTree, str]
"""Class, tree, entry in it."""


def _parts(path: Path) -> dict[str, list[Row]]:
    zips = {part: path / f"{part}.zip" for part in ("train", "test")}
    if all(file.is_file() for file in zips.values()):
        trees = {part: ImageTree.open(file) for part, file in zips.items()}
        return {
            part: [(label, tree, entry) for rows in tree.parts().values() for label, entry in rows]
            for part, tree in trees.items()
        }
    tree = ImageTree.open(path)
    return {part: [(label, tree, entry) for label, entry in rows] for part, rows in tree.parts().items()}


def _part(rows: list[Row], classes: list[str], size: tuple[int, int] | None) -> Part:
    number = {name: i for i, name in enumerate(classes)}
    tree = rows[0][1]

    def read(index: Tensor) -> Tensor:
        return tree.decode([rows[i][2] for i in index.tolist()], size)

    def channels() -> int:
        return tree.channels([entry for _, _, entry in rows])

    return Part(torch.tensor([number[label] for label, _, _ in rows]), read, channels)
