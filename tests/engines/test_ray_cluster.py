"""The Ray engine on a cluster of two nodes gives what one local worker gives, whatever happens on the way."""

import os
import signal
import time

import pytest
from small_runs import facts, finish, left_behind, lines, wait_for

pytest.importorskip("ray", reason="the ray extra is not installed: pip install 'robustsuite[ray]'")
pytestmark = pytest.mark.slow


@pytest.fixture
def on_ray(place, cluster, request):
    """Start a run on the cluster, in a folder that is named after the test."""

    def start(*more, out=request.node.name, **settings):
        return place.start(out, "--engine", "ray", "--address", cluster.address, *more, **settings)

    start.folder = place.root / request.node.name
    return start


def log(folder):
    path = folder / "run.log"
    return path.read_text() if path.is_file() else ""


@pytest.mark.parametrize("carry", [False, True], ids=["shared", "carried"])
def test_same_records(on_ray, straight, carry):
    """Also of what fails, with its traceback; plug-in, factory and what it imports are not where the nodes look."""
    finish(on_ray(carry=carry))
    assert facts(on_ray.folder) == straight
    assert len([record for record in straight if "1 threads" in record["message"]]) == 3
    assert not log(on_ray.folder)
    trained = sorted(path.name for path in (on_ray.folder / "models").iterdir())
    assert trained == sorted(path.name for path in (on_ray.folder.parent / "straight" / "models").iterdir())


def test_killed_worker(on_ray, place, straight):
    process = on_ray(carry=True)
    os.kill(int(wait_for(place.marker)), signal.SIGKILL)
    finish(process)
    assert "the worker was killed or crashed" in log(on_ray.folder)
    assert facts(on_ray.folder) == straight


def test_removed_node(on_ray, place, cluster, straight):
    process = on_ray(carry=True)
    wait_for(place.marker)
    cluster.tell("remove")
    try:
        finish(process)
    finally:
        cluster.tell("add")
    assert facts(on_ray.folder) == straight


@pytest.mark.parametrize("carry", [False, True], ids=["shared", "carried"])
def test_hanging_plugin(on_ray, straight, carry):
    process = on_ray("--timeout", "20", "--set", "attacks.dawdle.seconds=600", carry=carry)
    finish(process)
    hung = [record for record in facts(on_ray.folder) if "it hung for 20 seconds" in record["message"]]
    assert len(hung) == 1
    assert "in __call__" in hung[0]["message"]
    assert "plugin.py" in hung[0]["message"]
    others = [record for record in facts(on_ray.folder) if record["attack"] != "dawdle"]
    assert others == [record for record in straight if record["attack"] != "dawdle"]


@pytest.mark.parametrize("carry", [False, True], ids=["shared", "carried"])
def test_killed_driver(on_ray, place, straight, carry):
    process = on_ray(carry=carry)
    wait_for(place.marker)
    process.kill()
    process.communicate()
    finished = {r["key"]: r["seconds"] for r in lines(on_ray.folder) if r["status"] != "error"}
    assert 0 < len(finished) < len(straight)
    finish(on_ray(carry=carry))
    after = {record["key"]: record["seconds"] for record in lines(on_ray.folder)}
    assert {key: after[key] for key in finished} == finished
    assert facts(on_ray.folder) == straight


def test_first_interrupt_lets_work_finish(on_ray, place, straight):
    process = on_ray(carry=True, start_new_session=True)
    wait_for(place.marker)
    os.killpg(process.pid, signal.SIGINT)
    finish(process, 130)
    assert 0 < len(lines(on_ray.folder)) < len(straight)
    assert any(record["attack"] == "dawdle" for record in lines(on_ray.folder))
    finish(on_ray(carry=True))
    assert facts(on_ray.folder) == straight


def test_second_interrupt_stops_at_once(on_ray, place):
    process = on_ray("--set", "attacks.dawdle.seconds=600", carry=True, start_new_session=True)
    worker = int(wait_for(place.marker))
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(1)
    started = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    finish(process, 130)
    assert time.monotonic() - started < 20
    time.sleep(2)
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_too_many_threads_for_any_node(on_ray):
    told = finish(on_ray("--threads", "3"), 2)
    assert "expected a node with 3 CPUs for a worker" in told


def test_no_gpu_on_the_cluster(on_ray):
    told = finish(on_ray("--device", "cuda"), 2)
    assert "expected a node with 1 CPUs and 1 GPUs for a worker" in told


def test_a_cluster_started_here(place, straight):
    place.run("here", "--engine", "ray")
    assert facts(place.root / "here") == straight
    place.run("threaded", "--engine", "ray", "--threads", "2", workers="1")
    assert any("2 threads" in record["message"] for record in lines(place.root / "threaded"))


def test_a_cluster_started_here_ends_with_its_driver(place):
    process = place.start("orphan", "--engine", "ray")
    wait_for(place.marker)
    mine = {int(line.split()[0]) for line in left_behind("raylet")}
    process.kill()
    process.communicate()
    time.sleep(8)
    after = {int(line.split()[0]) for line in left_behind("raylet")}
    assert len(after) < len(mine)
