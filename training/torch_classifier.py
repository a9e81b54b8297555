"""A torch network behind the Classifier protocol: training and serving attack with the same functions."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from dra_serve.attacks.losses import LOSS_FUNCTIONS
from dra_serve.checks import check_images, check_labels
from dra_serve.classifier import Loss
from dra_serve.errors import BadRequest
from training.fast_path import FastPath


class TorchClassifier:
    """A network on [0, 1] images, in whatever mode (train or eval) the caller left it.

    Gradients are taken at the input alone; the parameters' `.grad` and every flag stay as they were.
    """

    has_gradient = True

    def __init__(
        self,
        network: nn.Module,
        classes: tuple[str, ...],
        input_shape: tuple[int, int, int],
        *,
        path: FastPath | None = None,
    ) -> None:
        self.network, self.classes, self.input_shape = network, classes, input_shape
        self.path = path or FastPath()

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """Return logits (N, K) float32 of x (N, C, H, W) in [0, 1]. Raises BadRequest for anything else."""
        check_images(x, self.input_shape)
        if not len(x):  # torch folds no empty batch, so a space-to-depth stem would fail
            return x.new_zeros((0, len(self.classes)))
        with self._precision():
            return self.network(x).float()

    def loss_and_grad(
        self, x: Tensor, y: Tensor, loss: Loss = "ce", target: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (N, K), loss (N,) and its gradient at x. Raises BadRequest naming the bad input."""
        check_images(x, self.input_shape)
        y = check_labels(y, len(x), len(self.classes), like=x)
        if target is not None:
            target = check_labels(target, len(x), len(self.classes), like=x, field="target")
        elif loss == "dlr_targeted":
            raise BadRequest("target", given=None, allowed="a class for each image, with loss dlr_targeted")
        if not len(x):
            return self.logits(x), x.new_zeros((0,)), torch.zeros_like(x)
        x = x.detach().requires_grad_(True)
        with torch.enable_grad(), self._precision():
            logits = self.network(x).float()
        answer = logits.detach()
        value, grad_logits = LOSS_FUNCTIONS[loss](answer, y, target)
        (grad,) = torch.autograd.grad(logits, x, grad_logits)
        return answer, value, grad

    def _precision(self) -> AbstractContextManager[object]:
        """Return the path's autocast, or nothing where it would change nothing: it costs 1 % of a step."""
        idle = not self.path.bf16 and not torch.is_autocast_enabled("cpu")
        return nullcontext() if idle else self.path.autocast()


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Put the network in eval mode without parameter gradients, and everything back afterwards.

    An attack then computes the input's gradient alone: 2K + 3 passes a step of PGD-K instead of 3K + 3.
    """
    modes = [(module, module.training) for module in network.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    network.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
