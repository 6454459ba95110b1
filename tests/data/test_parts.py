"""One part of a data set is read without the other, and only the rows that are asked for."""

import io
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import robustsuite as rs
from robustsuite.core.splits import PARTS, RESERVED
from robustsuite.data.catalogue import DatasetSpec, load, load_part
from robustsuite.data.images import ImageTree


def png(value, mode="L"):
    buffer = io.BytesIO()
    Image.new(mode, (4, 4), value if mode == "L" else (value, 0, 255 - value)).save(buffer, "PNG")
    return buffer.getvalue()


def archive(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return path


@pytest.fixture
def decoded(monkeypatch):
    """Every entry that is decoded."""
    seen = []
    whole = ImageTree.decode

    def spy(self, entries, size=None):
        seen.extend(f"{self.source.name}:{entry}" for entry in entries)
        return whole(self, entries, size)

    monkeypatch.setattr(ImageTree, "decode", spy)
    return seen


@pytest.fixture
def split_folder(tmp_path):
    for part, count in (("train", 30), ("test", 20)):
        archive(tmp_path / f"{part}.zip", {f"{c}/{i}.png": png(10 * i) for c in "abc" for i in range(count // 2)})
    return DatasetSpec(name="image-folder", path=str(tmp_path))


def test_only_the_chosen_rows_of_the_wanted_part_are_decoded(split_folder, decoded):
    some = load_part(split_folder, "test", most=6, seed=0)
    assert len(decoded) == 6
    assert {name.partition(":")[0] for name in decoded} == {"test.zip"}
    assert some.y.bincount().tolist() == [2, 2, 2]
    assert len(set(some.x.flatten(1)[:, 0].tolist())) > 1


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_part_is_what_the_whole_data_set_has_there(split_folder, part):
    whole = getattr(load(split_folder, seed=3), part)
    assert load_part(split_folder, part, seed=3).digest() == whole.digest()
    some = load_part(split_folder, part, most=7, seed=3)
    rows = torch.searchsorted(whole.ids, some.ids)
    assert torch.equal(whole.x[rows], some.x)
    assert torch.equal(whole.y[rows], some.y)
    assert some.digest() == getattr(load(replace(split_folder, **{part: 7}), seed=3), part).digest()


@pytest.mark.parametrize("part", ["train", "test"])
def test_held_out_rows_are_the_same_as_ever(part):
    spec = DatasetSpec(name="digits", train=700, test=200)
    assert load_part(spec, part, seed=1).digest() == getattr(load(spec, seed=1), part).digest()
    assert len(load_part(spec, "test", most=1000)) == 200
    fewer = load(replace(spec, **{part: 50}), seed=1)
    assert load_part(spec, part, most=50, seed=1).digest() == getattr(fewer, part).digest()


def test_a_grey_choice_out_of_a_coloured_set_has_its_channels(tmp_path):
    archive(
        tmp_path / "train.zip",
        {f"{c}/{i}.png": png(9, "RGB" if (c, i) == ("b", 3) else "L") for c in "ab" for i in range(4)},
    )
    archive(tmp_path / "test.zip", {f"{c}/0.png": png(7) for c in "ab"})
    spec = DatasetSpec(name="image-folder", path=str(tmp_path))
    assert load_part(spec, "test").digest() == load(spec, seed=0).test.digest()
    assert load_part(spec, "test").shape == (3, 4, 4)


def test_a_part_of_arrays(tmp_path):
    x, y = np.random.default_rng(0).random((40, 3)).astype(np.float32), np.arange(40) % 4
    np.savez(tmp_path / "a.npz", x=x, y=y)
    spec = DatasetSpec(name="npz", path=str(tmp_path / "a.npz"))
    assert len(load_part(replace(spec, whole=True), "test")) == 40
    some = replace(spec, whole=True, test=13)
    assert load_part(replace(spec, whole=True), "test", most=13).digest() == load(some, seed=0).test.digest()
    assert len(load(some, seed=0).train) == 40
    assert load_part(spec, "test").digest() == load(spec, seed=0).test.digest()
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x[:8], y_test=y[:8])
    assert load_part(replace(spec, whole=True), "test").ids.tolist() == list(range(40, 48))


def test_a_part_of_a_users_own_splits(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\n\n\ndef make():\n    y = torch.arange(9) % 3\n"
        "    return (torch.zeros(9, 2), y), (torch.ones(6, 2), y[:6])\n"
    )
    data = rs.load_data("factory", factory=f"{tmp_path}/mine.py:make", samples=3)
    assert data.y.tolist() == [0, 1, 2]
    assert float(data.x.min()) == 1


def test_the_public_loader():
    data = rs.load_data("digits", samples=100)
    assert (len(data), data.shape, data.classes, data.bounds) == (100, (1, 8, 8), 10, (0.0, 1.0))
    assert data.y.bincount().min() >= 9
    train = rs.load_data("digits", "train")
    assert not set(train.ids.tolist()) & set(rs.load_data("digits").ids.tolist())
    assert rs.load_data("digits", samples=100, seed=1).digest() != data.digest()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"name": "digit"}, "did you mean 'digits'"),
        ({"name": "digits", "part": "tset"}, "did you mean 'test'"),
        ({"name": "digits", "samples": 0}, "samples=0"),
        ({"name": "digits", "rot": "."}, "did you mean 'root'"),
        ({"name": "npz"}, "path=None"),
    ],
)
def test_the_public_loader_refuses(given, told):
    with pytest.raises(rs.RequestError, match=told):
        rs.load_data(**given)


