"""The user's own training: a function of theirs in place of what a recipe says of batches, losses and updates."""

from __future__ import annotations

import copy
import inspect
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch
from torch import nn

from robustsuite.core import checks
from robustsuite.core.canonical import plain
from robustsuite.core.deployed import Served, ask
from robustsuite.core.errors import ModelError, RequestError
from robustsuite.core.isolation import differentiable, seeded, single_precision, untouched
from robustsuite.core.samples import Samples
from robustsuite.core.streams import Streams
from robustsuite.models.answers import judgeable
from robustsuite.plugins.loading import call_factory, load_factory, source_digest

BUILD: Final = "build"
_OFFERED: Final = ("samples", "seed", "device")
_TRIED: Final = 32  # samples that a network answers before it is taken for what it should be
_SEEDS: Final = 2**32  # NumPy and scikit-learn take no greater seed
_returned: Final[weakref.WeakSet[nn.Module]] = weakref.WeakSet()  # networks that cannot be copied


@dataclass(frozen=True)
class HiddenNetwork:
    """The `build` of a recipe whose network only the user's function can make.

    Args:
        name: Of the function; tables call the network so.
    """

    name: str

    def __call__(self, classes: int, shape: tuple[int, ...], bounds: tuple[float, float]) -> nn.Module:
        """No network.

        Raises:
            RequestError: Always, with the way out.
        """
        del classes, shape, bounds
        raise RequestError(
            f"expected a recipe that says how its network is built, got one of {self.name}, which hides it; give a "
            f"model beside it, and let that function ask for `build`",
            name=BUILD,
        )


