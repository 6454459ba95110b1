"""What the Ray engine decides without a cluster: what is sent, what has room, what is refused."""

import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
from small_runs import FACTORY, PLUGIN

from robustsuite.core.errors import RequestError
from robustsuite.plugins import provenance
from robustsuite.runner import ray_cluster
from robustsuite.runner.bundle import Carried
from robustsuite.runner.ray_tasks import Seen
from robustsuite.suite.load import load_suite

SUITE = """
name: carried
dataset: {name: digits, train: 100, test: 20}
model: {factory: "nets/mine.py:build"}
defenses: [none, {input-validation: {model: {factory: "packed.nets:build"}}}]
plugins: [plugin.py]
threat: {norm: linf, radius: 0.1}
attacks: [threads]
"""
PACKED = """
from packed.sizes import WIDTH
from torch import nn


def build(classes):
    return nn.Linear(WIDTH, classes)
"""
READS = """
import pickle, sys
from pathlib import Path
carried = pickle.loads(Path(sys.argv[1]).read_bytes())
print(sorted(carried.unpack(Path(sys.argv[2])).values()))
from robustsuite.plugins.loading import load_factory
from robustsuite.plugins import registry
print(load_factory("nets/mine.py:build")(2, (1, 8, 8)))
print(load_factory("packed.nets:build")(2))
print(registry.attacks.get("threads").cls.__module__)
"""


def node(**resources):
    return {"NodeManagerAddress": "10.0.0.1", "Resources": resources}


def worker(device, threads=1):
    return SimpleNamespace(device=device, suite=SimpleNamespace(threads=threads))


def cluster(**resources):
    return SimpleNamespace(cluster_resources=lambda: resources)


