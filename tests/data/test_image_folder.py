import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robustsuite.core.errors import RequestError, UntrustedFileError
from robustsuite.data.catalogue import DatasetSpec, load
from robustsuite.data.images import natural


def image(value: int, *, mode: str = "L", side: tuple[int, int] = (4, 6), kind: str = "PNG") -> bytes:
    colour = value if mode in ("L", "I;16") else (value, 0, 255 - value)
    buffer = io.BytesIO()
    Image.new(mode, (side[1], side[0]), colour).save(buffer, kind)
    return buffer.getvalue()


def tree(classes: int = 11, each: int = 5) -> dict[str, bytes]:
    return {f"s{c}/{i}.png": image(10 * c + i) for c in range(1, classes + 1) for i in range(each)}


def folder(path: Path, files: dict[str, bytes]) -> str:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return str(path)


def zipped(path: Path, files: dict[str, bytes]) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return str(path)


def read(path: str, **settings):
    """All images in one of two parts, so that each is read."""
    none = {"trusted": 0, "calibration": 0, "population": 0}
    return load(DatasetSpec(name="image-folder", path=path, **none, **settings), seed=0)


def test_natural_order():
    assert sorted(["s10", "s1", "b", "s2", "10", "9"], key=natural) == ["9", "10", "b", "s1", "s2", "s10"]


def test_classes_in_natural_order_pixels_with_their_labels(tmp_path):
    splits = read(folder(tmp_path / "faces", tree()))
    assert splits.name == "faces"
    assert splits.class_names == tuple(f"s{c}" for c in range(1, 12))
    assert tuple(splits.train.x.shape) == (44, 1, 4, 6)
    assert splits.test.y.bincount().tolist() == [1] * 11
    assert torch.equal(splits.train.x[:, 0, 0, 0] // 10, (splits.train.y + 1).to(torch.uint8))


def test_a_zip_gives_what_its_folder_gives_whatever_wraps_it(tmp_path):
    plain = read(folder(tmp_path / "faces", tree()))
    wrapped = {f"top/inner/{k}": v for k, v in tree().items()} | {"__MACOSX/top/inner/s1/._0.png": b"x", "README": b"y"}
    packed = read(zipped(tmp_path / "a.zip", wrapped))
    assert packed.train.digest() == plain.train.digest()
    assert packed.test.digest() == plain.test.digest()


def test_train_and_test_folders_are_kept_apart(tmp_path):
    files = {f"train/{k}": v for k, v in tree(3).items()} | {"test/s2/x.png": image(99)}
    splits = read(folder(tmp_path, files))
    assert len(splits.train) == 15
    assert splits.test.y.tolist() == [1]
    assert int(splits.test.x[0, 0, 0, 0]) == 99


@pytest.mark.parametrize("kind", ["PNG", "PPM", "BMP"])
def test_grey_and_colour_are_told_apart(tmp_path, kind):
    suffix = "pgm" if kind == "PPM" else kind.lower()
    grey = {f"{c}/{i}.{suffix}": image(50 + i, kind=kind) for c in "ab" for i in range(5)}
    assert read(folder(tmp_path / "grey", grey)).train.shape == (1, 4, 6)
    colour = {name: image(50, mode="RGB", kind=kind) for name in grey}
    splits = read(folder(tmp_path / "colour", colour))
    assert splits.train.shape == (3, 4, 6)
    assert splits.train.x[0, :, 0, 0].tolist() == [50, 0, 205]


def test_grey_images_among_coloured_ones_are_repeated_also_across_splits(tmp_path):
    files = {f"train/{c}/{i}.png": image(40) for c in "ab" for i in range(3)}
    files["test/a/0.png"] = image(7, mode="RGB")
    splits = read(folder(tmp_path, files))
    assert splits.train.x[0, :, 0, 0].tolist() == [40, 40, 40]
    assert splits.test.x[0, :, 0, 0].tolist() == [7, 0, 248]


def test_images_are_resized_to_height_and_width(tmp_path):
    mixed = tree(2) | {"s1/9.png": image(3, side=(12, 5))}
    path = folder(tmp_path, mixed)
    with pytest.raises(RequestError, match=r"\(4, 6\).*\(12, 5\).*size: \[height, width\]"):
        read(path)
    assert read(path, size=(6, 3)).train.shape == (1, 6, 3)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"<html>404</html>", "HTML page"),
        (image(3)[:40], "s1/9.png"),
        (b"", "s1/9.png"),
        (image(300, mode="I;16"), "8 bits a channel"),
        (b"GIF89a" + b"\0" * 20, "s1/9.png"),
    ],
)
@pytest.mark.parametrize("pack", [folder, zipped])
def test_a_file_that_is_no_image_is_named(tmp_path, content, told, pack):
    path = pack(tmp_path / "set.zip", tree(2) | {"s1/9.png": content})
    with pytest.raises(UntrustedFileError, match=told) as caught:
        read(path)
    assert "s1/9.png" in str(caught.value)


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    path = folder(tmp_path, tree(2) | {"s1/9.png": image(0, side=(60, 60))})
    with pytest.raises(UntrustedFileError, match=r"s1/9\.png"):
        read(path)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"one/0.png": image(1), "one/1.png": image(1)}, "at least 2 class folders"),
        (tree(2) | {"loose.png": image(1)}, r"loose\.png"),
        ({"train/a/0.png": image(1), "val/b/0.png": image(1)}, "move it into a class folder"),
        ({"train/a/0.png": image(1), "train/b/0.png": image(1), "test/c/0.png": image(1)}, "test/c is not"),
        ({"notes.txt": b"hello"}, "holds none"),
    ],
)
def test_folders_that_are_no_data_set(tmp_path, files, told):
    with pytest.raises(RequestError, match=told):
        read(folder(tmp_path / "set", files))


