"""The same attack by the code of two checkouts, in turn: what a change costs, whatever else the machine does.

Each checkout runs in a process of its own, on the same network and images, one thread, and both are timed by their
processor seconds. Every round asks both, the first one in turn; a case counts by the median of its rounds.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import io
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).resolve().parent
PACKAGES = {"robustsuite": "robustsuite", "robustsuite.attacks": "attacks", "robustsuite.defenses": "defenses"}
ROUNDS = 5
ENOUGH = 1.0  # seconds from which on a ratio is told apart from the clock's noise
ALLOWED = 0.03  # of a ratio


class Checkout(importlib.abc.MetaPathFinder):
    """Finds the suite's packages in one checkout, before any that is installed."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        if name not in PACKAGES:
            return None
        folder = self._root / PACKAGES[name]
        return importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )


class Pair:
    """Two processes, one for each checkout.

    Args:
        old: Root of the other checkout.
    """

    def __init__(self, old: Path) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._roots = {"old": old.resolve(), "new": HERE.parent}

    def __enter__(self) -> Pair:
        self._workers = {
            name: subprocess.Popen(
                [sys.executable, str(Path(__file__).resolve()), str(root)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            )
            for name, root in self._roots.items()
        }  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            worker.kill()
            worker.wait()
        self._folder.cleanup()

    def show(self, build: Any, weights: dict[str, Any], x: Any, y: Any) -> None:
        """What the next cases are played on."""
        import torch

        file = Path(self._folder.name) / "shown.pt"
        torch.save({"name": build.name, "options": dict(build.options), "weights": weights, "x": x, "y": y}, file)
        for name in self._workers:
            self._ask(name, f"show {file}")

    def measure(self, case: Any, n: int) -> str:
        """Median seconds of old and new, and their ratio."""
        import json

        seconds: dict[str, list[float]] = {name: [] for name in self._workers}
        line = json.dumps(asdict(case))
        for round_ in range(ROUNDS + 1):
            for name in sorted(seconds, reverse=round_ % 2 == 0):
                seconds[name].append(float(self._ask(name, f"run {n} {line}")))
        # The first round sets things up.
        old, new = (statistics.median(seconds[name][1:]) for name in ("old", "new"))
        ratio = statistics.median(b / a for a, b in zip(seconds["old"][1:], seconds["new"][1:], strict=True))
        short = " (short)" if old < ENOUGH else "" if ratio <= 1 + ALLOWED else " SLOWER"
        return f"{old:.2f} | {new:.2f} | {ratio:.3f}{short}"

    def _ask(self, name: str, line: str) -> str:
        worker = self._workers[name]
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(line + "\n")
        worker.stdin.flush()
        answer = worker.stdout.readline().strip()
        if not answer:
            raise SystemExit(f"the process of the {name} checkout ended: {self._roots[name]}")
        return answer


def serve(root: Path) -> None:
    """Answer commands of the other process with the code of one checkout."""
    sys.meta_path.insert(0, Checkout(root))
    import json

    import torch
    from peers import Case, ours

    from robustsuite.models.build import ModelSpec

    torch.set_num_threads(1)
    net, x, y = None, None, None
    out, sys.stdout = sys.stdout, io.StringIO()
    for line in sys.stdin:
        command, _, rest = line.strip().partition(" ")
        if command == "show":
            shown = torch.load(rest, weights_only=True)
            x, y = shown["x"], shown["y"]
            spec = ModelSpec(shown["name"], options=tuple(shown["options"].items()))
            net = spec(10, tuple(x.shape[1:]), (0.0, 1.0))
            net.load_state_dict(shown["weights"])
            net = net.eval()
            answer = "shown"
        else:
            count, _, case = rest.partition(" ")
            played, n = Case(**json.loads(case)), int(count)
            start = time.process_time()
            ours(played)(net, x[:n], y[:n])
            answer = f"{time.process_time() - start:.6f}"
        print(answer, file=out, flush=True)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
