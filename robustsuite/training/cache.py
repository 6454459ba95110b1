"""Trainings are remembered by what determines them, and never done twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock

import robustsuite
from robustsuite.canonical import canonical_json, digest
from robustsuite.data.samples import Samples
from robustsuite.files import write_atomically
from robustsuite.protocol import Trained
from robustsuite.streams import Streams
from robustsuite.training.fit import Fitted, Progress, deploy, divide, fit, make_network
from robustsuite.training.recipe import Recipe


@dataclass(frozen=True)
class Trainer:
    """Trains recipes for one seed and device; with a folder, each training is stored and looked up there.

    Args:
        seed: Seed of every training.
        device: Where to train.
        folder: Where weights (safetensors) and facts (JSON) are kept; None trains afresh each time.
        progress: Told after each epoch.
    """

    seed: int
    device: str = "cpu"
    folder: Path | None = None
    progress: Progress | None = None

    def key(self, recipe: Recipe, samples: Samples) -> str:
        """Digest of everything that determines the weights."""
        return digest(
            {
                "recipe": recipe.training_key(),
                "data": samples.digest(),
                "seed": self.seed,
                "device": self.device.partition(":")[0],
                "threads": torch.get_num_threads(),
                "version": robustsuite.__version__,
            }
        )

    def __call__(self, recipe: Recipe, samples: Samples) -> Trained:
        """Train (or recall) and deploy.

        Returns:
            The deployed model with history, facts and the samples that were held out.
        """
        fitted = self.fit(recipe, samples)
        held_out = divide(recipe, samples, Streams(self.seed).child("training"))[1] if recipe.held_out else None
        model = deploy(recipe, fitted.network, held_out, self.seed)
        return Trained(model, fitted.history, fitted.facts, fitted.flags, held_out)

    def fit(self, recipe: Recipe, samples: Samples) -> Fitted:
        """Train the network, or load it where the same training was done before."""
        if self.folder is None:
            return self._fresh(recipe, samples, None)
        key = self.key(recipe, samples)
        self.folder.mkdir(parents=True, exist_ok=True)
        # Two workers that need one training do it once: the second waits here and then reads it.
        with FileLock(self.folder / f".{key}.lock"):
            found = self._recall(key, lambda: self._network(recipe, samples))
            if found is not None:
                return found
            fitted = self._fresh(recipe, samples, self.folder / f"{key}.partial.pt")
            self._store(key, fitted)
            return fitted

    def _network(self, recipe: Recipe, samples: Samples) -> torch.nn.Module:
        network = make_network(recipe, samples, self.seed)
        return network.double() if recipe.training.precision == "64" else network

    def _fresh(self, recipe: Recipe, samples: Samples, checkpoint: Path | None) -> Fitted:
        return fit(recipe, samples, self.seed, device=self.device, checkpoint=checkpoint, progress=self.progress)

    def _store(self, key: str, fitted: Fitted) -> None:
        from safetensors.torch import save

        assert self.folder is not None
        # Copies, for layers that a network uses twice share memory, which safetensors refuses.
        plain = {"memory_format": torch.contiguous_format}
        tensors = {k: v.detach().cpu().clone(**plain) for k, v in fitted.network.state_dict().items()}
        facts = {"history": fitted.history, "facts": fitted.facts, "flags": fitted.flags}
        write_atomically(self.folder / f"{key}.safetensors", save(tensors))
        write_atomically(self.folder / f"{key}.json", canonical_json(facts).encode())

    def _recall(self, key: str, build: Callable[[], torch.nn.Module]) -> Fitted | None:
        from safetensors.torch import load_file

        assert self.folder is not None
        weights, facts = self.folder / f"{key}.safetensors", self.folder / f"{key}.json"
        if not (weights.is_file() and facts.is_file()):
            return None
        known = json.loads(facts.read_text())
        network = build().to(self.device)
        network.load_state_dict(load_file(weights))
        return Fitted(network.eval(), tuple(known["history"]), known["facts"], tuple(known["flags"]))