def test_a_zip_that_is_none_is_refused(tmp_path):
    (tmp_path / "set.zip").write_bytes(b"<html>sign in</html>")
    with pytest.raises(UntrustedFileError, match=r"set\.zip"):
        read(str(tmp_path / "set.zip"))


def test_a_damaged_zip_entry_is_named(tmp_path):
    path = Path(zipped(tmp_path / "set.zip", tree(2)))
    content = bytearray(path.read_bytes())
    content[content.index(b"\x89PNG") + 20] ^= 255
    path.write_bytes(content)
    with pytest.raises(UntrustedFileError, match=r"set\.zip:s1/0\.png.*CRC"):
        read(str(path), size=(4, 6))


def test_relative_paths_are_found_below_root(tmp_path):
    folder(tmp_path / "faces", tree(2))
    assert len(read("faces", root=str(tmp_path), train=4, test=2).train) == 4


def test_train_zip_and_test_zip_in_one_folder(tmp_path):
    zipped(tmp_path / "train.zip", {f"train/{k}": v for k, v in tree(3).items()})
    zipped(tmp_path / "test.zip", {f"test/{k}": v for k, v in tree(3, each=2).items()})
    splits = read(str(tmp_path))
    assert (len(splits.train), len(splits.test)) == (15, 6)
    assert np.array_equal(splits.test.y.numpy(), [0, 0, 1, 1, 2, 2])


# --- The order of classes


def evaluated(path):
    import robustsuite as rs

    data = rs.load_data("image-folder", path=path)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(24, len(data.class_names)))
    return data, rs.evaluate(net, data, ["noise"], ("linf", 0.1)).records


@pytest.mark.parametrize(
    ("classes", "first"),
    [
        (["1", "2", "10"], "class 1 is '2'; .* it is '10'"),
        (["9", "10"], "class 0 is '9'; .* it is '10'"),
        (["a2", "a10", "b"], "class 0 is 'a2'"),
        (["01", "02", "10"], ""),
        (["cat", "dog"], ""),
    ],
)
def test_another_order_than_that_of_strings_is_said(tmp_path, classes, first):
    """torchvision's ImageFolder numbers by strings, so a model from there reads other labels."""
    import re

    path = folder(tmp_path / "set", {f"{c}/{i}.png": image(20 * i) for c in classes for i in range(10)})
    data, (clean, attacked) = evaluated(path)
    assert data.class_names == tuple(classes)
    assert clean.data["class_names"] == classes
    assert "class_names" not in attacked.data
    assert (sorted(classes) != classes) is bool(first)
    assert bool(first) is ("ImageFolder" in clean.message)
    assert re.search(first, clean.message)
    assert "ImageFolder" not in attacked.message


def test_names_and_notes_stay_with_the_samples(tmp_path):
    path = folder(tmp_path / "set", {f"{c}/{i}.png": image(20 * i) for c in (1, 2, 10) for i in range(10)})
    splits = read(path)
    for part in (splits.train, splits.test, splits.test.take(torch.tensor([0])), splits.train.copy()):
        assert part.class_names == splits.class_names == ("1", "2", "10")
        assert len(part.notes) == 1
