"""Plug-ins that do what plug-ins should not. What happens once leaves a file in $FAULTS, so that it happens no more."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import resource
import signal
import stat
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from robustsuite import register
from robustsuite.scenarios.poisoning import Poison
from robustsuite.training import CleanLoss, Objective


def flags() -> Path:
    return Path(os.environ["FAULTS"])


def once(name: str) -> bool:
    """Whether this is the first time, in whatever process."""
    try:
        (flags() / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def spin() -> None:
    while True:
        pass


def hold_the_interpreter() -> None:
    """A backtracking that takes longer than anybody lives, and never gives the interpreter's lock back."""
    re.match(r"(a+)+$", "a" * 60 + "b")


def exhaust_memory() -> None:
    """Ask for memory until there is none; the limit keeps the machine out of it."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, before[1]))
    try:
        held = []
        while True:
            held.append(bytearray(2**24))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def exhaust_torch() -> None:
    torch.zeros(2**62 // 8)


def exhaust_gpu() -> None:
    torch.empty(2**50, dtype=torch.uint8, device="cuda")


def scribble() -> None:
    """Write into every open socket, the worker's own among them."""
    for handle in range(3, 256):
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(handle).st_mode):
                os.write(handle, b"\0\0\0\7garbage")


def wait() -> None:
    """Say that it is here, and wait until it may go on."""
    (flags() / f"at-{os.getpid()}").touch()
    while not (flags() / "go").exists():
        time.sleep(0.01)


def raise_interrupt() -> None:
    raise KeyboardInterrupt


def raise_error() -> None:
    raise ValueError("as planned")


def no_room() -> None:
    """The disk of a plug-in is no business of the run."""
    raise OSError(28, "No space left on device", "somewhere/else")


ACTIONS = {
    "nothing": lambda: None,
    "raise": raise_error,
    "interrupt": raise_interrupt,
    "no-room": no_room,
    "exit": lambda: sys.exit(3),
    "leave": lambda: os._exit(0),
    "leave-3": lambda: os._exit(3),
    "kill": kill,
    "kill-once": lambda: kill() if once("kill-once") else None,
    "segfault": lambda: ctypes.string_at(0),
    "close-pipes": lambda: os.closerange(3, 256),
    "sleep": lambda: time.sleep(1e6),
    "spin": spin,
    "hold": hold_the_interpreter,
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "memory": exhaust_memory,
    "torch-memory": exhaust_torch,
    "scribble": scribble,
    "gpu-memory": exhaust_gpu,
    "wait": wait,
}
ANSWERS = {
    "fine": lambda view: view.x.clone(),
    "nothing": lambda view: None,
    "text": lambda view: "garbage",
    "numpy": lambda view: view.x.numpy(),
    "shape": lambda view: view.x[..., :-1],
    "fewer": lambda view: view.x[:-1],
    "nan": lambda view: torch.full_like(view.x, float("nan")),
    "integers": lambda view: view.x.long(),
    "double": lambda view: view.x.double(),
    "gradient": lambda view: view.x.clone().requires_grad_(),
    "over-budget": lambda view: 1 - view.x,
}


@register.attack("faulty", scenario="evasion", access="white-box")
@dataclass(frozen=True, kw_only=True)
class Faulty:
    """Do something, and answer something."""

    does: str = "nothing"
    answers: str = "fine"

    def __call__(self, view: Any, streams: Any) -> Any:
        if self.does.endswith("crowd"):
            if len(view.y) > 8:
                exhaust_gpu() if self.does == "gpu-crowd" else exhaust_torch()
        else:
            ACTIONS[self.does]()
        return ANSWERS[self.answers](view)


@register.attack("faulty-poison", scenario="poisoning", access="training-set")
@dataclass(frozen=True, kw_only=True)
class FaultyPoison:
    """Change more rows than allowed, or return what is no poison."""

    does: str = "nothing"
    answers: str = "over-budget"

    def __call__(self, view: Any, streams: Any) -> Any:
        ACTIONS[self.does]()
        if self.answers == "none":
            return None
        rows = torch.arange(view.budget + 1 if self.answers == "over-budget" else view.budget)
        x = view.samples.inputs(rows).float()
        if self.answers == "nan":
            x = x * float("nan")
        return Poison(rows, x, view.samples.y[rows])


@dataclass(frozen=True, kw_only=True)
class Stuck(Objective):
    """Do something in every step of the training."""

    does: str = "nothing"

    def __call__(self, network: Any, batch: Any, step: Any) -> Any:
        ACTIONS[self.does]()
        return CleanLoss()(network, batch, step)


@register.defense("stuck")
@dataclass(frozen=True, kw_only=True)
class StuckTraining:
    """Train with an objective that does something."""

    does: str = "nothing"

    def __call__(self, recipe: Any) -> Any:
        return recipe.with_objective(Stuck(does=self.does))


@register.defense("counted")
@dataclass(frozen=True, kw_only=True)
class CountedTraining:
    """Leave a line in $FAULTS/trainings for every training that starts."""

    def __call__(self, recipe: Any) -> Any:
        return recipe.with_objective(Counting())


@dataclass(frozen=True, kw_only=True)
class Counting(CleanLoss):
    """Counts the first steps of trainings, slowly enough for two to meet."""

    def __call__(self, network: Any, batch: Any, step: Any) -> Any:
        if step.epoch == 0 and not getattr(network, "counted", False):
            network.counted = True
            with (flags() / "trainings").open("a") as file:
                file.write(f"{os.getpid()}\n")
            time.sleep(1.0)
        return super().__call__(network, batch, step)
