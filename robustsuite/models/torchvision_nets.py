"""Any classification network of torchvision, untrained."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from robustsuite.core import checks
from robustsuite.core.errors import RequestError
from robustsuite.models.network import image_shape


@cache
def torchvision_names() -> tuple[str, ...]:
    """Names of torchvision's classification networks."""
    from torchvision import models

    return tuple(models.list_models(module=models))


class _Coloured(nn.Module):
    """Grey images repeated over the three channels that torchvision's networks take."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x.expand(-1, 3, -1, -1))
        return logits


@dataclass(frozen=True)
class TorchvisionNet:
    """A torchvision network by name, with random weights and no in-place activation.

    Args:
        name: One of `torchvision_names()`.
        options: Further arguments of torchvision's function, such as `image_size` of a vision transformer.
    """

    name: str
    options: Mapping[str, Any]

    def __call__(self, classes: int, shape: tuple[int, ...]) -> nn.Module:
        """The body: normalised images to logits; images must be large enough for the network's strides.

        Raises:
            RequestError: Options that torchvision refuses, or images that the network cannot take.
        """
        from torchvision import models

        channels, _, _ = image_shape(self.name, shape, 1)
        if channels not in (1, 3):
            raise checks.fail(f"1 or 3 channels for {self.name}", "shape", shape, "choose cnn or resnet18")
        weights = self.options.get("weights")
        if weights is not None:  # which torchvision would download, unasked
            remedy = "download them yourself, and give the file as checkpoint"
            raise checks.fail(f"no weights among the options of {self.name}", "weights", weights, remedy)
        settings = {"weights": None, "num_classes": classes, **self._heads(), **self.options}
        try:
            net: nn.Module = models.get_model(self.name, **settings)
        except (TypeError, ValueError) as error:
            raise checks.fail(f"options of {self.name}", "options", dict(self.options), str(error)) from error
        for part in net.modules():
            if hasattr(part, "inplace"):
                vars(part)["inplace"] = False
        body = net if channels == 3 else _Coloured(net)
        self._try(body, shape)
        return body

    def _heads(self) -> dict[str, bool]:
        """No auxiliary heads: their networks return tuples in training mode."""
        from torchvision import models

        parameters = inspect.signature(models.get_model_builder(self.name)).parameters
        heads = {"aux_logits": False} if self.name in ("googlenet", "inception_v3") else {}
        return heads | ({"init_weights": True} if "init_weights" in parameters else {})

    def _try(self, body: nn.Module, shape: tuple[int, ...]) -> None:
        body.eval()
        try:
            with torch.no_grad():
                body(torch.zeros(1, *shape))
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise RequestError(
                f"expected images that {self.name} can take, got shape={shape}; {reason}: enlarge them, or choose cnn "
                f"or resnet18"
            ) from error
        finally:
            body.train()
