"""A torch network behind the Classifier protocol: training and serving attack with the same functions."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, nll_loss

from dra_serve.attacks.losses import LOSS_FUNCTIONS
from dra_serve.checked import Checked
from dra_serve.classifier import Loss
from training.fast_path import FastPath

_BATCH = 8  # smaller ones gain nothing from channels_last, or lose


class TorchClassifier(Checked):
    """A network on [0, 1] images, in whatever mode (train or eval) the caller left it.

    Gradients are taken at the input alone; the parameters' `.grad` and every flag stay as they were.
    A path of channels_last lays out batches of 8 and more so, whatever layout they come in; gradients go
    back in the batch's own.
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
    def _logits(self, x: Tensor) -> Tensor:
        with self._precision():
            return self.network(self._laid_out(x)).float()

    def _loss_and_grad(
        self, x: Tensor, y: Tensor, loss: Loss = "ce", target: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        at = self._laid_out(x).detach().requires_grad_(True)
        with torch.enable_grad(), self._precision():
            logits = self.network(at).float()
        answer = logits.detach()
        value, slope = _cross_entropy(answer, y) if loss == "ce" else LOSS_FUNCTIONS[loss](answer, y, target)
        (grad,) = torch.autograd.grad(logits, at, slope)
        # a step that mixes layouts costs more than the copy
        return answer, value, grad if grad.stride() == x.stride() else torch.empty_like(x).copy_(grad)

    def _laid_out(self, x: Tensor) -> Tensor:
        if not self.path.channels_last or x.shape[0] < _BATCH:
            return x
        return x.contiguous(memory_format=self.path.memory_format)

    def _precision(self) -> AbstractContextManager[object]:
        """Return the path's autocast, or nothing where it would change nothing: it costs 1 % of a step."""
        idle = not self.path.bf16 and not torch.is_autocast_enabled("cpu")
        return nullcontext() if idle else self.path.autocast()


def _cross_entropy(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `losses.ce` does, in four of torch's own kernels instead of a dozen small ones."""
    log_p = log_softmax(z, 1)
    value = nll_loss(log_p, y, reduction="none")
    return value, log_p.exp_().scatter_(1, y.unsqueeze(1), -1.0, reduce="add")


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
