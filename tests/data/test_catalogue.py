import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from robustsuite.core.errors import RequestError, UntrustedFileError
from robustsuite.core.splits import PARTS, RESERVED
from robustsuite.data.catalogue import DESCRIPTIONS, NAMES, DatasetSpec, load

_ROOT = os.environ.get("ROBUSTSUITE_DATA")


def needs(*parts: str) -> pytest.MarkDecorator:
    there = _ROOT is not None and Path(_ROOT, *parts).exists()
    return pytest.mark.skipif(not there, reason=f"{'/'.join(parts)} is not below $ROBUSTSUITE_DATA ({_ROOT})")


def digits(seed: int = 0, **settings):
    return load(DatasetSpec(name="digits", **settings), seed=seed)


def test_digits_are_float_images_in_sixteenths():
    splits = digits()
    assert (len(splits.train), len(splits.test)) == (857, 360)
    x = splits.train.x
    assert x.dtype == torch.float32
    assert tuple(x.shape[1:]) == (1, 8, 8)
    assert (float(x.min()), float(x.max())) == (0.0, 1.0)
    assert torch.equal(x * 16, (x * 16).round())


def test_digits_splits_are_disjoint_stratified_and_cover_everything():
    splits = digits()
    parts = [splits.part(name) for name in PARTS]
    ids = torch.cat([part.ids for part in parts])
    assert torch.equal(ids.sort().values, torch.arange(1797))
    whole = torch.cat([part.y for part in parts]).bincount()
    for part in parts:
        assert ((part.y.bincount() - whole * len(part) / 1797).abs() < 1.5).all()


def test_rows_carry_the_labels_of_the_source():
    from sklearn.datasets import load_digits

    bunch, test = load_digits(), digits(seed=3).test
    assert torch.equal(test.y, torch.from_numpy(bunch.target)[test.ids])
    assert torch.equal(test.x[:, 0], torch.from_numpy(bunch.images).float()[test.ids] / 16)


def test_they_are_the_same_where_scikit_learn_keeps_them_elsewhere(monkeypatch):
    from robustsuite.data import digits as read

    here = read._read.__wrapped__()
    monkeypatch.setattr(read, "_file", lambda: None)
    assert read._read.__wrapped__() == here


def test_seed_decides_the_split():
    assert digits(0).test.digest() == digits(0).test.digest()
    assert digits(0).test.digest() != digits(1).test.digest()


def test_a_smaller_set_is_part_of_a_larger_one_and_leaves_the_test_rows_alone():
    small, large = digits(train=100), digits(train=700)
    assert set(small.train.ids.tolist()) <= set(large.train.ids.tolist())
    assert torch.equal(small.test.ids, large.test.ids)
    assert set(digits(test=50).test.ids.tolist()) <= set(digits(test=200).test.ids.tolist())
    assert (small.train.y.bincount() - 10).abs().max() <= 1


@pytest.mark.parametrize(("settings", "told"), [({"test": 1797}, "at most 1796"), ({"train": 1500}, "at most 1437")])
def test_more_samples_than_there_are(settings, told):
    with pytest.raises(RequestError, match=told):
        digits(**settings)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"name": "digit"}, "did you mean 'digits'"),
        ({"name": "digits", "train": 0}, "train=0"),
        ({"name": "digits", "train": True}, "train=True"),
        ({"name": "npz"}, "path=None"),
        ({"name": "image-folder"}, "path=None"),
        ({"name": "mnist", "path": "x"}, "no path for dataset mnist"),
        ({"name": "digits", "size": (8, 8)}, "no size"),
        ({"name": "digits", "download": True}, "no download"),
        ({"name": "npz", "path": "a", "bounds": (1.0, 0.0)}, "low < high"),
        ({"name": "npz", "path": "a", "classes": 1}, "classes=1"),
        ({"factory": "a:b", "path": "x"}, "leave one of them out"),
        ({"name": "image-folder", "path": "a", "size": (0, 8)}, "size=0"),
        ({}, "a factory"),
    ],
)
def test_impossible_settings_are_refused_at_once(settings, told):
    with pytest.raises(RequestError, match=told):
        DatasetSpec(**settings)


def test_every_name_is_described():
    assert set(NAMES) == set(DESCRIPTIONS)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "cifar100", "svhn"])
def test_missing_data_name_folder_variable_and_download(name, tmp_path):
    with pytest.raises(RequestError) as caught:
        load(DatasetSpec(name=name, root=str(tmp_path)), seed=0)
    message = str(caught.value)
    assert str(tmp_path) in message
    assert "ROBUSTSUITE_DATA" in message
    assert "download: true" in message
    assert not isinstance(caught.value, UntrustedFileError)
    assert list(tmp_path.iterdir()) == []


def test_missing_path_names_every_place_that_was_looked_at(tmp_path, monkeypatch):
    monkeypatch.setenv("ROBUSTSUITE_DATA", str(tmp_path))
    with pytest.raises(RequestError) as caught:
        load(DatasetSpec(name="npz", path="none.npz"), seed=0)
    assert str(tmp_path / "none.npz") in str(caught.value)
    assert str(Path.cwd() / "none.npz") in str(caught.value)


