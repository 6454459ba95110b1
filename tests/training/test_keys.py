"""A key holds what determines the result: the built network, all of a user's code, and all that is kept of it."""

import dataclasses
import os

import pytest
import torch
from torch import nn

from robustsuite.models.build import ModelSpec
from robustsuite.plugins.loading import load_factory
from robustsuite.plugins.local_code import followed
from robustsuite.storage.store import Store
from robustsuite.testing import tiny_samples
from robustsuite.training import fit as fit_module
from robustsuite.training.cache import Trainer
from robustsuite.training.checkpoints import Checkpoint
from robustsuite.training.fit import fit
from robustsuite.training.recipe import Recipe
from robustsuite.training.settings import Training

HELPER = """
import torch.nn as nn
from {deep} import WIDTH
def body(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, WIDTH), nn.{act}(), nn.Linear(WIDTH, classes))
"""
NET = """
import os, torch
def build(classes):
    from {helper} import body
    net = body(classes)
    if os.path.exists({weights!r}):
        net.load_state_dict(torch.load({weights!r}))
    net.scale = float(os.environ.get("SCALE_OF_A_TEST", "1"))
    return net
"""


@pytest.fixture
def user(tmp_path, monkeypatch):
    """A factory with a helper, the helper's helper, a weights file and an environment variable."""
    names = {name: f"{name}_{tmp_path.parent.name}_{tmp_path.name}".replace("-", "_") for name in ("helper", "deep")}
    (tmp_path / f"{names['deep']}.py").write_text("WIDTH = 16\n")
    (tmp_path / f"{names['helper']}.py").write_text(HELPER.format(deep=names["deep"], act="ReLU"))
    (tmp_path / "net.py").write_text(NET.format(helper=names["helper"], weights=str(tmp_path / "w.pt")))
    monkeypatch.delenv("SCALE_OF_A_TEST", raising=False)
    return tmp_path, names


def key(folder):
    return Trainer(0).key(recipe(folder), tiny_samples(60))


def recipe(folder):
    settings = Training(epochs=1, lr=1e-2, batch_size=20, validation=0.0)
    return Recipe(build=ModelSpec(factory=f"{folder / 'net.py'}:build"), training=settings)


def network(folder):
    return fit(recipe(folder), tiny_samples(60), 0).network


@pytest.mark.parametrize("change", ["helper", "its helper", "weights", "variable"])
def test_whatever_a_factory_reads_is_part_of_the_key_and_is_read_anew(user, monkeypatch, change):
    """Within one process and one second; edits that keep a file's size would also pass Python's own bytecode cache."""
    folder, names = user
    before = key(folder)
    assert key(folder) == before
    assert network(folder)[1].out_features == 16
    if change == "helper":
        (folder / f"{names['helper']}.py").write_text(HELPER.format(deep=names["deep"], act="GELU"))
    elif change == "its helper":
        (folder / f"{names['deep']}.py").write_text("WIDTH = 24\n")
    elif change == "weights":
        torch.save(network(folder).state_dict(), folder / "w.pt")
    else:
        monkeypatch.setenv("SCALE_OF_A_TEST", "2")
    assert key(folder) != before
    made = network(folder)
    assert (type(made[2]).__name__, made[1].out_features, made.scale) == {
        "helper": ("GELU", 16, 1.0),
        "its helper": ("ReLU", 24, 1.0),
        "weights": ("ReLU", 16, 1.0),
        "variable": ("ReLU", 16, 2.0),
    }[change]


def test_the_same_files_in_another_folder_have_the_same_code(user, tmp_path):
    """Paths are part of the recipe, not of the code: a run that moves with its files keeps its digests."""
    from robustsuite.plugins.local_code import code_digest

    folder, _ = user
    other = tmp_path / "moved"
    other.mkdir()
    (other / "net.py").write_text((folder / "net.py").read_text())
    assert code_digest(other / "net.py") == code_digest(folder / "net.py")


