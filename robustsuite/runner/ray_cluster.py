"""A Ray cluster: reached or started, looked over before any work goes to it, and its errors in words."""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from robustsuite.core import checks
from robustsuite.core.errors import RequestError
from robustsuite.plugins import provenance
from robustsuite.runner.ray_tasks import Seen
from robustsuite.runner.worker import Worker

GPUS: Final = "ROBUSTSUITE_RAY_GPUS"
_OBJECTS: Final = 256 * 2**20  # bytes of the object store of a cluster that is started here, besides the data
_TOLD: Final = 400  # characters of what Ray says


def import_ray() -> Any:
    """Ray, where the extra is installed."""
    try:
        import ray
    except ImportError as error:
        raise checks.fail("Ray, which is an extra", "engine", "ray", "pip install 'robustsuite[ray]'") from error
    return ray


def connect(ray: Any, worker: Worker, address: str | None, workers: int | None) -> tuple[bool, bool]:
    """Reach a cluster; whether the connection was made here, and whether the cluster was started here."""
    if ray.is_initialized():
        return False, False
    asked = address or os.environ.get("RAY_ADDRESS") or "local"
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if asked == "local":
        count = workers or max(1, (os.cpu_count() or 1) // worker.suite.threads)
        room = {"num_cpus": count * worker.suite.threads, "object_store_memory": _OBJECTS + 2 * _size(worker)}
        ray.init(address="local", include_dashboard=False, **room, **quiet)
        return True, True
    _reachable(asked)
    try:
        ray.init(address=asked, **quiet)
    except (ValueError, RuntimeError) as error:  # versions that differ are a RuntimeError
        raise checks.fail("a Ray cluster that can be joined", "address", asked, _whole(error)) from error
    except (ConnectionError, ray.exceptions.RayError) as error:
        remedy = f"{_whole(error)}; where the cluster asks for a token, set RAY_AUTH_MODE=token as its owner says"
        raise checks.fail("a Ray cluster that can be joined", "address", asked, remedy) from error
    return True, False


def _reachable(address: str) -> None:
    """Ray itself tries for minutes where nobody answers."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto" or not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10.0).close()
    except OSError as error:
        remedy = f"{error}: check the address and that the cluster runs (ray status), or leave --address out"
        raise checks.fail("a Ray cluster that answers", "address", address, remedy) from error


def needs(ray: Any, worker: Worker, workers: int | None) -> dict[str, float]:
    """What one piece of work occupies: CPUs for its threads, and where it computes on GPUs a GPU or a share of one."""
    needs: dict[str, float] = {"num_cpus": worker.suite.threads}
    if worker.device.partition(":")[0] == "cuda":
        given = os.environ.get(GPUS)
        gpus = ray.cluster_resources().get("GPU", 0.0)
        share = 1.0 / math.ceil(workers / gpus) if workers is not None and gpus else 1.0
        needs["num_gpus"] = checks.real(GPUS, _number(given), low=0.0, open_low=True) if given else share
    return needs


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def fits(node: Mapping[str, Any], needs: Mapping[str, float]) -> int:
    """How many pieces of work a node has room for."""
    has = node["Resources"]
    room = [has.get(name, 0.0) / needs[key] for key, name in (("num_cpus", "CPU"), ("num_gpus", "GPU")) if key in needs]
    return int(min(room) + 1e-9)


def no_room(needs: Mapping[str, float], nodes: Sequence[Mapping[str, Any]]) -> RequestError:
    """No node can take a single worker."""
    told = "; ".join(_has(node) for node in nodes) or "no node"
    gpus = f" and {needs['num_gpus']:g} GPUs" if "num_gpus" in needs else ""
    remedy = "add such a node, or choose fewer --threads" + (" or --device cpu" if gpus else "")
    return RequestError(f"expected a node with {needs['num_cpus']:g} CPUs{gpus} for a worker, got {told}; {remedy}")


def _has(node: Mapping[str, Any]) -> str:
    has = node["Resources"]
    return f"{node['NodeManagerAddress']}: {has.get('CPU', 0):g} CPUs, {has.get('GPU', 0):g} GPUs"


def agree(seen: Iterable[tuple[str, Seen]], device: str) -> None:
    """Refuse nodes that would give other results than the driver's keys say, or none at all."""
    for address, node in seen:
        own = {name: provenance.version(name) for name in node.versions}
        other = [
            f"{k} {node.versions[k] or 'absent'} instead of {v or 'none'}"
            for k, v in own.items()
            if node.versions[k] != v
        ]
        if node.code != provenance.all_code():
            what = ", ".join(other) or "another state of robustsuite's code"
            raise RequestError(
                f"expected the driver's versions on every node, got {what} on {address}; install the same there"
            )
        if device.partition(":")[0] == "cuda" and not node.accelerated:
            raise RequestError(
                f"expected torch built for GPUs on {address}, got one without; install it there, or choose --device cpu"
            )


def unfit(address: str, error: BaseException) -> RequestError:
    """Not even the first look at a node came to an end."""
    return RequestError(
        f"expected robustsuite with all that it needs on every node, got {cause(error)} on {address}; install the "
        f"driver's versions there"
    )


def cause(error: BaseException) -> str:
    """What was raised on the node, in a line."""
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {_first(cause)}"


def _whole(error: BaseException) -> str:
    return " ".join(str(error).split())[:_TOLD]


def _first(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def reason(known: Any, error: BaseException) -> str:
    """Why an answer never came, for people."""
    reasons = {
        "OutOfMemoryError": "its node ran short of memory, and Ray stopped the worker",
        "NodeDiedError": "the node that it ran on is gone",
        "OutOfDiskError": "its node has no disk left",
        "ObjectLostError": "its result was lost with the node that held it",
        "WorkerCrashedError": "the worker was killed or crashed; memory that ran out on its node is the usual reason",
        "TaskCancelledError": "it was cancelled",
    }
    kind = next((name for name in reasons if isinstance(error, getattr(known, name, ()))), "")
    return reasons.get(kind) or f"Ray lost it ({type(error).__name__}: {_first(error)})"


def _size(worker: Worker) -> int:
    return sum(part.x.nbytes for part in (worker.data.train, worker.data.test))