def write_mnist(folder: Path, *, page: bool = False) -> None:
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, n in (("train", 40), ("t10k", 20)):
        pixels = np.arange(n * 784, dtype=np.uint32).astype(np.uint8)
        head = np.array([0x803, n, 28, 28], dtype=">u4").tobytes()
        content = b"<!DOCTYPE html><html>not found</html>" if page else head + pixels.tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(content)
        labels = np.array([0x801, n], dtype=">u4").tobytes() + bytes(i % 10 for i in range(n))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(labels)


def test_mnist_format_keeps_bytes_and_numbers_test_rows_after_train_rows(tmp_path):
    write_mnist(tmp_path)
    splits = load(DatasetSpec(name="mnist", root=str(tmp_path), train=20), seed=0)
    assert splits.train.x.dtype == torch.uint8
    assert splits.train.y.bincount().tolist() == [2] * 10
    assert splits.test.ids.tolist() == list(range(40, 60))
    assert splits.test.inputs(slice(0, 1))[0, 0, 0, 5] == torch.tensor(5 / 255)
    assert splits.class_names[3] == "3"


def test_an_html_page_in_place_of_mnist_is_refused(tmp_path):
    write_mnist(tmp_path, page=True)
    with pytest.raises(UntrustedFileError, match="MNIST"):
        load(DatasetSpec(name="mnist", root=str(tmp_path)), seed=0)


@needs("MNIST")
def test_mnist_is_byte_for_byte_the_real_one():
    content = Path(_ROOT, "MNIST/raw/train-images-idx3-ubyte").read_bytes()
    assert hashlib.md5(content).hexdigest() == "6bbc9ace898e44ae57da46a324031adb"
    usual = load(DatasetSpec(name="mnist", root=_ROOT), seed=0)
    assert (len(usual.train), len(usual.test)) == (51000, 10000), "what is left beside the parts of the README"
    splits = load(DatasetSpec(name="mnist", root=_ROOT, train=60000), seed=0)
    assert splits.train.x.dtype == torch.uint8
    assert tuple(splits.train.x.shape) == (60000, 1, 28, 28)
    assert len(splits.test) == 10000
    assert splits.train.x.flatten().numpy().tobytes() == content[16:]
    assert float(splits.train.x.double().mean() / 255) == pytest.approx(0.1306604762738429, abs=1e-12)


@needs("cifar10-jpeg")
def test_cifar10_is_read_from_zips_of_jpegs_and_says_so():
    splits = load(DatasetSpec(name="cifar10", train=200, test=50, root=_ROOT), seed=0)
    assert splits.name == "cifar10-jpeg"
    assert tuple(splits.train.x.shape) == (200, 3, 32, 32)
    assert splits.train.x.dtype == torch.uint8
    assert splits.train.y.bincount().tolist() == [20] * 10
    assert splits.class_names[:3] == ("airplane", "automobile", "bird")
    assert int(splits.test.ids.min()) >= 50000


@needs("orl_faces")
def test_orl_has_forty_people_with_ten_photos_in_natural_order():
    splits = load(DatasetSpec(name="image-folder", path="orl_faces", root=_ROOT, test=120), seed=0)
    assert splits.class_names == tuple(f"s{i}" for i in range(1, 41))
    assert tuple(splits.train.x.shape[1:]) == (1, 112, 92)
    assert splits.test.y.bincount().tolist() == [3] * 40
    parts = [part for name in PARTS if (part := splits.part(name)) is not None]
    assert torch.cat([part.y for part in parts]).bincount().tolist() == [10] * 40
    named = load(DatasetSpec(name="orl-faces", root=_ROOT, test=120), seed=0)
    assert named.test.digest() == splits.test.digest()


def save(path: Path, **arrays) -> DatasetSpec:
    np.savez(path, **arrays)
    return DatasetSpec(name="npz", path=str(path))


def test_npz_with_x_and_y_is_split(tmp_path):
    x, y = np.random.default_rng(0).random((50, 3)), np.arange(50) % 5
    splits = load(save(tmp_path / "a.npz", x=x, y=y), seed=0)
    assert (len(splits.train), len(splits.test), splits.train.classes) == (28, 10, 5)
    assert {name: len(splits.part(name)) for name in RESERVED} == {
        "trusted": 2,
        "calibration": 4,
        "judge": 3,
        "adversary": 3,
    }
    assert splits.train.x.dtype == torch.float32
    assert splits.test.y.bincount().tolist() == [2] * 5


def test_npz_with_four_arrays_keeps_its_own_split_and_bytes(tmp_path):
    x = np.arange(48, dtype=np.uint8).reshape(12, 1, 2, 2)
    spec = save(tmp_path / "a.npz", x_train=x[:8], y_train=np.arange(8) % 2, x_test=x[8:], y_test=np.ones((4, 1)))
    splits = load(replace(spec, train=8), seed=0)
    assert torch.equal(splits.train.x, torch.from_numpy(x[:8]))
    assert splits.test.y.tolist() == [1] * 4
    assert splits.test.ids.tolist() == [8, 9, 10, 11]


