"""scikit-learn's handwritten digits, which ship inside scikit-learn."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import torch

from robustsuite.data.sources import Part, Source

HELD_OUT: Final = 360
# An evaluator learns 0.93 of the digits from 200 (CNN; MLP 0.91), and a network on the other 857 about 0.96.
USUAL: Final = {"trusted": 60, "calibration": 120, "judge": 200, "adversary": 200}


def digits() -> Source:
    """1,797 grey images of 8 x 8, values 0 to 16 scaled to [0, 1].

    Unless counts are asked for, 360 are held out, and 580 are in the parts beside training.

    References:
        Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.
    """
    images, labels = _read()
    x = torch.from_numpy(np.frombuffer(images, np.uint8).astype(np.float32)).reshape(-1, 1, 8, 8) / 16
    y = torch.from_numpy(np.frombuffer(labels, np.uint8).astype(np.int64))
    return Source("digits", Part.of(x, y), None, 10, tuple(str(d) for d in range(10)), held_out=HELD_OUT, usual=USUAL)


@cache
def _read() -> tuple[bytes, bytes]:
    """Images and labels, read once; as bytes, which nobody who is given them can change."""
    file = _file()
    if file is None:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        return bunch.images.astype(np.uint8).tobytes(), bunch.target.astype(np.uint8).tobytes()
    rows = np.loadtxt(file, np.uint8, delimiter=",")  # 64 pixels and the label
    return rows[:, :-1].tobytes(), rows[:, -1].tobytes()


def _file() -> Path | None:
    """Where scikit-learn keeps them; read from there they cost no import of scikit-learn, which takes half of torch's.

    None where this version keeps them elsewhere.
    """
    spec = importlib.util.find_spec("sklearn")
    places = (spec.submodule_search_locations if spec is not None else None) or ()
    found = (Path(place, "datasets", "data", "digits.csv.gz") for place in places)
    return next((file for file in found if file.is_file()), None)
