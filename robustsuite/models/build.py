"""Names to networks."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, fields
from typing import Any, Final, Self

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import nn

from robustsuite.core import checks
from robustsuite.core.errors import RequestError
from robustsuite.core.isolation import single_precision
from robustsuite.models.checkpoint import load_into
from robustsuite.models.cnn import CNN
from robustsuite.models.dp_cnn import DPCNN
from robustsuite.models.linear import Logistic
from robustsuite.models.mlp import MLP
from robustsuite.models.network import Network
from robustsuite.models.normalise import Normalise
from robustsuite.models.resnet import ResNet18
from robustsuite.models.torchvision_nets import TorchvisionNet, torchvision_names
from robustsuite.models.wide_resnet import WideResNet
from robustsuite.models.wrap import OUTPUTS, Wrapped, constants, interval_of, wrap
from robustsuite.plugins.loading import call_factory, file_digest, load_factory

Body = Callable[[int, tuple[int, ...]], nn.Module]
"""Classes and the shape of one input to the network behind the normalisation."""

NETS: Final[dict[str, type[Any]]] = {
    "logistic": Logistic,
    "mlp": MLP,
    "cnn": CNN,
    "dp-cnn": DPCNN,
    "resnet18": ResNet18,
    "wide-resnet": WideResNet,
}
_OWN_KEYS: Final = ("name", "factory", "checkpoint")
DECLARED: Final = ("mean", "std", "bounds", "output")
"""What a user may declare of a factory's network, as `rs.wrap` takes it."""


