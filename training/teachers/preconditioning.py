"""How a denoising network is fed and read at noise level sigma: EDM and DDPM in one form.

    D(x; sigma) = c_skip(sigma) x + c_out(sigma) F(c_in(sigma) x; time(sigma))

x is a noisy image in [-1, 1] units, x = clean + sigma n (Karras et al. 2022, equation 7). A DDPM's
epsilon network is the same with c_skip 1, c_out -sigma (their appendix C.3).
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Preconditioning(Protocol):
    """Scalars of a noise level sigma (N,), each (N,)."""

    def c_in(self, sigma: Tensor) -> Tensor: ...
    def c_skip(self, sigma: Tensor) -> Tensor: ...
    def c_out(self, sigma: Tensor) -> Tensor: ...
    def time(self, sigma: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class EDM:
    """Karras et al. 2022, table 1, last column; the time input is `time_scale` ln(sigma).

    EDM itself feeds ln(sigma) / 4 to a learned embedding; diffusers' sinusoids are made for 0..1000, so
    ours is a thousand times that.
    """

    sigma_data: float = 0.5
    time_scale: float = 250.0

    def c_in(self, sigma: Tensor) -> Tensor:
        return (sigma**2 + self.sigma_data**2).rsqrt()

    def c_skip(self, sigma: Tensor) -> Tensor:
        return self.sigma_data**2 / (sigma**2 + self.sigma_data**2)

    def c_out(self, sigma: Tensor) -> Tensor:
        return sigma * self.sigma_data * (sigma**2 + self.sigma_data**2).rsqrt()

    def time(self, sigma: Tensor) -> Tensor:
        return self.time_scale * sigma.log()


@dataclass(frozen=True)
class DDPM:
    """An epsilon-predicting DDPM, for folders such as `google/ddpm-cifar10-32`.

    sigmas: (T,) the noise level of each training step, sqrt((1 - abar_t) / abar_t), increasing.
    """

    sigmas: Tensor

    def c_in(self, sigma: Tensor) -> Tensor:
        return (sigma**2 + 1).rsqrt()

    def c_skip(self, sigma: Tensor) -> Tensor:
        return torch.ones_like(sigma)

    def c_out(self, sigma: Tensor) -> Tensor:
        return -sigma

    def time(self, sigma: Tensor) -> Tensor:
        """Return the training step whose noise level is nearest in ratio."""
        return (sigma.log()[:, None] - self.sigmas.log()).abs().argmin(1)


@dataclass(frozen=True)
class VelocityDDPM(DDPM):
    """A DDPM that predicts v = sqrt(abar) epsilon - sqrt(1 - abar) clean (Salimans and Ho 2022, section 2.4).

    With abar = 1 / (1 + sigma^2) and x_t = c_in x, clean = sqrt(abar) x_t - sqrt(1 - abar) v.
    """

    def c_skip(self, sigma: Tensor) -> Tensor:
        return 1 / (sigma**2 + 1)

    def c_out(self, sigma: Tensor) -> Tensor:
        return -sigma * (sigma**2 + 1).rsqrt()
