"""Trainings are remembered by what determines them, and never done twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from robustsuite.core.canonical import digest
from robustsuite.core.deployed import Served, ask
from robustsuite.core.errors import TamperingError
from robustsuite.core.isolation import seeded, untouched
from robustsuite.core.samples import Samples
from robustsuite.data.copies import lent
from robustsuite.models.digest import network_digest
from robustsuite.models.state import captured, put_back
from robustsuite.plugins import provenance
from robustsuite.storage.files import storing
from robustsuite.storage.store import Kept, Store
from robustsuite.training.built import built_digest
from robustsuite.training.context import PartOf, named, no_part
from robustsuite.training.fit import Fitted, Log, Progress, fit, make_network
from robustsuite.training.jobs import Job
from robustsuite.training.memory import Memory
from robustsuite.training.own import HiddenNetwork
from robustsuite.training.recipe import Recipe
from robustsuite.training.stages import Stages
from robustsuite.training.trained import Trained

KIND = "models"
_ASKED: Final = 32  # samples on which a user's network is compared with what is kept of it
_SCORES: Final = "scores of "  # no state dict has such a name: a module's has no blank


@dataclass(frozen=True)
class Trainer:
    """Trains recipes for one seed and device; with stores, each training is kept and looked up there.

    Args:
        seed: Seed of every training.
        device: Where to train.
        stores: Where weights (safetensors) and facts (JSON) are kept, the run's own first; none trains each time.
        progress: Told after each epoch.
        log: Given the figures of each epoch that is trained, and not of what is recalled.
        part: The parts of the data set beside the training samples.
        memory: What no store can keep; shared by the trainers of one process.
    """

    seed: int
    device: str = "cpu"
    stores: tuple[Store, ...] = ()
    progress: Progress | None = None
    log: Log | None = field(default=None, compare=False, kw_only=True)
    part: PartOf = no_part
    memory: Memory = field(default_factory=Memory, compare=False, repr=False)

    def key(self, recipe: Recipe, samples: Samples, threads: int | None = None) -> str:
        """Digest of everything that determines the weights; `threads` are torch's where they are not given."""
        return digest(
            {
                "recipe": recipe.training_key(),
                "sources": provenance.sources(replace(recipe, serve=())),  # what serves trains nothing
                "network": built_digest(recipe, samples.classes, samples.shape, samples.bounds, self.seed),
                "data": samples.digest(),
                "parts": {
                    name: None if (of := self.part(name)) is None else of.digest() for name in recipe.trains_with
                },
                "seed": self.seed,
                "device": self.device.partition(":")[0],
                "threads": threads or torch.get_num_threads(),
                "code": provenance.code(),
            }
        )

    def __call__(self, recipe: Recipe, samples: Samples) -> Trained:
        """Train (or recall) and deploy.

        Returns:
            The deployed model with history, facts, doubts and scores.

        Raises:
            NotApplicableError: A part of the data set that the recipe needs is empty.
            TamperingError: The samples were written to, by now or by a part of the recipe.
        """
        fitted = self.fit(recipe, samples)
        return self.deploy(recipe, fitted, samples)

    def job(self, job: Job) -> Trained:
        """Train (or recall) and deploy what somebody needs beside the victim.

        Raises:
            NotApplicableError: A part of the data set that its recipe needs is empty.
            TamperingError: The samples were written to.
        """
        return replace(self, seed=job.seed)(job.recipe, job.samples)

    def deploy(self, recipe: Recipe, fitted: Fitted | nn.Module, samples: Samples) -> Trained:
        """A trained network, or one that somebody already has, behind every `serve` of a recipe.

        Args:
            recipe: Whose `serve` wrap it.
            fitted: What a training gave, or the network.
            samples: What it was trained on, or others of their shape, classes and bounds.

        Raises:
            NotApplicableError: A part of the data set that a serve needs is empty.
            TamperingError: A serve wrote to data that it was not shown.
        """
        fitted = Fitted(fitted) if isinstance(fitted, nn.Module) else fitted
        stages = Stages(recipe, samples, self.seed, self.device, self.part, self._also)
        with lent(_who(recipe), samples, *(self.part(name) for name in recipe.serves_with)):
            model = stages.served(fitted.network)
        facts, scores = {**fitted.facts, **stages.facts}, {**fitted.scores, **stages.scores}
        return Trained(model, fitted.history, facts, (*fitted.flags, *stages.flags), scores)

    def _also(self, recipe: Recipe, samples: Samples, seed: int) -> nn.Module:
        """A network that a stage asked for: trained once, as any other."""
        return replace(self, seed=seed, progress=None, log=None).fit(recipe, samples).network

    def fit(self, recipe: Recipe, samples: Samples) -> Fitted:
        """Train the network, or load it where the same training was done before.

        Raises:
            TamperingError: The samples were written to, by now or by a part of the recipe; nothing is kept then.
        """
        if not self.stores or (recipe.own is not None and not isinstance(recipe.own.factory, str)):
            return self._fresh(recipe, samples, "")
        if not samples.intact():
            raise TamperingError(
                f"expected samples as they were when their digest was taken, got samples={samples.digest()}, which "
                f"were written to since; make new Samples of what shall be trained on"
            )
        key = self.key(recipe, samples)
        remembered = self.memory.get(key)
        if remembered is not None:
            return remembered
        if recipe.own is not None and not recipe.own.is_kept:
            fitted = self._fresh(recipe, samples, "")
            self.memory.put(key, fitted)
            return fitted
        # Two workers that need one training do it once: the second waits here and then reads it.
        with self._locked(key):
            found = self._recall(key, lambda: self._network(recipe, samples))
            if found is not None:
                return found
            fitted = self._fresh(recipe, samples, key)
            if not self._keep(key, fitted, recipe, samples):
                self.memory.put(key, fitted)
            return fitted

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        """Hold the lock of the store that most runs share, or of the run's own where that one refuses."""
        lock = self.stores[-1].lock(KIND, key)
        try:
            lock.acquire()
        except OSError:
            lock = self.stores[0].lock(KIND, key)
            with storing(Path(lock.lock_file)):
                lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _network(self, recipe: Recipe, samples: Samples) -> nn.Module:
        network = make_network(recipe, samples, self.seed)
        return network.double() if recipe.training.precision == "64" else network

    def _fresh(self, recipe: Recipe, samples: Samples, key: str) -> Fitted:
        checkpoint = self.stores[0].root / KIND / f"{key}.partial.pt" if key else None
        given: dict[str, Any] = {"device": self.device, "checkpoint": checkpoint, "progress": self.progress}
        given["log"] = self.log
        with lent(_who(recipe), samples, *(self.part(name) for name in recipe.trains_with)):
            return fit(recipe, samples, self.seed, **given, part=self.part, also=self._also)

    def _keep(self, key: str, fitted: Fitted, recipe: Recipe, samples: Samples) -> bool:
        """Keep a training, where a network that is built anew and gets the kept state is the trained one."""
        from safetensors.torch import save

        if recipe.own is not None and isinstance(recipe.build, HiddenNetwork):
            self.stores[0].notes.append(
                f"what {recipe.own.name} trains is not kept, for it alone knows its network: each process trains what "
                f"it needs; to keep it name the network as model, and let the function ask for `build`"
            )
            return False
        tensors, values = captured(fitted.network)
        fresh = self._network(recipe, samples).to(self.device)
        start = captured(fresh).values
        values = {name: value for name, value in values.items() if name not in start or start[name] != value}
        same = _same(fresh, fitted.network, tensors, values)
        if not same or not (recipe.own is None or _alike(fresh, fitted.network, samples, self.device)):
            self.stores[0].notes.append(
                f"the training {key} is not kept: {type(fitted.network).__name__} holds state that is neither tensor, "
                f"number nor text, or is another network than was built; each process that needs it trains it again"
            )
            return False
        facts = {"history": fitted.history, "facts": fitted.facts, "flags": fitted.flags}
        facts = {**facts, "attributes": values} if values else facts
        facts = {**facts, "scores": sorted(fitted.scores)} if fitted.scores else facts
        scored = {f"{_SCORES}{name}": column.contiguous().clone() for name, column in fitted.scores.items()}
        content = save({**{name: value.cpu() for name, value in tensors.items()}, **scored})
        self.stores[0].put(KIND, key, facts, content)
        for shared in self.stores[1:]:
            shared.offer(KIND, key, facts, content)
            shared.trim()
        return True

    def _recall(self, key: str, build: Callable[[], nn.Module]) -> Fitted | None:
        from safetensors.torch import load

        kept = self._find(key)
        if kept is None:
            return None
        network, known, tensors = build().to(self.device), kept.facts, load(kept.payload)
        scores = {name: tensors.pop(f"{_SCORES}{name}") for name in known.get("scores", ())}
        put_back(network, tensors, known.get("attributes", {}))
        return Fitted(network.eval(), tuple(known["history"]), known["facts"], tuple(known["flags"]), scores)

    def _find(self, key: str) -> Kept | None:
        """The entry of the first store that has it; the run's own store then gets it too."""
        for place, store in enumerate(self.stores):
            kept = store.get(KIND, key)
            if kept is not None:
                if place > 0:
                    self.stores[0].put(KIND, key, *kept)
                return kept
        return None


def _same(fresh: nn.Module, trained: nn.Module, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> bool:
    try:
        put_back(fresh, tensors, values)
    except (RuntimeError, AttributeError, KeyError):  # a repair made another network of it
        return False
    return network_digest(fresh) == network_digest(trained)


def _alike(one: nn.Module, other: nn.Module, samples: Samples, device: str) -> bool:
    """Whether two networks answer a few samples alike: a user's may hold more than can be seen."""

    def answers(network: nn.Module) -> Tensor:
        model = Served(network.eval())
        x = samples.batch(slice(0, _ASKED), device).x.to(model.dtype)
        with untouched(network), torch.no_grad(), seeded(0):
            return ask(model, x).logits

    before, after = answers(one), answers(other)
    return before.shape == after.shape and torch.allclose(before, after, rtol=1e-4, atol=1e-5)


def _who(recipe: Recipe) -> str:
    """The parts of a recipe that a defence may have brought along."""
    inside = (*recipe.augment, recipe.objective, recipe.update) if recipe.own is None else ()
    names = [named(part) for part in (*recipe.prepare, *inside, *recipe.repair, *recipe.serve)]
    return f"a recipe of {', '.join(names if recipe.own is None else [recipe.own.name, *names])}"