def test_files_are_carried_to_where_they_are_not(tmp_path, monkeypatch):
    """Plug-in, factory file with what lies beside it, and package of the working folder, read in an empty folder."""
    import pickle

    home, there = tmp_path / "home", tmp_path / "there"
    for folder in (home / "nets", home / "packed", there):
        folder.mkdir(parents=True)
    for name, text in {
        "plugin.py": PLUGIN,
        "nets/mine.py": FACTORY,
        "nets/beside.py": "WIDTH = 5\n",
        "packed/__init__.py": "",
        "packed/nets.py": PACKED,
        "packed/sizes.py": "WIDTH = 64\n",
        "suite.yaml": SUITE,
    }.items():
        (home / name).write_text(text)
    monkeypatch.chdir(home)
    monkeypatch.syspath_prepend(str(home))
    carried = Carried.of(load_suite("suite.yaml", ["defenses=[none]"]))
    carried.modules.update(Carried.of(_naming("packed.nets:build")).modules)
    (tmp_path / "carried.pickle").write_bytes(pickle.dumps(carried))
    done = subprocess.run(
        [sys.executable, "-P", "-c", READS, str(tmp_path / "carried.pickle"), str(there / "files")],
        cwd=there, env={**os.environ}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = done.stdout
    assert str(home / "nets") in told
    assert "out_features=5" in told
    assert "in_features=64, out_features=2" in told
    assert "robustsuite_plugin_plugin" in told


def _naming(factory):
    values = {"dataset": {"factory": "not.sent:x"}, "model": {"factory": factory}}
    return SimpleNamespace(plugins=(), values=lambda: values)


def test_checkpoints_are_carried(tmp_path, monkeypatch):
    import torch
    from torch import nn

    from robustsuite.models.checkpoint import load_into, save
    from robustsuite.plugins.loading import file_digest
    from robustsuite.storage import files

    monkeypatch.chdir(tmp_path)
    save(nn.Linear(3, 2), "weights.safetensors")
    digest = file_digest("weights.safetensors")
    values = {"model": {"name": "x", "checkpoint": "weights.safetensors"}}
    carried = Carried.of(SimpleNamespace(plugins=(), values=lambda: values))
    (tmp_path / "weights.safetensors").unlink()
    monkeypatch.setattr(files, "_substitutes", {})
    carried.unpack(tmp_path / "elsewhere")
    assert file_digest("weights.safetensors") == digest
    network = nn.Linear(3, 2)
    before = network.weight.detach().clone()
    load_into(network, "weights.safetensors")
    assert not torch.equal(network.weight, before)


@pytest.mark.parametrize(
    ("has", "wants", "room"),
    [
        ({"CPU": 7.0}, {"num_cpus": 2}, 3),
        ({"CPU": 8.0, "GPU": 2.0}, {"num_cpus": 2, "num_gpus": 1.0}, 2),
        ({"CPU": 64.0, "GPU": 1.0}, {"num_cpus": 1, "num_gpus": 1 / 3}, 3),
        ({"CPU": 8.0}, {"num_cpus": 1, "num_gpus": 1.0}, 0),
        ({"memory": 1e9}, {"num_cpus": 1}, 0),
    ],
)
def test_room(has, wants, room):
    assert ray_cluster.fits(node(**has), wants) == room


def test_what_a_worker_occupies(monkeypatch):
    monkeypatch.delenv(ray_cluster.GPUS, raising=False)
    assert ray_cluster.needs(cluster(GPU=2.0), worker("cpu", 3), None) == {"num_cpus": 3}
    assert ray_cluster.needs(cluster(GPU=2.0), worker("cuda"), None)["num_gpus"] == 1.0
    assert ray_cluster.needs(cluster(GPU=2.0), worker("cuda"), 2)["num_gpus"] == 1.0
    assert ray_cluster.needs(cluster(GPU=2.0), worker("cuda"), 5)["num_gpus"] == pytest.approx(1 / 3)
    monkeypatch.setenv(ray_cluster.GPUS, "0.25")
    assert ray_cluster.needs(cluster(GPU=2.0), worker("cuda:1"), None)["num_gpus"] == 0.25
    monkeypatch.setenv(ray_cluster.GPUS, "half")
    with pytest.raises(RequestError, match="ROBUSTSUITE_RAY_GPUS='half'"):
        ray_cluster.needs(cluster(GPU=2.0), worker("cuda"), None)


def test_no_room_names_what_there_is():
    told = str(ray_cluster.no_room({"num_cpus": 4, "num_gpus": 1.0}, [node(CPU=2.0)]))
    assert "expected a node with 4 CPUs and 1 GPUs" in told
    assert "10.0.0.1: 2 CPUs, 0 GPUs" in told


def test_other_versions_are_refused():
    versions = {"torch": provenance.version("torch")}
    ray_cluster.agree([("10.0.0.1", Seen(provenance.all_code(), versions, True, False))], "cpu")
    with pytest.raises(RequestError, match=r"got torch 1\.0 instead of .* on 10\.0\.0\.2"):
        ray_cluster.agree([("10.0.0.2", Seen("other", {"torch": "1.0"}, True, False))], "cpu")
    with pytest.raises(RequestError, match="another state of robustsuite's code on"):
        ray_cluster.agree([("10.0.0.2", Seen("other", versions, True, False))], "cpu")
    with pytest.raises(RequestError, match="expected torch built for GPUs"):
        ray_cluster.agree([("10.0.0.2", Seen(provenance.all_code(), versions, True, False))], "cuda")


def test_without_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RequestError, match=r"pip install 'robustsuite\[ray\]'"):
        ray_cluster.import_ray()


def test_no_cluster_at_the_address():
    ray = pytest.importorskip("ray", reason="the ray extra is not installed: pip install 'robustsuite[ray]'")
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = f"127.0.0.1:{server.getsockname()[1]}"
    for address in (free, f"ray://{free}"):
        with pytest.raises(RequestError, match="expected a Ray cluster that answers"):
            ray_cluster.connect(ray, worker("cpu"), address, None)
    with pytest.raises(RequestError, match="expected a Ray cluster that can be joined, got address='nowhere'"):
        ray_cluster.connect(ray, worker("cpu"), "nowhere", None)
