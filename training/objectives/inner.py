"""The inner attack of adversarial training: PGD over the same loop that serving and evaluation use."""

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from dra_serve.attacks import perturb, random_start
from dra_serve.classifier import Loss
from training.recipes.classifier import Recipe
from training.torch_classifier import TorchClassifier


class _Divergence(TorchClassifier):
    """The network seen through KL(p(x) || p(x_adv)) with p(x) constant: what TRADES climbs."""

    def __init__(self, attacked: TorchClassifier, x: Tensor) -> None:
        super().__init__(attacked.network, attacked.classes, attacked.input_shape, path=attacked.path)
        self.clean = log_softmax(attacked.logits(x), 1)

    def loss_and_grad(
        self, x: Tensor, y: Tensor, loss: Loss = "ce", target: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = x.detach().requires_grad_(True)
        with torch.enable_grad(), self.path.autocast():
            logits = self.network(x).float()
        adv = log_softmax(logits.detach(), 1)
        value = (self.clean.exp() * (self.clean - adv)).sum(1)
        (grad,) = torch.autograd.grad(logits, x, adv.exp() - self.clean.exp())
        return logits.detach(), value, grad


def inner_attack(
    model: TorchClassifier, x: Tensor, y: Tensor, ids: Tensor, *, recipe: Recipe, step: int
) -> Tensor:
    """Return x_adv (N, C, H, W) for one training step. The model is frozen and in eval mode by the caller.

    ids: (N,) image ids that key the random start, which changes with every step. AT climbs the
    cross-entropy; TRADES climbs the divergence from the clean prediction.
    """
    start = random_start(x, norm=recipe.norm, eps=recipe.eps, seed=(recipe.seed << 32) + step, indices=ids)
    attacked = _Divergence(model, x) if recipe.objective == "trades" else model
    return perturb(
        attacked,
        x,
        y,
        norm=recipe.norm,
        eps=recipe.eps,
        alpha=recipe.alpha,
        steps=recipe.steps,
        start=start,
    )
