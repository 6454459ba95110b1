"""How the passes of one network are run: on which copy, in which precision, in batches of what size."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from typing import Any, Final, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from robustsuite.access.folding import Folded, fold
from robustsuite.core.door import Door
from robustsuite.core.errors import ModelError
from robustsuite.core.isolation import differentiable, out_of_memory, seeded
from robustsuite.core.processor import has_units

PRECISIONS: Final = ("reference", "fast")
T = TypeVar("T")
TRIAL: Final = 8  # samples on which a copy is compared with its original
_CACHE: Final = {"cpu": 96 * 2**20, "cuda": 8 * 2**30}  # bytes of activations that one pass may take
_FEWEST, _MOST = 16, {"cpu": 128, "cuda": 1024}
_TIMED: Final = 32  # samples of a pass whose time is taken
_PAYS: Final = 0.8  # of the float32 time, that bfloat16 must stay below
_PASSES: Final = 2  # in each precision, of which the first may have to set things up
_HOPELESS: Final = 4  # times what pays; no setting up explains a pass that takes longer
_EXACT_FROM: Final = 0.9  # of an attack's steps; from there on the fast setting is the reference setting
_ULPS: Final = 2**14  # rounding steps of the greatest logit within which a copy's verdict is not taken
_COARSE: Final = 2.0**-5  # the same share of it where products have 11 bits


class FastPasses:
    """How the passes of one network are run, for as long as one game lasts.

    They are run on an evaluation copy: BatchNorm folded into the layer before it, channels-last convolutions.
    A copy that answers otherwise than its original on a trial, or cannot be made, is dropped, and a note says so. The
    copy's verdicts are taken only where rounding cannot have decided them; `unsure` tells which the original must give.

    In the `fast` setting an attack that says how far it is takes its gradients in bfloat16, where that is measured to
    pay, until nine tenths of its steps are done; the rest, and every success, is computed in the model's own precision.

    Args:
        network: What is differentiated through, or its door; in eval mode and held still while the engine lives.
        like: Some inputs `(N, …)` of the game, N >= 1.
        precision: `reference` or `fast`.
        most: Most samples in one pass; None to leave it to the engine, which measures a sample's activations and takes
            as many as fit in fast memory.
        notes: Where to write down, as keys, what a record should say.
    """

    def __init__(
        self,
        network: nn.Module,
        like: Tensor,
        *,
        precision: str = "reference",
        most: int | None = None,
        notes: dict[str, None] | None = None,
    ) -> None:
        self.network = network if isinstance(network, Door) else Door(network)
        self.notes: dict[str, None] = {} if notes is None else notes
        self.smooth = True
        self.by_backward = False  # whether gradients come by `.backward()` alone, as through re-entrant checkpoints
        self._kind = "cpu" if like.device.type == "cpu" else "cuda"
        # By how much a copy may answer otherwise, relative to the greatest logit; on CUDA, float32 may mean TF32.
        dtype = self.network.dtype
        coarse = self._kind == "cuda" and dtype == torch.float32
        self._rounding = (
            _COARSE if coarse else _ULPS * torch.finfo(dtype if dtype.is_floating_point else like.dtype).eps
        )
        with differentiable(), seeded(0):
            trial = like[:TRIAL].detach().clone()
            self.copy = self._copied(trial)
            self.batch = self._batch(trial, most)
            self.fast = precision == "fast" and self._pays(trial)

    @property
    def copied(self) -> bool:
        """Whether gradients are taken on a copy, whose last bits are its own."""
        return self.copy is not self.network

    @property
    def full(self) -> int:
        """Samples from which on a pass costs in proportion; fewer leave the hardware idle."""
        return min(self.batch, _FEWEST if self._kind == "cpu" else _MOST["cuda"] // 8)

    def leaf(self, x: Tensor, gradient: bool = True) -> Tensor:
        """These inputs, to be differentiated by; the network gets a copy from its door."""
        # What a caller makes in inference mode cannot be saved for a backward pass.
        own = x.clone() if x.is_inference() else x
        return own.detach().requires_grad_(gradient)

    def autocast(self, device: str, done: float | None) -> Any:
        """The context of a pass of an attack that is so far done; plain where it does not say."""
        if not self.lowers(done):
            return nullcontext()
        return torch.autocast(device, torch.bfloat16)

    def lowers(self, done: float | None) -> bool:
        """Whether a pass at this stage is computed in bfloat16."""
        return self.fast and done is not None and done < _EXACT_FROM

    def unsure(self, logits: Tensor, margin: Tensor, lowered: bool) -> Tensor:
        """Which of the copy's verdicts the original must give; bool `(n,)`.

        Args:
            logits: Answers `(n, classes)`.
            margin: By how much the goal is reached `(n,)`, negative where it is not.
            lowered: Whether the pass ran in bfloat16.
        """
        if lowered:
            return margin >= 0
        if not self.copied:
            return torch.zeros_like(margin, dtype=torch.bool)
        slack = self._rounding * logits.abs().amax(1).clamp_min(1e-3)
        near = ~(margin.abs() > slack)  # so that NaN is near
        return near if self.smooth else near | (margin >= 0)

    def answers(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `(n, classes)` without a graph, and which were asked for twice `(n,)`.

        The original answers again where rounding in the copy may have decided the label, and alone where the copy may
        blow rounding up.
        """
        exact = not self.copied or not self.smooth

        def run(piece: slice) -> tuple[Tensor, Tensor]:
            if exact:
                return self.network(x[piece]), torch.zeros(len(x[piece]), dtype=torch.bool, device=x.device)
            logits: Tensor = self.copy(self.leaf(x[piece], gradient=False))
            best = logits.topk(2, dim=1).values
            again = self.unsure(logits, best[:, 0] - best[:, 1], lowered=False)
            if again.any():
                logits[again] = self.network(x[piece][again])
            return logits, again

        with torch.no_grad():
            logits, again = zip(*self.pieces(len(x), run), strict=True)
        return torch.cat(logits), torch.cat(again)

    def pieces(self, n: int, run: Callable[[slice], T]) -> Iterable[T]:
        """Run a pass piece by piece; where memory runs out, pieces are halved from then on."""
        start = 0
        if n == 0:
            yield run(slice(0, 0))
        while start < n:
            piece = slice(start, min(n, start + self.batch))
            try:
                result = run(piece)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or piece.stop - start < 2:
                    raise
            else:
                yield result
                start = piece.stop
                continue
            # Outside of the handler, whose traceback would keep the activations alive.
            self.batch = (piece.stop - start) // 2
            self.notes["memory ran out, and batches were halved"] = None
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _copied(self, trial: Tensor) -> Door:
        inner = self.network.network
        maps = [part for part in inner.modules() if isinstance(part, nn.Conv2d)]
        layout = torch.contiguous_format
        if trial.dim() == 4 and maps and self._kind == "cpu":
            layout = torch.channels_last
        laid_out = all(part.weight.is_contiguous(memory_format=layout) for part in maps)
        plain = laid_out and not any(isinstance(part, _BatchNorm) for part in inner.modules())
        if plain and layout == torch.contiguous_format:
            return self.network
        try:
            folded = Folded(inner, 0, smooth=True) if plain else fold(inner)
            moved = folded.network if plain or trial.dim() != 4 else folded.network.to(memory_format=layout)
            copy = self.network.beside(moved, layout)
            # The same weights in another layout are told by one pass.
            if not self._alike(copy, (trial,) if plain else (trial, trial.flip(-1), (trial + trial.flip(0)) / 2)):
                raise _Differs
        except Exception as error:  # whatever a stranger's network raises when it is copied or traced
            if not plain:
                why = (
                    "it answers differently" if isinstance(error, _Differs) else type(error.__cause__ or error).__name__
                )
                self.notes[f"the network was run as it is, without folding ({why})"] = None
            return self.network
        self.smooth = folded.smooth
        return copy

    def _alike(self, network: Door, trials: tuple[Tensor, ...]) -> bool:
        """Whether the copy answers as the original does, well within what `unsure` allows, and neither moves."""
        state = [(b, b.clone()) for b in self.network.buffers()]
        for x in trials:
            with torch.no_grad():
                with seeded(1):
                    wanted = self.network(x)
                with seeded(1):
                    got = network(x)
            slack = self._rounding / 8 * wanted.abs().amax(1, keepdim=True).clamp_min(1e-3)
            if got.shape != wanted.shape or not bool(((got - wanted).abs() <= slack).all()):
                return False
        return all(torch.equal(buffer, before) for buffer, before in state)

    def _batch(self, trial: Tensor, most: int | None) -> int:
        """As many samples as fit in fast memory with their activations; a power of two, so the same in every run."""
        held = [0]

        def pack(saved: Tensor) -> Tensor:
            held[0] += saved.numel() * saved.element_size()
            return saved

        weights = sum(p.numel() * p.element_size() for p in self.copy.parameters())
        leaf = self.leaf(trial)
        try:
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
                logits = self.copy(leaf)
        except ModelError:  # what is computed by torch.func bears no such hooks
            logits, held[0] = self.copy(leaf), _CACHE[self._kind] * len(trial)
        if logits.requires_grad:
            try:
                torch.autograd.grad(logits.sum(), leaf, allow_unused=True)
            except Exception as error:  # the backward pass is a stranger's code too
                if out_of_memory(error):
                    raise
                self.by_backward = True
        size = max(1, (held[0] - weights) // len(trial), trial[0].numel() * trial.element_size())
        batch = _FEWEST
        while 2 * batch * size <= _CACHE[self._kind] and 2 * batch <= _MOST[self._kind]:
            batch *= 2
        return batch if most is None else min(batch, most)

    def _pays(self, trial: Tensor) -> bool:
        """Whether bfloat16 passes are clearly shorter here: the device is asked, and where it has units, measured."""
        if self.network.dtype != torch.float32:
            self.notes[f"fast is for float32; {str(self.network.dtype).removeprefix('torch.')} was kept"] = None
            return False
        if not has_units(torch.bfloat16, str(trial.device)):
            self.notes["fast was of no use here: the device has no units for bfloat16"] = None
            return False
        self.fast = True
        if not self._shorter(trial.repeat(_TIMED // len(trial) + 1, *([1] * (trial.dim() - 1)))[:_TIMED]):
            self.notes["fast was of no use here: bfloat16 is no shorter than float32"] = None
            return False
        return True

    def _shorter(self, trial: Tensor) -> bool:
        """Whether the best of a few passes in bfloat16 stays below the share that pays; far above it one is enough."""
        limit = _PAYS * min(self._seconds(trial, None) for _ in range(_PASSES))
        for _ in range(_PASSES):
            taken = self._seconds(trial, 0.0)
            if taken <= limit or taken > _HOPELESS * limit:
                return taken <= limit
        return False

    def _seconds(self, trial: Tensor, done: float | None) -> float:
        start = time.perf_counter()
        leaf = self.leaf(trial)
        with self.autocast(trial.device.type, done):
            logits = self.copy(leaf)
        if logits.requires_grad:
            with suppress(Exception):  # as in `_batch`; then only the forward pass is timed
                torch.autograd.grad(logits.float().square().sum(), leaf, allow_unused=True)
        if trial.is_cuda:
            torch.cuda.synchronize(trial.device)
        return time.perf_counter() - start


class _Differs(Exception):  # noqa: N818  # caught where it is raised
    """A copy answers otherwise than its original."""