@dataclass(frozen=True)
class ModelSpec:
    """Which network: a `Build` of the training recipe. Weights are drawn from the global state, which the caller seeds.

    Args:
        name: One of `NETS` or a torchvision classification network; beside `factory` any name to call it by.
        factory: `package.module:function` or `path/to/file.py:function` of a network from raw inputs to logits. It may
            ask for `classes`, `shape` and `bounds` by name. A module instead of a function is copied.
        checkpoint: Weights to load, safetensors or a `.pt` of a state dict.
        mean: What a factory's network wants subtracted from each channel, as `rs.wrap` takes it.
        std: What each channel is then divided by.
        bounds: Least and greatest raw input value, which must be those of the data.
        output: What a factory's network returns: `logits`, `probabilities` or `binary-logit`.
        options: The network's parameters, as sorted pairs so that equal specs are equal.

    Raises:
        RequestError: An unknown name (with the near matches), options that the network does not have or values that it
            refuses, a checkpoint that is not there.

    Example:
        >>> network = ModelSpec("mlp", options=(("hidden", (32,)),))(10, (1, 8, 8), (0.0, 1.0))
        >>> sum(p.numel() for p in network.parameters())
        2410
    """

    name: str = "cnn"
    factory: str | None = None
    checkpoint: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    bounds: tuple[float, float] | None = None
    output: str | None = None
    options: tuple[tuple[str, Any], ...] = ()
    content: str = field(init=False, default="")
    """Digest of the checkpoint, so that keys change when the weights do."""

    def __post_init__(self) -> None:
        checks.settle(self)
        object.__setattr__(self, "options", tuple(sorted((k, _frozen(v)) for k, v in self.options)))
        if self.factory is not None and self.name == "cnn":
            object.__setattr__(self, "name", self.factory)
        self._check_declared()
        if self.factory is None:
            self._body()
        if self.checkpoint is not None:
            object.__setattr__(self, "content", self.weights_digest())

    @classmethod
    def parse(cls, values: str | Mapping[str, Any]) -> Self:
        """A spec from what a suite file says: `cnn`, or `{name: cnn, dropout: 0.5}`.

        Raises:
            RequestError: As for the class, and where there is neither a name nor a factory.
        """
        given: dict[str, Any] = {"name": values} if isinstance(values, str) else {**values}
        known = {key: given.pop(key) for key in _OWN_KEYS if given.get(key) is not None}
        declared = {key: _read(key, given.pop(key)) for key in DECLARED if given.get(key) is not None}
        if "name" not in known and "factory" not in known:
            raise checks.fail("a name or a factory", "model", values, "write name: cnn")
        for key, value in known.items():
            if not isinstance(value, str):
                raise checks.fail("text", key, value, f"write {key} as text")
        options = tuple((str(k), v) for k, v in given.items() if k not in (*_OWN_KEYS, *DECLARED))
        return cls(**known, **declared, options=options)

    @property
    def label(self) -> str:
        """What tables call the network."""
        return self.name

    def weights_digest(self) -> str:
        """24 hexadecimal digits over the checkpoint; empty without one."""
        try:
            return "" if self.checkpoint is None else file_digest(self.checkpoint)
        except RequestError as error:
            raise RequestError(str(error), name="checkpoint") from error

    def __call__(self, classes: int, shape: tuple[int, ...], bounds: tuple[float, float]) -> nn.Module:
        """The network for so many classes and inputs of this shape, in training mode, on the CPU.

        A named network is a `Network`, whose `normalise` is still the identity unless a checkpoint has set it. What a
        factory returns is used as it is, or wrapped by what is declared, after its checkpoint was loaded.

        Raises:
            RequestError: Inputs that the network cannot take, a factory that fails to give a module, a checkpoint that
                does not fit.
            UntrustedFileError: A checkpoint that cannot be trusted; nothing in it was run.
        """
        if self.factory is None:
            with single_precision():
                network: nn.Module = Network(Normalise(shape), self._body()(classes, shape))
            if len(shape) == 3:
                # Channels-last convolutions take about a third less time on CPU, and change no weight.
                network = network.to(memory_format=torch.channels_last)
        else:
            network = self._made(self.factory, classes, shape, bounds)
        if self.checkpoint is not None:
            load_into(network, self.checkpoint)
            if isinstance(network, Network):
                network.normalise.loaded = True
        return self._wrapped(network, bounds)

    def _check_declared(self) -> None:
        declared = {key: getattr(self, key) for key in DECLARED if getattr(self, key) is not None}
        if declared and self.factory is None:
            key = next(iter(declared))
            raise checks.fail(f"a factory beside {key}", key, declared[key], "networks by name normalise by themselves")
        for key in ("mean", "std"):
            if key in declared:
                object.__setattr__(self, key, constants(key, declared[key]))
        if self.bounds is not None:
            object.__setattr__(self, "bounds", interval_of(self.bounds))
        if self.output is not None:
            checks.one_of("output", self.output, OUTPUTS)

    def _wrapped(self, network: nn.Module, bounds: tuple[float, float]) -> nn.Module:
        if all(getattr(self, key) is None for key in DECLARED):
            return network
        if isinstance(network, Wrapped):
            key = next(key for key in DECLARED if getattr(self, key) is not None)
            remedy = f"{self.factory} returns rs.wrap(...) already: leave it out, or let the factory return the network"
            raise checks.fail("a network that is not wrapped yet", key, getattr(self, key), remedy)
        if self.bounds is not None and self.bounds != bounds:
            remedy = f"the data declare {bounds}: declare the same of both, and let mean and std take them to the rest"
            raise checks.fail("a model with the bounds of its data", "bounds", self.bounds, remedy)
        return wrap(network, mean=self.mean, std=self.std, bounds=bounds, output=self.output or "logits")

    def _body(self) -> Body:
        if self.name in NETS:
            return _configured(self.name, NETS[self.name], dict(self.options))
        known = torchvision_names()
        if self.name in known:
            return TorchvisionNet(self.name, dict(self.options))
        near = difflib.get_close_matches(self.name, {**NETS, **dict.fromkeys(known)}, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"choose {', '.join(NETS)} or a torchvision network"
        raise checks.fail("a known network", "name", self.name, hint)

    def _made(self, target: str, classes: int, shape: tuple[int, ...], bounds: tuple[float, float]) -> nn.Module:
        factory = load_factory(target)
        offered = {"classes": classes, "shape": shape, "bounds": bounds}
        for key in _named(factory) & set(DECLARED) - set(offered):
            if getattr(self, key) is not None:
                remedy = f"{target} takes {key} too: rename its parameter, for here it declares the network"
                raise checks.fail(f"a factory without {key}", key, getattr(self, key), remedy)
        made = deepcopy(factory) if isinstance(factory, nn.Module) else None
        made = call_factory(target, factory, offered, dict(self.options)) if made is None else made
        if not isinstance(made, nn.Module):
            kind = f"it returned {type(made).__name__}: return the network"
            raise checks.fail("a factory of a torch.nn.Module", "factory", target, kind)
        return made


def _named(factory: Callable[..., Any]) -> set[str]:
    try:
        return set(inspect.signature(factory).parameters)
    except (TypeError, ValueError):  # some builtins have no signature
        return set()


def _read(key: str, value: Any) -> Any:
    """A declaration as a suite file writes it: one number or several, each of which may be a quotient."""
    if key == "output":
        return value
    if isinstance(value, (list, tuple)):
        return tuple(checks.fraction(key, item) for item in value)
    return (checks.fraction(key, value),)


def _frozen(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(item) for item in value)
    return value


def _configured(name: str, cls: type[Any], options: dict[str, Any]) -> Body:
    """The network with these options; wrong names and types are request errors."""
    hints = {f.name: f.type for f in fields(cls)}
    types: dict[str, Any] = {"int": int, "float": float, "str": str, "tuple[int, ...]": tuple[int, ...]}
    for key, value in options.items():
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"{name} takes {', '.join(hints) or 'no options'}"
            raise checks.fail(f"an option of {name}", key, value, hint)
        try:
            TypeAdapter(types[str(hints[key])], config=ConfigDict(strict=True)).validate_python(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            wanted = f"{key} of type {hints[key]}"
            raise RequestError(f"expected {wanted}, got {key}={value!r}; {reason}", name=key) from error
    body: Body = cls(**options)
    return body