@pytest.mark.skipif(
    not Path(os.environ.get("ROBUSTSUITE_DATA", "."), "cifar10-jpeg").is_dir(),
    reason="cifar10-jpeg is not below $ROBUSTSUITE_DATA",
)
def test_cifar_is_not_decoded_whole(decoded):
    data = rs.load_data("cifar10", samples=50)
    assert len(decoded) == 50
    assert data.y.bincount().tolist() == [5] * 10
    assert int(data.ids.min()) >= 50_000


def test_progress_says_what_it_does_and_that_it_is_done():
    seen = []
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    data = rs.load_data("digits", samples=20)
    rs.evaluate(model, data, ["noise", "fgsm"], rs.Ball("linf", 0.1), progress=lambda *step: seen.append(step))
    assert seen == [
        ("measuring clean accuracy", 0, 3),
        ("playing noise", 1, 3),
        ("playing fgsm", 2, 3),
        ("finished", 3, 3),
    ]


def test_columns_that_share_memory_are_saved(tmp_path):
    from robustsuite.evaluation.record_files import save_samples

    whole = torch.arange(10.0)
    path, _ = save_samples(tmp_path, "k", {"a": whole, "b": whole, "c": whole[2:5]})
    from safetensors.torch import load_file

    assert load_file(tmp_path / path)["c"].tolist() == [2, 3, 4]


# --- the parts beside training and test samples


def npz_of(tmp_path, **sizes):
    """100 training and 50 test rows."""
    x, y = np.random.default_rng(0).random((150, 3)).astype(np.float32), np.arange(150) % 2
    np.savez(tmp_path / "p.npz", x_train=x[:100], y_train=y[:100], x_test=x[100:], y_test=y[100:])
    return DatasetSpec(name="npz", path=str(tmp_path / "p.npz"), **sizes)


def ids_of(spec, seed=0):
    splits = load(spec, seed=seed)
    return {name: () if (of := splits.part(name)) is None else tuple(of.ids.tolist()) for name in PARTS}


def test_where_all_training_samples_are_asked_for_the_others_come_from_unused_test_samples(tmp_path):
    sizes = {"trusted": 10, "calibration": 10, "population": (8, 12)}
    ids = ids_of(npz_of(tmp_path, train=100, test=10, **sizes))
    assert {name: len(found) for name, found in ids.items()} == {
        **{"train": 100, "test": 10, "trusted": 10, "calibration": 10},
        **{"adversary": 8, "judge": 12},
    }
    assert len(set().union(*map(set, ids.values()))) == 150
    assert set(ids["train"]) == set(range(100))
    with pytest.raises(rs.RequestError, match=r"at most 8 samples that are left, got judge=12"):
        ids_of(npz_of(tmp_path, train=100, test=22, **sizes))


def test_the_other_parts_take_unused_test_samples_before_training_samples(tmp_path):
    sizes = {"trusted": 10, "calibration": 12, "population": (8, 6)}
    ids = ids_of(npz_of(tmp_path, train=30, test=20, **sizes))
    taken = [row for name in RESERVED for row in ids[name]]
    assert len({*ids["train"], *ids["test"], *taken}) == 30 + 20 + 36
    assert sum(row >= 100 for row in taken) == 30, "rows from 100 on were set apart as test data"


def test_other_numbers_of_training_and_test_samples_leave_the_other_parts_alone(tmp_path):
    sizes = {"trusted": 5, "calibration": 7, "population": 8}
    whole = ids_of(npz_of(tmp_path, test=20, **sizes))
    for fewer in ({"test": 12}, {"test": 20, "train": 30}):
        ids = ids_of(npz_of(tmp_path, **{"test": 20, **fewer}, **sizes))
        assert {name: ids[name] for name in RESERVED} == {name: whole[name] for name in RESERVED}
        assert set(ids["test"]) <= set(whole["test"])
        assert set(ids["train"]) <= set(whole["train"])
    assert ids_of(npz_of(tmp_path, test=20, **sizes), seed=1) != whole


def test_a_usual_part_that_does_not_fit_is_empty_and_one_that_was_asked_for_is_refused(tmp_path):
    ids = ids_of(DatasetSpec(name="digits", test=1400))
    assert (len(ids["trusted"]), len(ids["calibration"]), ids["judge"], ids["adversary"]) == (60, 120, (), ())
    with pytest.raises(rs.RequestError, match=r"samples that are left, got judge=200"):
        load(DatasetSpec(name="digits", train=1437, population=400), seed=0)
    with pytest.raises(rs.RequestError, match=r"even number, or \(adversary, judge\), got population=7; give 8"):
        DatasetSpec(name="digits", population=7)
