"""Robust objectives: PGD-AT and TRADES. They receive x_adv inside `views`, they do not make it."""

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from training.objectives.views import Views

Objective = Callable[[Views, Tensor, float, float], Tensor]


def at(views: Views, y: Tensor, smoothing: float, beta: float) -> Tensor:
    """Return CE(x_adv, y): adversarial training (Madry et al. 2018, equation 2.1). beta is not used."""
    logits, _ = views.adv
    return cross_entropy(logits, y, label_smoothing=smoothing)


def trades(views: Views, y: Tensor, smoothing: float, beta: float) -> Tensor:
    """Return CE(x, y) + beta KL(p(x) || p(x_adv)): Zhang et al. 2019, equation 5.

    The gradient goes through both views.
    """
    clean, adv = views.clean[0], views.adv[0]
    divergence = kl_div(log_softmax(adv, 1), log_softmax(clean, 1), reduction="batchmean", log_target=True)
    return cross_entropy(clean, y, label_smoothing=smoothing) + beta * divergence


OBJECTIVES: dict[str, Objective] = {"at": at, "trades": trades}