@dataclass(frozen=True, kw_only=True)
class OwnTraining:
    """A function that trains: `fit(samples, seed, device) -> nn.Module`, whatever framework is inside.

    It may ask by name for `samples` (a copy: `x` as networks see it, `y`, `classes`, `bounds`), `seed` (below 2**32),
    `device`, `build` (makes the network that the recipe names, untrained) and its options. Python's, NumPy's and
    torch's generators are seeded around it; what it changes of them, of torch's default dtype and device and of its
    threads is put back. Validation is its own affair: nothing is held out.

    Args:
        factory: `package.module:function` or `path/to/file.py:function`; in Python the function itself.
        options: What else the function is given, by name.
        cache: Whether a training is determined by the function's file, the local modules that it imports, its options,
            the data and the seed. False where it reads something elsewhere: then nothing that comes of it is kept for
            another run. Of a function that is given itself nothing is kept either.

    Raises:
        RequestError: No function.
    """

    factory: str | Callable[..., Any]
    options: dict[str, Any] = field(default_factory=dict)
    cache: bool = True

    def __post_init__(self) -> None:
        checks.settle(self)
        object.__setattr__(self, "options", dict(self.options))
        given: Any = self.factory
        if not isinstance(given, str) and not callable(given):
            remedy = "write path/to/file.py:function, or give the function"
            raise checks.fail("a training function", "factory", given, remedy)

    @property
    def name(self) -> str:
        """What records and errors call it."""
        if isinstance(self.factory, str):
            return self.factory
        return str(getattr(self.factory, "__qualname__", type(self.factory).__qualname__))

    @property
    def is_kept(self) -> bool:
        """Whether equal keys mean the same training, in any process."""
        return self.cache and isinstance(self.factory, str)

    def described(self) -> dict[str, Any]:
        """All that is known of it as JSON values."""
        text = isinstance(self.factory, str)
        file = {} if text else {"source": source_digest(self.factory)}
        return {"is": "OwnTraining", "factory": self.name, "options": plain(self.options), "cache": self.cache, **file}

    def asks_for_build(self) -> bool:
        """Whether it is given what builds the recipe's network.

        Raises:
            RequestError: There is no such function.
        """
        return BUILD in _parameters(self._function())

    def check(self, *, named: bool) -> None:
        """Refuse what the call would refuse, without calling it.

        Args:
            named: Whether the recipe says how its network is built.

        Raises:
            RequestError: There is no such function, or what it asks for is not offered, or it does not take an option.
        """
        function = self._function()
        wanted = _parameters(function).get(BUILD)
        if wanted is not None and wanted.default is wanted.empty and not named:
            remedy = "name one, such as `model: cnn` (in Python Recipe.by(fit, build=...))"
            raise checks.fail(f"a model for {self.name}, which asks for build", "model", None, remedy)
        offered = dict.fromkeys((*_OFFERED, *([BUILD] if named else [])))
        call_factory(self.name, _unrun(function), offered, self.options)

    def train(
        self, samples: Samples, seed: int, device: str, build: Callable[[], nn.Module] | None
    ) -> tuple[nn.Module, dict[str, Any]]:
        """A network that the function trained, in eval mode on `device`, and what the record should say of it.

        Args:
            samples: To train on; the function gets a copy.
            seed: Of the training.
            device: Where to train.
            build: Makes the recipe's network; None where only the function knows one.

        Raises:
            RequestError: It returned no module, or one that it had returned before and that cannot be copied.
            ModelError: What the module answers cannot be judged as logits.
        """
        given = seed % _SEEDS
        streams = Streams(seed).child("training", "own")
        with _settings_put_back(), single_precision(), differentiable(), seeded(streams.key):
            shown = samples.copy()
            shown = replace(shown, x=shown.inputs())  # stored bytes are no raw inputs, and would train another network
            offered = {"samples": shown, "seed": given, "device": device, **({BUILD: build} if build else {})}
            options = copy.deepcopy(self.options) if self.is_kept else self.options  # keys are made of them
            made = call_factory(self.name, self._function(), offered, options)
            network = self._checked(made, samples, device)
        return network, {"trained_by": {"function": self.name, "seed": given, "samples": len(samples)}}

    def _function(self) -> Callable[..., Any]:
        return load_factory(self.factory) if isinstance(self.factory, str) else self.factory

    def _checked(self, made: Any, samples: Samples, device: str) -> nn.Module:
        if not isinstance(made, nn.Module):
            remedy = f"it returned {type(made).__name__}: return the trained network"
            raise checks.fail("a training function that returns a torch.nn.Module", "factory", self.name, remedy)
        network = self._apart(made).to(device).eval()
        model = Served(network)
        x = samples.batch(slice(0, _TRIED), device).x.to(model.dtype)
        try:
            with untouched(network), torch.no_grad():
                judgeable(ask(model, x, strict=True).logits, samples.classes)
        except ModelError as error:
            raise ModelError(f"what {self.name} trained cannot be judged: {error}") from error
        return network

    def _apart(self, made: nn.Module) -> nn.Module:
        """A copy, so that a function that trains one network again and again changes none that it returned before."""
        try:
            return copy.deepcopy(made)
        except Exception as error:  # what another framework holds may refuse
            if made in _returned:
                remedy = f"return a new one each time, for this one cannot be copied ({type(error).__name__}: {error})"
                raise checks.fail("a network that was not returned before", "factory", self.name, remedy) from error
            _returned.add(made)
            return made


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # some builtins have no signature
        return {}


def _unrun(function: Callable[..., Any]) -> Callable[..., None]:
    """What takes the same parameters and does nothing."""

    def unrun(**given: Any) -> None:
        del given

    unrun.__signature__ = inspect.Signature(list(_parameters(function).values()))  # type: ignore[attr-defined]
    return unrun


@contextmanager
def _settings_put_back() -> Iterator[None]:
    """Put back what torch holds for the whole process and a training may set."""
    threads, device = torch.get_num_threads(), torch.get_default_device()
    exact = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        yield
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        if torch.get_default_device() != device:
            torch.set_default_device(device)
        torch.use_deterministic_algorithms(exact[0], warn_only=exact[1])
