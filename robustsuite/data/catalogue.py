"""Names to data sets."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

from robustsuite.core import checks
from robustsuite.core.samples import Samples
from robustsuite.core.splits import PARTS, Splits
from robustsuite.data.arrays import from_factory, npz
from robustsuite.data.cutting import Sizes
from robustsuite.data.digits import digits
from robustsuite.data.image_folder import image_folder
from robustsuite.data.sources import Source, own
from robustsuite.data.torchvision_sets import NAMES as TORCHVISION
from robustsuite.data.torchvision_sets import torchvision_set
from robustsuite.storage.places import resolve

DESCRIPTIONS: Final = {
    "digits": "scikit-learn's handwritten digits, 1,797 of 8 x 8, embedded",
    "mnist": "handwritten digits, 70,000 of 28 x 28",
    "fashion-mnist": "articles of clothing, 70,000 of 28 x 28",
    "kmnist": "cursive Japanese characters, 70,000 of 28 x 28",
    "cifar10": "photos of 10 kinds of things, 60,000 of 32 x 32 in colour",
    "cifar100": "photos of 100 kinds of things, 60,000 of 32 x 32 in colour",
    "svhn": "house numbers, 99,289 of 32 x 32 in colour",
    "orl-faces": "the ORL faces, 400 photos of 40 people, 112 x 92, in a folder orl_faces",
    "image-folder": "class folders of images, or a .zip of them (path)",
    "npz": "arrays x and y, or x_train, y_train, x_test and y_test (path)",
    "factory": "a function of your own (factory)",
}
NAMES: Final = tuple(DESCRIPTIONS)
_SHAPES: Final = {
    "digits": (1, 8, 8),
    **dict.fromkeys(("mnist", "fashion-mnist", "kmnist"), (1, 28, 28)),
    **dict.fromkeys(("cifar10", "cifar100", "svhn"), (3, 32, 32)),
}
# Ten photos of each person: two are tested on, four teach an evaluator (0.94), one is the adversary's, three train.
_FACES: Final = {"trusted": 0, "calibration": 0, "judge": 160, "adversary": 40}
_WITH_PATH: Final = ("image-folder", "npz", "orl-faces")


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """Which data, and how much of them.

    Args:
        name: One of `NAMES`; beside `factory` any name to call it by.
        train: Training samples, at least 1; None for all that no other part takes.
        test: Test samples, at least 1; None for all, or for a fifth (360 of the digits) where none are set apart.
        trusted: Samples of the part that repairs trust, clean and out of a poisoner's reach; at least 0.
        calibration: Samples that thresholds of detectors stand on; at least 0.
        population: Samples of which one half is the adversary's (surrogates, shadow models) and the other the judge's
            (evaluators); an even number, or two, `(adversary, judge)`. These three are as many as README says where
            they are None, and a part that does not fit is empty; unused test samples are taken first.
        whole: Whether `npz` and `image-folder` data without a test part are taken whole, as either part: for a model
            that is not trained here.
        root: Folder that holds the data; None for `$ROBUSTSUITE_DATA`, else the user's cache.
        download: Whether torchvision may fetch what is missing.
        path: Of `image-folder` and `npz`; a relative path is also looked up below `root`.
        factory: `package.module:function` or `path/to/file.py:function` that returns `Splits`, `(x, y)` or
            `((x, y), (x, y))`; it may ask for `seed` by name.
        size: (height, width) that image folders are resized to.
        bounds: Least and greatest input value of `npz` and `factory` data; None for (0, 1).
        classes: Number of classes of `npz` and `factory` data; None for one more than the greatest label.
        options: Further arguments of the factory.

    Raises:
        RequestError: An unknown name, a count below 1, or settings that this data set does not have.
    """

    name: str = "factory"
    train: int | None = None
    test: int | None = None
    trusted: int | None = None
    calibration: int | None = None
    population: int | tuple[int, int] | None = None
    whole: bool = False
    root: str | None = None
    download: bool = False
    path: str | None = None
    factory: str | None = None
    size: tuple[int, int] | None = None
    bounds: tuple[float, float] | None = None
    classes: int | None = None
    options: dict[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        checks.settle(self)
        if self.factory is None:
            checks.one_of("name", self.name, NAMES)
        for name, count in (("train", self.train), ("test", self.test)):
            if count is not None:
                checks.integer(name, count, low=1)
        for name, count in self._beside().items():
            checks.integer("population" if name in ("adversary", "judge") else name, count, low=0)
        if self.size is not None:
            if len(self.size) != 2:
                raise checks.fail("(height, width)", "size", self.size, "give two integers")
            object.__setattr__(self, "size", tuple(checks.integer("size", side, low=1) for side in self.size))
        if self.classes is not None:
            checks.integer("classes", self.classes, low=2)
        if self.bounds is not None and not self.bounds[0] < self.bounds[1]:
            raise checks.fail("bounds (low, high) with low < high", "bounds", self.bounds, "swap or widen them")
        self._consistent()

    def _beside(self) -> dict[str, int]:
        """Sizes that were asked for of the parts beside training and test samples."""
        given: dict[str, Any] = {"trusted": self.trusted, "calibration": self.calibration}
        if isinstance(self.population, (tuple, list)):
            if len(self.population) != 2:
                raise checks.fail("an even number, or (adversary, judge)", "population", self.population, "give two")
            given["adversary"], given["judge"] = self.population
        elif self.population is not None:
            count = checks.integer("population", self.population, low=0)
            if count % 2:
                remedy = f"give {count + 1}, or two numbers: its halves are the adversary's and the judge's"
                raise checks.fail("an even number, or (adversary, judge)", "population", count, remedy)
            given["adversary"] = given["judge"] = count // 2
        return {name: count for name, count in given.items() if count is not None}

    @property
    def sizes(self) -> Sizes:
        """How many samples each part gets."""
        return Sizes(self.train, self.test, self._beside())

    def _consistent(self) -> None:
        """Refuse settings that this data set would silently ignore, and miss none that it needs."""
        own = self.factory is not None
        if own and self.path is not None:
            raise checks.fail("a factory or a path", "path", self.path, "leave one of them out")
        if not own and self.name == "factory":
            raise checks.fail("a factory", "factory", None, "write factory: package.module:function")
        if not own and self.name in ("image-folder", "npz") and self.path is None:
            raise checks.fail(f"a path for {self.name}", "path", None, "write path: folder-or-file")
        arrays = own or self.name == "npz"
        images = not own and self.name in ("image-folder", "orl-faces")
        allowed = {
            "path": not own and self.name in _WITH_PATH,
            "size": images,
            "bounds": arrays,
            "classes": arrays,
            "options": own,
            "whole": not own and self.name in ("image-folder", "npz"),
            "download": not own and self.name in TORCHVISION,
        }
        for key, fits in allowed.items():
            if not fits and getattr(self, key):
                raise checks.fail(f"no {key} for dataset {self.name}", key, getattr(self, key), "leave it out")
        if self.whole and any(self._beside().values()):
            raise checks.fail("no other parts beside whole", "whole", True, "drop it, or the sizes of the other parts")

    def expected_inputs(self) -> tuple[tuple[float, float], tuple[int, ...] | None] | None:
        """Bounds of the inputs, and their shape or None, as far as is known before anything is read."""
        if self.factory is not None and self.bounds is None:
            return None  # the factory may return `Splits`, which have their own
        return self.bounds or (0.0, 1.0), None if self.factory is not None else _SHAPES.get(self.name)


def load(spec: DatasetSpec, *, seed: int) -> Splits:
    """Read a data set and cut it to size.

    Args:
        spec: Which, and how much.
        seed: Keys which rows are taken and, where the data have no test part, which are held out.

    Returns:
        Training and test samples and the parts beside them, in each of which every class has its share. No two samples
        have one id, and no sample is in two parts. They hang on the data set, the sizes and the seed alone.

    Raises:
        RequestError: The data are not there, or are not what they are said to be.
        UntrustedFileError: A file that cannot be trusted or read; nothing in it was run.

    Example:
        >>> splits = load(DatasetSpec(name="digits"), seed=0)
        >>> len(splits.train), len(splits.test), splits.train.shape
        (857, 360, (1, 8, 8))
    """
    source = _source(spec, seed)
    if isinstance(source, Splits):
        return own(source, spec.sizes, seed)
    return source.splits(spec.sizes, seed, whole=spec.whole)


def load_part(spec: DatasetSpec, part: str, *, most: int | None = None, seed: int = 0) -> Samples:
    """One part of a data set, of which only the rows asked for are read.

    Args:
        spec: Which data; its own `train` and `test` counts come first.
        part: `train`, `test`, `trusted`, `calibration`, `judge` or `adversary`.
        most: At most so many samples, each class in its share; None for all.
        seed: Keys the choice and, where the data have no test part, which rows are held out.

    Raises:
        RequestError: The data are not there, or are not what they are said to be.
        UntrustedFileError: A file that cannot be trusted or read; nothing in it was run.
    """
    checks.one_of("part", part, PARTS)
    if most is not None:
        checks.integer("samples", most, low=1)
    source = _source(spec, seed)
    if isinstance(source, Source):
        return source.part(part, spec.sizes, most, seed, whole=spec.whole)
    sizes = spec.sizes
    if most is not None and part == "train":
        sizes = replace(sizes, train=min(most, len(own(source, sizes, seed).train)))
    elif most is not None and part == "test":
        sizes = replace(sizes, test=min(most, len(source.test), sizes.test or most))
    samples = own(source, sizes, seed).part(part)
    if samples is None:
        raise checks.fail("a part that has samples", "part", part, "set its size, or give it in Splits(beside=...)")
    return samples if most is None else samples.take(slice(0, most))


def load_data(name: str, part: str = "test", *, samples: int | None = None, seed: int = 0, **settings: Any) -> Samples:
    """A built-in data set, or the user's own, as samples that every game takes.

    Args:
        name: One of `robustsuite list datasets`.
        part: `test`, `train` for what models are trained on, or one of the parts beside them: `trusted`,
            `calibration`, `judge`, `adversary`.
        samples: At most so many, each class in its share; None for all. Only these are read.
        seed: Keys the choice and, where the data have no test part (`digits`), which rows are held out.
        **settings: As in the `dataset` block of a suite: `root`, `path`, `download`, `size`, `bounds`, `classes`,
            `factory`, `train`, `test`,
            `trusted`, `calibration`, `population`.

    Returns:
        Samples, whose `inputs()` `(N, ...)` are floating in raw units and whose `y` `(N,)` are the labels.

    Raises:
        RequestError: An unknown name or setting, or data that are not there.
        UntrustedFileError: A file that cannot be trusted or read; nothing in it was run.

    Example:
        >>> data = load_data("digits", samples=100)
        >>> data.inputs().shape, data.y.shape
        (torch.Size([100, 1, 8, 8]), torch.Size([100]))
    """
    known = [f.name for f in fields(DatasetSpec) if f.name != "name"]
    for key in settings:
        checks.one_of("settings", key, known)
    return load_part(DatasetSpec(name=name, **settings), part, most=samples, seed=seed)


def called(spec: DatasetSpec) -> str:
    """What records and tables call a data set, before it is read; a factory's own name for it is not known then."""
    if spec.factory is not None:
        return spec.factory if spec.name == "factory" else spec.name
    if spec.path is None:
        return spec.name
    return Path(spec.path).stem if spec.name == "npz" else os.path.basename(os.path.normpath(spec.path))


def _source(spec: DatasetSpec, seed: int) -> Source | Splits:
    if spec.factory is not None:
        return from_factory(called(spec), spec.factory, spec.options, seed, spec.bounds, spec.classes)
    if spec.name == "digits":
        return digits()
    if spec.name in TORCHVISION:
        return torchvision_set(spec.name, spec.root, download=spec.download)
    path = resolve(spec.path or "orl_faces", spec.root)
    if spec.name == "npz":
        return npz(path, spec.bounds, spec.classes)
    source = image_folder(called(spec), path, spec.size)
    return replace(source, held_out=80, usual=_FACES) if spec.name == "orl-faces" else source
