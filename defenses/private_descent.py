"""A running DP-SGD: Opacus clips, adds noise and accounts; sampling rate and batch size come from the configuration."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from robustsuite.core import RequestError, RobustsuiteError, Samples, Streams, checks
from robustsuite.core.isolation import differentiable, out_of_memory, seeded, untouched
from robustsuite.defenses.privacy_accounting import described, noise_for, spent
from robustsuite.defenses.private_checks import Trials, copied, frozen_parts
from robustsuite.training import Objective, Training, Updater
from robustsuite.training.descent import make_optimizer
from robustsuite.training.schedules import RateSchedule

if TYPE_CHECKING:
    from lightning_fabric import Fabric

GRADIENT_MODES: Final = ("hooks", "functorch", "ghost")


class PrivacyRules(Protocol):
    """What a private descent goes by: the fields of `DPSGD`, which documents them."""

    @property
    def epsilon(self) -> float | None: ...  # noqa: D102
    @property
    def noise_multiplier(self) -> float | None: ...  # noqa: D102
    @property
    def delta(self) -> float: ...  # noqa: D102
    @property
    def max_grad_norm(self) -> float: ...  # noqa: D102
    @property
    def accountant(self) -> str: ...  # noqa: D102
    @property
    def grad_sample_mode(self) -> str: ...  # noqa: D102
    @property
    def max_physical_batch(self) -> int | None: ...  # noqa: D102


def admitted(network: nn.Module) -> nn.Module:
    """The network mended for per-example gradients, in training mode.

    Batch normalisation (also without weights, which Opacus passes over) becomes group normalisation, over all channels
    at once for vectors, where groups of one channel would erase the features. In-place activations are switched off.

    Raises:
        RequestError: A layer that mixes examples or that Opacus cannot mend.
    """
    from opacus.validators import ModuleValidator

    network = _without_batch_norm(network).train()
    for part in network.modules():
        if getattr(part, "inplace", False):
            setattr(part, "inplace", False)  # noqa: B010  # modules declare no such attribute to the type checker
    if ModuleValidator.validate(network):
        network = ModuleValidator.fix(network)
    problems = ModuleValidator.validate(network)
    if problems:
        raise RequestError(f"expected layers that DP-SGD can train, got {problems[0]}; replace that layer")
    return network


def _without_batch_norm(module: nn.Module) -> nn.Module:
    if isinstance(module, _BatchNorm):
        channels = module.num_features
        groups = 1 if isinstance(module, nn.BatchNorm1d) else math.gcd(32, channels)
        return nn.GroupNorm(groups, channels, affine=module.affine)
    for name, child in list(module.named_children()):
        replaced = _without_batch_norm(child)
        if replaced is not child:
            setattr(module, name, replaced)
    return module


def refuse_sizes(rules: PrivacyRules, training: Training, n: int) -> None:
    """Refuse a batch or a delta that does not suit so many private samples.

    Raises:
        RequestError: delta is not below 1 / n, or the batch is larger than the data.
    """
    if training.batch_size > n:
        expected = f"a batch_size of at most the {n} private training samples"
        raise checks.fail(expected, "batch_size", training.batch_size, "lower it, or raise dataset.train")
    if rules.delta >= 1 / n:
        expected = f"a delta below 1 / {n} = {1 / n:.6g}, one over the private training samples"
        raise checks.fail(expected, "delta", rules.delta, "lower it")


def refuse_uncomputed(rules: PrivacyRules, rate: float, steps: int) -> None:
    """Refuse noise whose epsilon cannot be computed at the end.

    Raises:
        RequestError: What the accountant does not do.
    """
    if rules.noise_multiplier is not None and rules.accountant != "rdp":
        spent([(rules.noise_multiplier, rate, steps)], rules.delta, rules.accountant)


def private_rate(training: Training, n: int) -> tuple[float, int]:
    """The rate at which each of n examples is sampled in a step, and how many steps make an epoch."""
    return training.batch_size / n, max(1, round(n / training.batch_size))


def refuse_unfit(network: nn.Module, shape: tuple[int, ...]) -> None:
    """Send zeros through the network, and refuse what per-example gradients would stumble over; no data are looked at.

    Raises:
        RequestError: An in-place operation on the output of a layer; or a group normalisation whose groups hold one
            value each, so that it answers its bias whatever the input.
    """
    erased: list[str] = []

    def look(name: str, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(layer, nn.GroupNorm) and inputs[0][0].numel() == layer.num_groups:
            erased.append(name)

    layers = [(name, part) for name, part in network.named_modules() if [*part.parameters(recurse=False)]]
    handles = [part.register_forward_pre_hook(partial(look, name)) for name, part in layers]
    handles += [part.register_full_backward_hook(lambda *_: None) for _, part in layers]
    weight = next(network.parameters())
    try:
        with untouched(network), differentiable():
            network(torch.zeros(2, *shape, dtype=weight.dtype, device=weight.device, requires_grad=True))
    except RuntimeError as error:
        if "modified inplace" not in str(error):
            raise
        raise RequestError(
            f"expected a network without in-place operations, got {type(network).__name__}, which overwrites the "
            f"output of a layer; write `x = x + y` for `x += y` and relu(x) without inplace, or choose another model"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    if erased:
        raise RequestError(
            f"expected more than one value per group, got {erased[0]}={network.get_submodule(erased[0])} on inputs "
            f"with one value per group, which erases the features; use fewer groups or LayerNorm"
        )


def _contiguous_inputs(network: nn.Module) -> list[torch.utils.hooks.RemovableHandle]:
    """Give every layer with weights contiguous inputs.

    Opacus 1.6 unfolds the inputs of a convolution as if they were contiguous. On channels-last inputs, which a mere
    `x - mean` makes of images with one channel, per-example gradients and with `ghost` the norms that are clipped by
    come out wrong.
    """

    def mend(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(part.contiguous() if isinstance(part, Tensor) else part for part in inputs)

    layers = [part for part in network.modules() if [*part.parameters(recurse=False)]]
    return [layer.register_forward_pre_hook(mend) for layer in layers]


class PrivateUpdater(Updater):
    """A running private descent; see `DPSGD` for what it guarantees."""

    def __init__(
        self,
        rules: PrivacyRules,
        network: nn.Module,
        samples: Samples,
        training: Training,
        streams: Streams,
        fabric: Fabric,
        objective: Objective,
    ) -> None:
        self._rules, self._n, self._streams, self._fabric = rules, len(samples), streams, fabric
        refuse_sizes(rules, training, self._n)
        self._expected = training.batch_size
        self.sample_rate, self._steps_per_epoch = private_rate(training, self._n)
        planned = training.epochs * self._steps_per_epoch
        refuse_unfit(network, samples.shape)
        self._trials = Trials(samples, training, objective)
        self._trials.refuse(network)
        self._plain, self._before, self._reasons = network, frozen_parts(network), list[str]()
        self._mended = _contiguous_inputs(network)
        self.noise_multiplier = self._noise(planned)
        self._noise_source = torch.Generator(fabric.device).manual_seed(streams.child("noise").key)
        self._try(network, training)
        self._module, self._optimizer, self._accountant = self._make_private(network, training)
        warmup = training.warmup * self._steps_per_epoch
        self._schedule = RateSchedule(self._optimizer.original_optimizer, training, planned, warmup)
        self.network = self._module
        self._steps, self._drawn, self._last = 0, 0, True

    def _noise(self, steps: int) -> float:
        rules = self._rules
        if rules.noise_multiplier is not None:
            refuse_uncomputed(rules, self.sample_rate, steps)
            return float(rules.noise_multiplier)
        assert rules.epsilon is not None  # the rules set one of the two
        return noise_for(rules.epsilon, rules.delta, self.sample_rate, steps, rules.accountant)

    def _make_private(self, network: nn.Module, training: Training) -> tuple[Any, Any, Any]:
        """Opacus's module, optimizer and accountant, with q = B / N where Opacus takes 1 / (batches per epoch)."""
        from opacus import PrivacyEngine
        from torch.utils.data import DataLoader

        with warnings.catch_warnings():  # that the generator is not cryptographically secure stands in the facts
            warnings.simplefilter("ignore")
            engine = PrivacyEngine(accountant=self._rules.accountant)
            try:
                made = engine.make_private(
                    module=network.train(),
                    optimizer=make_optimizer(network, training),
                    data_loader=DataLoader(range(self._n), batch_size=self._expected),  # type: ignore[arg-type]
                    noise_multiplier=self.noise_multiplier,
                    max_grad_norm=self._rules.max_grad_norm,
                    poisson_sampling=False,  # `batches` samples, at the rate that is accounted for
                    noise_generator=self._noise_source,
                    grad_sample_mode=self._rules.grad_sample_mode,
                )
            except Exception as error:  # Opacus raises whatever a layer makes it meet
                raise self._unfit(error) from error
        module, optimizer = made[0], made[1]
        optimizer.expected_batch_size = self._expected
        optimizer.attach_step_hook(engine.accountant.get_optimizer_hook_fn(sample_rate=self.sample_rate))
        return module, optimizer, engine.accountant

    def _try(self, network: nn.Module, training: Training) -> None:
        """Send a few random examples through a copy as a private step does, to refuse layers before the training."""
        module, optimizer, _ = self._make_private(copied(network), training)
        batch = self._trials.batch(network, 0, 3)
        try:
            with seeded(0), differentiable(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                losses = nn.functional.cross_entropy(module(batch.x), batch.y, reduction="none")
                self._clipped(module, optimizer, losses)
        except Exception as error:  # Opacus raises whatever a layer makes it meet
            if out_of_memory(error):
                raise
            raise self._unfit(error) from error

    def batches(self, epoch: int) -> Iterator[Tensor]:
        """Poisson batches: each example is in each batch with probability B / N, whoever else is; some may be empty.

        A batch above `max_physical_batch` comes in parts that make one step together.
        """
        from opacus.utils.uniform_sampler import UniformWithReplacementSampler

        sampler = UniformWithReplacementSampler(
            num_samples=self._n,
            sample_rate=self.sample_rate,
            steps=self._steps_per_epoch,
            generator=self._streams.child("poisson", epoch).generator(),
        )
        for drawn in sampler:
            index = torch.tensor(drawn, dtype=torch.int64)
            parts = torch.split(index, self._rules.max_physical_batch or max(1, len(index)))
            for i, part in enumerate(parts):
                self._drawn, self._last = len(part), i == len(parts) - 1
                yield part

    def step(self, losses: Tensor) -> None:
        """Clip and sum the gradients of these losses; after a batch's last part add noise, account and move.

        Raises:
            RobustsuiteError: Not exactly one loss and one pass for each example of the batch.
        """
        if len(losses) != self._drawn:
            raise _more_than_once(f"{len(losses)} losses for {self._drawn} examples")
        if self._drawn == 0:
            self._contribute_nothing()
        else:
            with warnings.catch_warnings():  # torch remarks that the inputs of the first layer need no gradient
                warnings.filterwarnings("ignore", message="Full backward hook is firing")
                try:
                    self._backward(losses)
                except RobustsuiteError:
                    raise
                except Exception as error:  # Opacus raises whatever a layer makes it meet
                    if out_of_memory(error):
                        raise
                    raise self._unfit(error) from error
        self.moved = self._last
        self._optimizer.signal_skip_step(do_skip=not self._last)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if self._last:
            self._steps += 1
            self._schedule.step()

    def _backward(self, losses: Tensor) -> None:
        ghost = self._rules.grad_sample_mode == "ghost"
        self._clipped(self._module, self._optimizer, losses)
        for parameter in self._optimizer.params:
            found = getattr(parameter, "_norm_sample" if ghost else "grad_sample", None)
            if not isinstance(found, Tensor) or len(found) != self._drawn:
                seen = len(found) if isinstance(found, Tensor) else 0
                raise _more_than_once(f"{seen} gradients for {self._drawn} examples")

    def _clipped(self, module: Any, optimizer: Any, losses: Tensor) -> None:
        if self._rules.grad_sample_mode == "ghost":
            from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping

            DPTensorFastGradientClipping(module, optimizer, losses, "mean").backward()
        else:
            self._fabric.backward(losses.mean())

    def _unfit(self, error: Exception) -> RequestError:
        mode = self._rules.grad_sample_mode
        others = " or ".join(other for other in GRADIENT_MODES if other != mode)
        reason = " ".join(str(error).split())
        return RequestError(
            f"expected layers that DP-SGD can train with grad_sample_mode={mode!r}, got {type(error).__name__}: "
            f"{reason}; choose grad_sample_mode {others}, or replace these layers"
        )

    def _contribute_nothing(self) -> None:
        for parameter in self._optimizer.params:
            if self._rules.grad_sample_mode == "ghost":
                parameter.grad = torch.zeros_like(parameter)
            else:
                parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))

    def state(self) -> dict[str, Any]:
        """States of optimizer, schedule, accountant and noise."""
        return {
            "optimizer": self._optimizer.original_optimizer.state_dict(),
            "schedule": {k: v for k, v in self._schedule.state_dict().items() if k != "lr_lambdas"},
            "history": [list(stretch) for stretch in self._accountant.history],
            "noise": self._noise_source.get_state(),
            "steps": self._steps,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state()`."""
        self._optimizer.original_optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict({**self._schedule.state_dict(), **state["schedule"]})
        self._accountant.history = [(sigma, rate, steps) for sigma, rate, steps in state["history"]]
        self._noise_source.set_state(state["noise"])
        self._steps = state["steps"]

    def facts(self) -> dict[str, Any]:
        """Epsilon, delta and everything that they rest on.

        Raises:
            RobustsuiteError: The accountant was not told of exactly the steps, rate and noise that were used.
        """
        told = [tuple(stretch) for stretch in self._accountant.history]
        done = [(self.noise_multiplier, self._expected / self._n, self._steps)] if self._steps else []
        if told != done:
            raise RobustsuiteError(
                f"expected the accountant to know (noise multiplier, sampling rate, steps)={done}, got {told}; its "
                f"epsilon would not be valid"
            )
        return {
            "epsilon": spent(done, self._rules.delta, self._rules.accountant),
            "delta": self._rules.delta,
            "noise_multiplier": self.noise_multiplier,
            "max_grad_norm": self._rules.max_grad_norm,
            "sample_rate": self.sample_rate,
            "expected_batch_size": self._expected,
            "steps": self._steps,
            "private_samples": self._n,
            "sampling": "poisson",
            "privacy_unit": "example",
            "neighbouring": "add/remove",
            "noise": "seeded generator, not cryptographically secure",
            "epsilon_reasons": list(self._reasons),
            **described(self._rules.accountant),
        }

    def finish(self) -> None:
        """Take all hooks and attributes off: the network is plain again. Then look for what learned meanwhile."""
        self._module.to_standard_module()
        for handle in self._mended:
            handle.remove()
        for parameter in self._optimizer.params:
            del parameter.summed_grad
        for part in self._plain.modules():
            vars(part).pop("activations", None)  # Opacus's
        self._reasons = list(self._trials.problems(self._plain, self._before))


def _more_than_once(found: str) -> RobustsuiteError:
    return RobustsuiteError(
        f"expected one loss and one gradient for each example of a private step, got {found}; show each view in a pass "
        f"of its own, average each example's losses, and freeze weights that no pass uses"
    )
