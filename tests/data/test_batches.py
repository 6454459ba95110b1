"""Rows and batches whose entries have names."""

import dataclasses
from typing import Any, NamedTuple

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from robustsuite.core.errors import RequestError
from robustsuite.data.catalogue import DatasetSpec, load
from robustsuite.data.coerce import to_samples

X, Y = torch.linspace(0, 1, 24).reshape(12, 2), torch.arange(12) % 3


class Rows(Dataset):
    def __init__(self, make):
        self.make = make

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return self.make(X[index], int(Y[index]), index)


class Row(NamedTuple):
    label: Any
    image: Any
    path: str = ""


@dataclasses.dataclass
class Sample:
    index: int
    target: Any
    features: Any


NAMED = {
    "image, label": lambda x, y, i: {"image": x, "label": y},
    "label first": lambda x, y, i: {"label": y, "pixel_values": x},
    "x, y and what is neither": lambda x, y, i: {"index": i, "x": x, "y": y, "path": "a.png"},
    "labels": lambda x, y, i: {"pixel_values": x, "labels": y},
    "capital": lambda x, y, i: {"X": x, "Target": y},
    "namedtuple": lambda x, y, i: Row(y, x),
    "list": lambda x, y, i: [x, y],
    "tuple": lambda x, y, i: (x, y),
}


@pytest.mark.parametrize("make", NAMED.values(), ids=NAMED)
@pytest.mark.parametrize("wrapped", [Rows, lambda make: DataLoader(Rows(make), 5)], ids=["Dataset", "DataLoader"])
def test_inputs_and_labels_are_found_by_name(make, wrapped):
    samples = to_samples(wrapped(make), classes=3)
    assert torch.equal(samples.x, X)
    assert torch.equal(samples.y, Y)


def test_dataclasses_rows_or_batches():
    assert torch.equal(to_samples(Rows(lambda x, y, i: Sample(i, y, x)), classes=3).y, Y)
    collate = lambda rows: Sample(0, torch.tensor([y for _, y in rows]), torch.stack([x for x, _ in rows]))  # noqa: E731
    loader = DataLoader(Rows(lambda x, y, i: (x, y)), 5, collate_fn=collate)
    assert torch.equal(to_samples(loader, classes=3).x, X)
    assert torch.equal(to_samples({"x": X, "y": Y}, classes=3).y, Y)


REFUSED = {
    "two labels": (lambda x, y, i: {"image": x, "label": y, "target": i}, r"label: int, target: int"),
    "two inputs": (lambda x, y, i: {"x": x, "image": x, "label": y}, r"x: Tensor \(2,\), image: Tensor \(2,\)"),
    "unknown names": (lambda x, y, i: {"img_in": x, "fine_label": y}, r"img_in: .*, fine_label: int"),
    "two of unknown names": (lambda x, y, i: {"a": x, "b": y}, r"row\[\"INPUT\"\], row\[\"LABEL\"\]"),
    "input, label, index": (lambda x, y, i: (x, y, i), r"tuple of 3 \(Tensor \(2,\), int, int\)"),
    "index, input, label": (lambda x, y, i: (i, x, y), r"\(row\[0\], row\[1\]\)"),
    "no labels": (lambda x, y, i: x, "got data='Tensor'"),
    "dataclass": (lambda x, y, i: dataclasses.make_dataclass("Odd", ["a", "b"])(x, y), r"row\.INPUT"),
}


@pytest.mark.parametrize(("make", "told"), REFUSED.values(), ids=REFUSED)
def test_what_leaves_it_open_is_refused_and_shown(make, told):
    with pytest.raises(RequestError, match=told):
        to_samples(Rows(make), classes=3)


def test_three_tensors_are_no_pair():
    with pytest.raises(RequestError, match="tuple of 3"):
        to_samples(TensorDataset(X, Y, Y), classes=3)


def test_the_line_in_the_message_works():
    from torch.utils.data import default_collate

    dataset = Rows(lambda x, y, i: {"img_in": x, "fine_label": y})
    with pytest.raises(RequestError) as caught:
        to_samples(dataset, classes=3)
    line = (
        str(caught.value).partition("name the entries: ")[2].replace("INPUT", "img_in").replace("LABEL", "fine_label")
    )
    loader = eval(line, {"DataLoader": DataLoader, "default_collate": default_collate, "dataset": dataset})
    assert torch.equal(to_samples(loader, classes=3).y, Y)


@pytest.mark.parametrize("kind", ["{'x': x, 'y': y}", "Set(x, y), Set(x, y)", "Set(x, y)"])
def test_a_factory_may_name_them_too(tmp_path, kind):
    (tmp_path / "made.py").write_text(
        "import numpy as np\nimport torch\nfrom torch.utils.data import TensorDataset\n\n\n"
        "def Set(x, y):\n    return TensorDataset(torch.from_numpy(x), torch.from_numpy(y))\n\n\n"
        "def make():\n    x, y = np.linspace(0, 1, 24).astype('float32').reshape(12, 2), np.arange(12) % 3\n"
        f"    return {kind}\n"
    )
    splits = load(DatasetSpec(factory=f"{tmp_path}/made.py:make"), seed=0)
    assert splits.test.classes == 3
    rows = (splits.test.x[:, 0] * 11.5).round().long()
    assert torch.allclose(splits.test.x, X[rows])
    assert torch.equal(splits.test.y, Y[rows])
