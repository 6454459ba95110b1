"""Class folders of images, in a folder or in a zip that is read without unpacking."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from robustsuite.core import checks
from robustsuite.core.errors import RequestError, UntrustedFileError
from robustsuite.storage.files import absent

SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".pgm", ".ppm", ".bmp")
_FORMATS: Final = ("PNG", "JPEG", "PPM", "BMP")
_GREY: Final = ("1", "L", "LA")
_COLOUR: Final = ("RGB", "RGBA", "P", "CMYK", "YCbCr")
_LARGEST: Final = 64 * 2**20  # bytes of one image; a zip entry that unpacks to more is refused


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key in which s2 stands before s10.

    Example:
        >>> sorted(["s10", "s2", "s1"], key=natural)
        ['s1', 's2', 's10']
    """
    parts = re.split(r"([0-9]+)", name)
    return (*((0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts), (2, 0, name))


@dataclass(frozen=True)
class ImageTree:
    """Paths of images below a folder or in a zip.

    Args:
        source: The folder or the zip.
        entries: Paths of the images in it, natural order.
    """

    source: Path
    entries: tuple[str, ...]

    @classmethod
    def open(cls, source: Path) -> ImageTree:
        """List the images.

        Raises:
            RequestError: No such folder or zip, or none of its files is an image.
            UntrustedFileError: A file that is no zip.
        """
        if source.is_dir():
            found: Iterable[str] = (p.relative_to(source).as_posix() for p in source.rglob("*") if p.is_file())
        elif source.is_file():
            with _zip(source) as archive:
                found = [item.filename for item in archive.infolist() if not item.is_dir()]
        else:
            raise checks.fail("a folder or a .zip of images", "path", str(source), absent(source))
        entries = sorted((name for name in found if _is_image(name)), key=natural)
        if not entries:
            raise checks.fail(f"images ({', '.join(SUFFIXES)})", "path", str(source), "it holds none: check the path")
        return cls(source, tuple(entries))

    def parts(self) -> dict[str, list[tuple[str, str]]]:
        """(class, entry) pairs by part: `train` and `test` where those folders are there, else all under an empty name.

        Raises:
            RequestError: An image that does not lie in a class folder.
        """
        paths = [PurePosixPath(entry).parts for entry in self.entries]
        skip = 0
        while all(len(p) > skip + 2 for p in paths) and len({p[skip] for p in paths}) == 1:
            skip += 1  # folders that wrap everything
        divided = {p[skip] for p in paths if len(p) > skip + 2} == {"train", "test"}
        parts: dict[str, list[tuple[str, str]]] = {}
        for entry, path in zip(self.entries, paths, strict=True):
            inner = path[skip:]
            if len(inner) != 2 + divided:
                raise checks.fail(
                    "class folders of images, or train/ and test/ with class folders in both",
                    "path",
                    f"{self.source}/{entry}",
                    "move it into a class folder",
                )
            parts.setdefault(inner[0] if divided else "", []).append((inner[-2], entry))
        return parts

    def read(self, entries: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Name and bytes of each entry, in the order asked for."""
        if self.source.is_dir():
            for entry in entries:
                yield f"{self.source}/{entry}", (self.source / entry).read_bytes()
            return
        with _zip(self.source) as archive:
            for entry in entries:
                name = f"{self.source}:{entry}"
                if archive.getinfo(entry).file_size > _LARGEST:
                    raise UntrustedFileError(f"expected images of at most {_LARGEST} bytes, got {name}; remove it")
                try:
                    content = archive.read(entry)
                except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, OSError) as error:
                    raise _refusal(name, error) from error
                yield name, content

    def decode(self, entries: Sequence[str], size: tuple[int, int] | None = None) -> Tensor:
        """Read images.

        Args:
            entries: Which, in this order.
            size: (height, width) to resize to (bilinear, antialiased); None keeps the images' own, which must be equal.

        Returns:
            uint8 `(N, C, H, W)`, where C is 1 if all of these images are grey, else 3.

        Raises:
            UntrustedFileError: A file that is no 8-bit image, naming it.
            RequestError: Sizes that differ and no `size`.
        """
        arrays: list[np.ndarray[Any, Any]] = []
        first = ""
        for name, content in self.read(entries):
            arrays.append(_decode(name, content, size))
            first = first or name
            if arrays[-1].shape[:2] != arrays[0].shape[:2]:
                shapes = f"{arrays[0].shape[:2]} in {first} and {arrays[-1].shape[:2]} in {name}"
                raise RequestError(
                    f"expected images of one size, got (height, width)={shapes}; set size: [height, width]"
                )
        channels = max(a.shape[2] for a in arrays)
        stored = np.empty((len(arrays), *arrays[0].shape[:2], channels), dtype=np.uint8)
        for i, array in enumerate(arrays):
            stored[i] = array  # a grey image among coloured ones is repeated over the channels
        return torch.from_numpy(stored).permute(0, 3, 1, 2).contiguous()

    def channels(self, entries: Sequence[str]) -> int:
        """3 if any of these images has colour, else 1, by their headers alone; what is no image is passed over."""
        from PIL import Image

        for _, content in self.read(entries):
            try:
                with Image.open(io.BytesIO(content), formats=_FORMATS) as opened:
                    if opened.mode in _COLOUR:
                        return 3
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
                continue
        return 1


def _is_image(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not hidden


@contextmanager
def _zip(source: Path) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(source)
    except (zipfile.BadZipFile, OSError) as error:
        reason = f"got path={str(source)!r}; {error}: fetch it again"
        raise UntrustedFileError(f"expected a .zip of images, {reason}") from error
    with archive:
        yield archive


def _refusal(name: str, error: BaseException) -> UntrustedFileError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UntrustedFileError(f"expected an image, got {name}; {reason}: mend or remove that file")


def _decode(name: str, content: bytes, size: tuple[int, int] | None) -> np.ndarray[Any, Any]:
    """One image as uint8 (H, W, 1) or (H, W, 3)."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as opened:
            if opened.mode not in (*_GREY, *_COLOUR):
                raise ValueError(f"an image of mode {opened.mode} where 8 bits a channel are expected")
            image = opened.convert("L" if opened.mode in _GREY else "RGB")
            if size is not None and image.size != (size[1], size[0]):
                image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
            array = np.asarray(image, dtype=np.uint8)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        page = content.lstrip()[:1] == b"<"
        raise _refusal(name, ValueError("it is an HTML page") if page else error) from error
    return array[:, :, None] if array.ndim == 2 else array