def test_imports_are_followed_into_packages_and_not_into_installed_ones(tmp_path, monkeypatch):
    package = tmp_path / "pkg_of_keys"
    (package / "sub").mkdir(parents=True)
    for place, text in {
        "__init__.py": "",
        "top.py": "import os, torch, robustsuite\nfrom . import beside\nfrom pkg_of_keys.sub import low",
        "beside.py": "X = 1",
        "unused.py": "",
        "sub/__init__.py": "from ..beside import X",
        "sub/low.py": "import importlib\nfar = importlib.import_module('far_of_keys')\ndef build(classes): ...",
    }.items():
        (package / place).write_text(text)
    (tmp_path / "far_of_keys.py").write_text("import pkg_of_keys.top")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = {path.relative_to(tmp_path).as_posix() for path in followed(package / "top.py")}
    assert found == {
        "far_of_keys.py",
        *(f"pkg_of_keys/{name}" for name in ("__init__.py", "top.py", "beside.py", "sub/__init__.py", "sub/low.py")),
    }


def test_an_edited_package_is_imported_anew(tmp_path, monkeypatch):
    package = tmp_path / "edited_of_keys"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text("from edited_of_keys.size import N\ndef build(): return N\n")
    (package / "size.py").write_text("N = 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load_factory("edited_of_keys.nets:build")() == 1
    (package / "size.py").write_text("N = 2\n")
    assert load_factory("edited_of_keys.nets:build")() == 2
    assert load_factory("edited_of_keys.nets:build") is load_factory("edited_of_keys.nets:build")
    assert not list(package.glob("__pycache__/*"))


def test_a_factory_that_draws_beside_the_seed_keeps_its_key(tmp_path):
    file = tmp_path / "net.py"
    file.write_text(
        "import os, torch.nn as nn\n"
        "def build(classes):\n"
        "    net = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))\n"
        "    net.drawn = os.urandom(4)\n"
        "    return net\n"
    )
    assert key(tmp_path) == key(tmp_path)


def test_a_factory_that_fails_has_a_key_and_fails_in_its_training(tmp_path):
    (tmp_path / "net.py").write_text("def build(classes): raise KeyError('no')\n")
    assert key(tmp_path)
    with pytest.raises(KeyError, match="no"):
        network(tmp_path)


# --- what is kept ---


class Standardised(nn.Module):
    """Its state is a buffer that no state dict holds, a plain tensor, and a number."""

    def __init__(self, classes):
        super().__init__()
        self.register_buffer("centre", torch.zeros(64), persistent=False)
        self.spread = torch.ones(64)
        self.passes = 0
        self.head = nn.Linear(64, classes)

    def forward(self, x):
        x = x.flatten(1)
        if self.training:
            self.centre.lerp_(x.detach().mean(0), 0.2)
            self.spread = self.spread.lerp(x.detach().std(0), 0.2)
            self.passes += 1
        return self.head((x - self.centre) / self.spread * (1 + 1 / (1 + self.passes)))


@dataclasses.dataclass(frozen=True)
class Build:
    made: str = "Standardised"
    name: str = "kept"

    def __call__(self, classes, shape, bounds):
        return globals()[self.made](classes)


class Hidden(Standardised):
    """Its state is of a kind that nobody knows how to keep."""

    def __init__(self, classes):
        super().__init__(classes)
        self.seen = {"sum": torch.zeros(64)}

    def forward(self, x):
        if self.training:
            self.seen["sum"] = self.seen["sum"] + x.detach().flatten(1).sum(0)
        return super().forward(x) + self.seen["sum"].mean()


def kept(made="Standardised", **settings):
    settings = {"epochs": 3, "lr": 1e-2, "batch_size": 20, **settings}
    return Recipe(build=Build(made), training=Training(**settings))


def test_a_recalled_network_answers_as_the_trained_one(tmp_path):
    trained, samples = [], tiny_samples(60)
    trainer = Trainer(0, stores=(Store(tmp_path),), progress=lambda *_: trained.append(1))
    first, second = trainer(kept(), samples), trainer(kept(), samples)
    assert len(trained) == 3
    assert torch.equal(first.model(samples.x).logits, second.model(samples.x).logits)
    assert second.model.network.passes == first.model.network.passes == 9
    assert "centre" not in second.model.network.state_dict()


def test_what_cannot_be_kept_is_trained_again_and_said(tmp_path):
    trained, samples, store = [], tiny_samples(60), Store(tmp_path)
    one, other = (Trainer(0, stores=(store,), progress=lambda *_: trained.append(1)) for _ in range(2))
    answers = []
    for trainer, epochs in ((one, 3), (one, 3), (other, 6)):  # another process remembers nothing
        answers.append(trainer(kept("Hidden"), samples).model(samples.x).logits)
        assert len(trained) == epochs
    assert all(torch.equal(answer, answers[0]) for answer in answers)
    assert "Hidden holds state that is neither tensor, number nor text" in store.told()[0]


def test_a_killed_training_resumes_with_all_its_state(tmp_path, monkeypatch):
    class Eager(Checkpoint):
        def __init__(self, path):
            super().__init__(path, seconds_between=0.0)

    class KilledError(Exception):
        pass

    def kill(_, done, total):
        if done == 2:
            raise KilledError

    monkeypatch.setattr(fit_module, "Checkpoint", Eager)
    samples, path = tiny_samples(60), tmp_path / "partial.pt"
    straight = fit(kept(validation=0.2), samples, 0).network
    with pytest.raises(KilledError):
        fit(kept(validation=0.2), samples, 0, checkpoint=path, progress=kill)
    resumed = fit(kept(validation=0.2), samples, 0, checkpoint=path).network
    assert torch.equal(straight(samples.x), resumed(samples.x))


def test_the_best_epoch_is_kept_with_the_state_that_it_had():
    samples, numbers = tiny_samples(60), iter([0.1, 0.9, 0.2])
    seen = []

    class Planted(type(kept().objective)):
        def validate(self, network, held_out, step):
            seen.append((network.centre.clone(), network.spread.clone(), network.passes))
            return {"score": next(numbers)}

    network = fit(dataclasses.replace(kept(validation=0.2), objective=Planted()), samples, 0).network
    assert torch.equal(network.centre, seen[1][0])
    assert torch.equal(network.spread, seen[1][1])
    assert network.passes == seen[1][2]


def test_repeats_of_neighbouring_seeds_are_independent(tmp_path):
    """Where a repeat added to the seed, seed 0's repeat 1 was seed 1's repeat 0: one training, counted twice."""
    from robustsuite.runner.plan import plan
    from robustsuite.suite.load import load_suite

    file = tmp_path / "suite.yaml"
    file.write_text(
        "name: pair\ndataset: {name: digits, train: 60, test: 20}\nmodel: {name: logistic}\ntraining: {epochs: 1}\n"
        "threat: {norm: linf, radius: 0.1, curve_samples: 0}\ndefenses: [none]\nattacks: [noise]\nrepeats: 2\n"
    )
    data = plan(load_suite(file, [], []), "cpu")
    cells = [plan(load_suite(file, [f"seed={seed}"], []), "cpu", _splits(data)).cells for seed in (0, 1)]
    one = next(cell.training for cell in cells[0] if cell.repeat == 1)
    other = next(cell.training for cell in cells[1] if cell.repeat == 0)
    assert one != other


def _splits(found):
    """The data of seed 0, since the seed draws the data too."""
    from robustsuite.runner.plan import read_data

    return read_data(found.suite)


def test_bytecode_of_a_users_files_is_not_written(user):
    folder, _ = user
    key(folder)
    assert "__pycache__" not in os.listdir(folder)
