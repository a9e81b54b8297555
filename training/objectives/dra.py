"""Diffusion representation alignment (arXiv 2602.19931): features pulled towards a frozen teacher's.

    L = L_base + lam * mean_i [ 1 - cos(projector(h_i), z_i) ]

h: penultimate features of the student on the chosen view; z: centred and scaled features of the
diffusion model on the clean image. The paper's text was not readable here: projector, view and
weight are ours (docs/decisions).
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from training.objectives.views import Views

View = Literal["clean", "adv", "both"]


def build_projector(feature_width: int, hidden: int, teacher_width: int, *, seed: int) -> nn.Sequential:
    """Return a two-layer SiLU MLP from h (N, D) to the teacher's width.

    Its own seed: the student's initial weights are the same with and without it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(feature_width, hidden), nn.SiLU(), nn.Linear(hidden, teacher_width))


def alignment(h: Tensor, z: Tensor) -> Tensor:
    """Return mean (1 - cos) of rows h, z (N, D): 0 aligned, 1 unrelated, 2 opposite; blind to scale."""
    return 1 - cosine_similarity(h, z, dim=1, eps=1e-8).mean()


def dra_term(views: Views, z: Tensor, projector: nn.Module, view: View) -> Tensor:
    """Return the DRA term on the student's `view`; "both" is the mean of the two."""
    chosen = (
        {"clean": (views.clean,), "both": (views.clean, views.adv)}[view] if view != "adv" else (views.adv,)
    )
    return torch.stack([alignment(projector(h), z) for _, h in chosen]).mean()
