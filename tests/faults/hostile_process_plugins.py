"""One attack of many kinds, each of which does something to the process that it runs in."""

from __future__ import annotations

import atexit
import builtins
import gc
import os
import random
import signal
import sys
import threading
import time
import types
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from robustsuite import register
from robustsuite.core.samples import Samples
from robustsuite.plugins import registry

_kept: list[Any] = []


def _wrong(*_: Any, **__: Any) -> Any:
    raise RuntimeError("patched")


def relu() -> None:
    torch.relu = lambda x: x * 0
    torch.Tensor.relu = lambda self: self * 0
    F.relu = lambda x, inplace=False: x * 0


def cross_entropy() -> None:
    true = F.cross_entropy
    F.cross_entropy = lambda *a, **k: -true(*a, **k)


def code() -> None:
    """The function stays the same object."""
    F.cross_entropy.__code__ = (lambda input, target, *a, **k: input.sum()).__code__
    F.softmax.__defaults__ = (None, 3, torch.float64)


def add() -> None:
    torch.Tensor.__add__ = lambda self, other: torch.sub(self, other)


def linear() -> None:
    torch.nn.Linear.forward = lambda self, x: x.flatten(1)[:, : self.out_features]


def base_method() -> None:
    """A method that hides an inherited one."""
    torch.nn.Linear.__call__ = lambda self, x: torch.zeros(len(x), self.out_features)


def module_global() -> None:
    """A name that hides Python's own in one module."""
    torch.nn.functional.len = lambda x: 1
    sys.modules["robustsuite.scenarios.evasion.judge"].len = lambda x: 1


def own_code() -> None:
    import robustsuite.core.intervals as intervals
    from robustsuite.scenarios.evasion.judge import Judge

    intervals.interval = lambda *a, **k: (0.0, 1.0)
    Judge.take = lambda self, view, artefact: None


def dtype() -> None:
    torch.set_default_dtype(torch.float64)


def device() -> None:
    torch.set_default_device("meta")


def seed() -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)


def threads() -> None:
    torch.set_num_threads(7)


def grad() -> None:
    torch.set_grad_enabled(False)


def deterministic() -> None:
    torch.use_deterministic_algorithms(True)


def precision() -> None:
    torch.set_float32_matmul_precision("medium")
    torch.backends.mkldnn.enabled = False
    torch.set_flush_denormal(True)
    torch.set_autocast_enabled("cpu", True)


def anomaly() -> None:
    torch.autograd.set_detect_anomaly(True)


def warn() -> None:
    warnings.simplefilter("error")
    warnings.warn = _wrong
    np.seterr(all="raise")


def environ() -> None:
    os.environ.clear()
    os.environ["OMP_NUM_THREADS"] = "9"
    os.environ["ROBUSTSUITE_CACHE"] = "/nowhere"


def folder() -> None:
    os.chdir("/")


def python() -> None:
    builtins.open = _wrong
    builtins.sorted = lambda found, **_: list(found)
    time.perf_counter = lambda: 0.0
    random.random = lambda: 0.5
    os.replace = _wrong


def numpy_functions() -> None:
    np.mean = lambda *a, **k: 0.0
    np.random.seed = lambda *a: None


def everything_in_reach() -> None:
    """Samples and weights that are alive anywhere, by way of the collector and of memory."""
    for thing in gc.get_objects():
        if isinstance(thing, Samples):
            thing.x.numpy()[:] = thing.bounds[0]
            thing.y.numpy()[:] = 0
        elif isinstance(thing, torch.nn.Linear):
            thing.weight.data.numpy()[:] = 0.5


def registered() -> None:
    entry = registry.attacks.get("pgd")
    object.__setattr__(entry, "cls", registry.attacks.get("noise").cls)
    vars(registry.attacks)["_entries"].pop("fgsm", None)


def games() -> None:
    for table in (value for value in vars(registry.scenarios).values() if type(value) is dict):
        table.pop("evasion", None)


def built_in_class() -> None:
    registry.attacks.get("pgd").cls.__call__ = lambda self, view, streams: view.x
    registry.attacks.get("noise").cls.__init__.__kwdefaults__ = {"samples": 1}


def global_hook() -> None:
    torch.nn.modules.module.register_module_forward_hook(lambda module, given, made: made * 0)


def autograd() -> None:
    torch.autograd.grad = lambda outputs, inputs, *a, **k: tuple(torch.zeros_like(x) for x in inputs)
    torch.Tensor.backward = lambda self, *a, **k: None


def modules() -> None:
    sys.modules["torch.nn.functional"] = types.ModuleType("torch.nn.functional")
    sys.modules["random"] = types.ModuleType("random")


def goes_on() -> None:
    """A thread that patches again and again."""

    def again() -> None:
        while True:
            torch.relu = lambda x: x * 0
            torch.nn.Linear.forward = lambda self, x: x
            time.sleep(0.001)

    threading.Thread(target=again, daemon=True).start()


def handlers() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: None)


def at_the_end() -> None:
    atexit.register(lambda: _kept.clear())


def deep() -> None:
    sys.setrecursionlimit(200)


def compiler() -> None:
    torch._dynamo.config.suppress_errors = True
    torch.compile = lambda model, *a, **k: model


def mode() -> None:
    """A mode of torch that is entered and never left."""

    class Zeros(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = function(*args, **(kwargs or {}))
            return made * 0 if isinstance(made, torch.Tensor) and made.is_floating_point() else made

    Zeros().__enter__()


def streams() -> None:
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    sys.settrace(lambda *_: None)


def fork() -> None:
    """A copy of the whole process that comes back from the attack, too."""
    os.fork()


def children() -> None:
    """One that stays behind."""
    if os.fork() == 0:
        time.sleep(3)
        os._exit(0)


KINDS = {
    kind.__name__: kind
    for kind in (
        *(relu, cross_entropy, code, add, linear, base_method, module_global, own_code, dtype, device, seed, threads),
        *(grad, deterministic, precision, anomaly, warn, environ, folder, python, numpy_functions),
        *(everything_in_reach, registered, games, built_in_class, global_hook, autograd, modules, goes_on, handlers),
        *(at_the_end, deep, compiler, mode, streams, fork, children),
    )
}


@register.attack("hostile-process", scenario="evasion", access="white-box")
@dataclass(frozen=True, kw_only=True)
class HostileProcess:
    """Do this to the process, and return the inputs.

    Args:
        does: What.
        when: In the game (`called`) or as the attack is made (`made`).
    """

    does: str = "relu"
    when: str = "called"

    def __post_init__(self) -> None:
        if self.when == "made":
            KINDS[self.does]()

    def __call__(self, view: Any, streams: Any) -> Any:
        x = view.x.clone()
        if self.when == "called":
            KINDS[self.does]()
        return x


@register.attack("hostile-poisoner", scenario="poisoning", access="training-set")
@dataclass(frozen=True, kw_only=True)
class HostilePoisoner:
    """Do this to the process, and poison one row; the judge trains afterwards.

    Args:
        does: What.
    """

    does: str = "relu"

    def __call__(self, view: Any, streams: Any) -> Any:
        from robustsuite.scenarios.poisoning import Poison

        samples = view.samples
        row = torch.zeros(1, dtype=torch.int64)
        x, y = samples.inputs()[row].clone(), (samples.y[row] + 1) % samples.classes
        KINDS[self.does]()
        return Poison(row, x, y)