def test_npz_out_of_bounds_names_min_max_and_the_wrap_unless_bounds_are_declared(tmp_path):
    x, y = np.linspace(0, 255, 40).reshape(20, 2), np.arange(20) % 2
    spec = save(tmp_path / "a.npz", x=x, y=y)
    with pytest.raises(RequestError, match=r"max=255.*rs\.wrap"):
        load(spec, seed=0)
    declared = DatasetSpec(name="npz", path=spec.path, bounds=(0.0, 255.0))
    assert load(declared, seed=0).train.bounds == (0.0, 255.0)


def test_npz_with_python_objects_runs_nothing(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    x = np.empty(4, dtype=object)
    x[:] = [Bomb() for _ in range(4)]
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(4), allow_pickle=True)
    with pytest.raises(UntrustedFileError, match=r"a\.npz:x"):
        load(DatasetSpec(name="npz", path=str(tmp_path / "a.npz")), seed=0)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"<html>404</html>", b"PK\x03\x04torn", b"", b"\x80\x04."])
def test_files_that_are_no_npz_are_refused_by_name(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UntrustedFileError, match=r"a\.npz"):
        load(DatasetSpec(name="npz", path=str(tmp_path / "a.npz")), seed=0)


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"x": np.zeros((4, 2)), "labels": np.zeros(4)}, "x, labels"),
        ({"x": np.zeros((4, 2)), "y": np.zeros(3)}, "as many labels"),
        ({"x": np.zeros((4, 2)), "y": np.eye(4)}, "argmax"),
        ({"x": np.zeros((4, 2)), "y": np.array([0, 1, 0.5, 1])}, r"y\[2\]=0.5"),
        ({"x": np.zeros((0, 2)), "y": np.zeros(0)}, "at least one"),
        ({"x": np.zeros((4, 28, 28, 3)), "y": np.zeros(4)}, "transpose"),
        ({"x": np.full((4, 2), np.nan), "y": np.arange(4)}, r"x\[0, 0\]=nan"),
        ({"x": np.zeros((4, 2)), "y": np.array([0, 1, -1, 1])}, "=-1"),
    ],
)
def test_arrays_that_make_no_data_set(tmp_path, arrays, told):
    with pytest.raises(RequestError, match=told):
        load(save(tmp_path / "a.npz", **arrays), seed=0)


FACTORIES = """
import torch
from robustsuite.core.samples import Samples
from robustsuite.core.splits import Splits

def _some(n):
    return torch.linspace(0, 1, 2 * n).reshape(n, 2), torch.arange(n) % 2

def pair(seed, n=20):
    x, y = _some(n)
    return x, y.roll(seed)

def two():
    return _some(12), _some(6)

def splits():
    return Splits("mine", Samples(*_some(12), 2), Samples(*_some(6), 2, ids=torch.arange(100, 106)))

def neither():
    return {"x": 1}
"""


@pytest.fixture
def factories(tmp_path) -> str:
    (tmp_path / "my_data.py").write_text(FACTORIES)
    return str(tmp_path / "my_data.py")


def test_factory_of_a_pair_gets_seed_and_options(factories):
    splits = load(DatasetSpec(factory=f"{factories}:pair", options={"n": 50}), seed=1)
    assert sum(len(splits.part(name) or ()) for name in PARTS) == 50
    assert splits.train.y[splits.train.ids % 2 == 0].unique().tolist() == [1]
    assert splits.name == f"{factories}:pair"


def test_factory_of_two_pairs_and_of_splits(factories):
    assert len(load(DatasetSpec(name="mine", factory=f"{factories}:two"), seed=0).test) == 6
    cut = load(DatasetSpec(factory=f"{factories}:splits", train=12, test=4), seed=0)
    assert (cut.name, len(cut.train), len(cut.test)) == ("mine", 12, 4)
    assert set(cut.test.ids.tolist()) < set(range(100, 106))
    assert len(cut.part("calibration")) == 1  # an unused test sample
    assert set(cut.part("calibration").ids.tolist()) < set(range(100, 106))


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [("neither", {}, "returned dict"), ("pairs", {}, "did you mean pair"), ("pair", {"m": 1}, "m=1")],
)
def test_factories_that_cannot_be_used(factories, name, options, told):
    with pytest.raises(RequestError, match=told):
        load(DatasetSpec(factory=f"{factories}:{name}", options=options), seed=0)


def test_parts_are_read_when_they_are_asked_for_and_known_from_then_on():
    splits = digits()
    assert [len(part) for part in splits.at_hand] == [857, 360]
    calibration = splits.part("calibration")
    assert splits.part("calibration") is calibration
    assert [len(part) for part in splits.at_hand] == [857, 360, 120]
    digest = calibration.digest()
    calibration.x.zero_()
    assert not all(part.intact() for part in splits.at_hand)
    assert digits().part("calibration").digest() == digest
