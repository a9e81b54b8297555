"""Torch in float64 as the reference for gradient graphs."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

LOSS_CODES = {"ce": 0, "margin": 1, "dlr": 2, "dlr_targeted": 3}


def torch_losses(z, y, loss, target):
    """Return the four losses (N,) written as in the papers, chosen by their codes; z: (N, K)."""
    classes, rows = z.shape[1], torch.arange(len(z))
    z_y, z_t = z[rows, y], z[rows, target]
    other = z.masked_fill(torch.nn.functional.one_hot(y, classes).bool(), -torch.inf).amax(dim=1)
    s = z.sort(dim=1, descending=True).values
    margin, targeted = other - z_y, z_t - z_y
    dlr = margin / (s[:, 0] - s[:, 2] + 1e-12) if classes > 2 else margin
    if classes == 3:
        targeted = targeted / (s[:, 0] - s[:, 2] + 1e-12)
    elif classes > 3:
        targeted = targeted / (s[:, 0] - (s[:, 2] + s[:, 3]) / 2 + 1e-12)
    ce = torch.logsumexp(z, dim=1) - z_y
    return torch.stack([ce, margin, dlr, targeted])[loss, rows]


@dataclass
class Question:
    """What a gradient graph is asked: x in float64, labels, loss codes and targets."""

    x: torch.Tensor
    y: torch.Tensor
    loss: torch.Tensor
    target: torch.Tensor

    @classmethod
    def draw(cls, shape, classes, *, seed=0, loss=None, low=0.0, high=1.0):
        """x uniform in [low, high] at float32 values; every label and target, all losses mixed or one."""
        generator = torch.Generator().manual_seed(seed)
        n = shape[0]
        x = (torch.rand(shape, generator=generator) * (high - low) + low).double()
        y = torch.randint(classes, (n,), generator=generator)
        target = (y + torch.randint(1, classes, (n,), generator=generator)) % classes
        codes = torch.arange(n) % 4 if loss is None else torch.full((n,), LOSS_CODES[loss])
        return cls(x, y, codes, target)

    def ask_torch(self, network: Callable[[torch.Tensor], torch.Tensor]):
        """Return logits, value, grad of `network` by autograd in float64."""
        x = self.x.clone().requires_grad_(True)
        z = network(x)
        value = torch_losses(z, self.y, self.loss, self.target)
        (grad,) = torch.autograd.grad(value.sum(), x)
        return z.detach().numpy(), value.detach().numpy(), grad.numpy()

    def ask_differences(self, network, direction, step=1e-6):
        """Return the slope of each value along `direction` by central differences in float64."""
        with torch.no_grad():
            up, down = (
                torch_losses(network(self.x + h * direction), self.y, self.loss, self.target)
                for h in (step, -step)
            )
        return ((up - down) / (2 * step)).numpy()

    def ask_onnx(self, gradient: onnx.ModelProto | bytes):
        """Return logits, value, grad of the gradient graph in float32."""
        data = gradient if isinstance(gradient, bytes) else gradient.SerializeToString()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        session = onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"])
        feeds = {name: getattr(self, name).numpy() for name in ("y", "loss", "target")}
        return session.run(["logits", "value", "grad"], {"x": self.x.numpy().astype(np.float32), **feeds})


def row_errors(ours, theirs):
    """Return each row's L2 error relative to the row's size; rows that are zero on both sides count 0."""
    ours, theirs = (a.reshape(len(a), -1).astype(np.float64) for a in (ours, theirs))
    error, size = (np.linalg.norm(a, axis=1) for a in (ours - theirs, theirs))
    return np.divide(error, size, out=np.where(error > 1e-7, np.inf, 0.0), where=size > 1e-9)


@pytest.fixture(scope="session")
def question():
    return Question


@pytest.fixture(scope="session")
def errors_by_row():
    return row_errors
