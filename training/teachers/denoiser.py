"""A diffusion model: a diffusers UNet2DModel, its preconditioning, and space-to-depth around it."""

from math import isqrt

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from training.teachers.preconditioning import Preconditioning


class Denoiser(nn.Module):
    """D(x; sigma) on images in [-1, 1].

    The network may see images with patches folded into channels (`patch` 2: 3 x 32 x 32 becomes
    12 x 16 x 16), which gives it four times the channels for the same arithmetic; `patch` follows from
    its `in_channels`.
    """

    def __init__(
        self, unet: UNet2DModel, preconditioning: Preconditioning, *, image_channels: int = 3
    ) -> None:
        super().__init__()
        self.unet = unet
        self.preconditioning = preconditioning
        self.patch = isqrt(unet.config.in_channels // image_channels)
        assert self.patch**2 * image_channels == unet.config.in_channels

    def network(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return F(c_in x; time): the raw network output, folded back to images (N, C, H, W)."""
        folded = pixel_unshuffle(_each(self.preconditioning.c_in(sigma)) * x, self.patch)
        return pixel_shuffle(self.unet(folded, self.preconditioning.time(sigma)).sample, self.patch)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return the denoised images of noisy x (N, C, H, W) at noise levels sigma (N,)."""
        c_skip, c_out = self.preconditioning.c_skip(sigma), self.preconditioning.c_out(sigma)
        return _each(c_skip) * x + _each(c_out) * self.network(x, sigma)


def edm_loss(denoiser: Denoiser, clean: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
    """Return the weighted denoising error of each image (N,): Karras et al. 2022, equation 8.

    Their weight lambda(sigma) = 1 / c_out^2 makes it the plain squared error of the raw network against
    (clean - c_skip x) / c_out, which is how it is computed: no large factor meets a small difference.
    """
    x = clean + _each(sigma) * noise
    preconditioning = denoiser.preconditioning
    target = (clean - _each(preconditioning.c_skip(sigma)) * x) / _each(preconditioning.c_out(sigma))
    return (denoiser.network(x, sigma).float() - target).square().flatten(1).mean(1)


def lognormal_sigma(n: int, *, mean: float, std: float, rng: torch.Generator) -> Tensor:
    """Return n noise levels, ln sigma ~ N(mean, std^2): the training distribution of EDM."""
    return (torch.randn(n, generator=rng) * std + mean).exp()


def _each(scalars: Tensor) -> Tensor:
    """Return (N,) as (N, 1, 1, 1)."""
    return scalars.view(-1, 1, 1, 1)
