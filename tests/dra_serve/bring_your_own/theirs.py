"""Someone else's network and file, and how a model made of it is held to the original."""

import io

import numpy as np
import torch
from torch import nn

from dra_serve.attacks.losses import LOSS_FUNCTIONS

SIZE, CLASSES = (12, 10), 5


MEAN, STD = (103.9, 116.8, 123.7), (57.4, 57.1, 58.4)


FOREIGN = {"layout": "nhwc", "channels": "bgr", "range": 255.0, "mean": MEAN, "std": STD}


class Network(nn.Module):
    """A small network as others write them: its input form is `layout`, its end maybe a softmax."""

    def __init__(self, *, layout="nchw", softmax=False, squeeze=True, channels=3, dtype=None):
        super().__init__()
        torch.manual_seed(1)
        self.body = nn.Sequential(
            nn.Conv2d(channels, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, CLASSES, 3)
        )
        self.layout, self.softmax, self.squeeze, self.dtype = layout, softmax, squeeze, dtype
        self.body[1].running_var.uniform_(0.5, 2)

    def logits(self, x):
        x = x if self.dtype is None else x.to(self.body[0].weight.dtype)
        x = x.permute(0, 3, 1, 2) if self.layout == "nhwc" else x
        z = self.body(x).mean((2, 3), keepdim=True) * 3
        return z.flatten(1) if self.squeeze else z

    def forward(self, x):
        z = self.logits(x)
        return torch.softmax(z, 1) if self.softmax else z


def export(network, path, *, batch=None, opset=11, open_size=False, dtype=torch.float32):
    sizes = (*SIZE, 3) if network.layout == "nhwc" else (network.body[0].in_channels, *SIZE)
    axes = {} if batch else {0: "batch"}
    axes |= {2: "height", 3: "width"} if open_size else {}
    file = io.BytesIO()
    x = torch.rand(batch or 2, *sizes).to(dtype)
    options = {"input_names": ["pixels"], "output_names": ["scores"], "dynamic_axes": {"pixels": axes}}
    torch.onnx.export(network.eval(), (x,), file, dynamo=False, opset_version=opset, **options)
    path.write_bytes(file.getvalue())
    return path


def images(n=4, channels=3, size=SIZE):
    return np.random.default_rng(0).random((n, channels, *size), np.float32)


def foreign_input(x):
    """The declared preprocessing as a user would write it in torch: x in [0, 1], RGB, NCHW."""
    pixels = 255 * x.flip(1)
    mean, std = (torch.tensor(v, dtype=x.dtype).view(3, 1, 1) for v in (MEAN, STD))
    return ((pixels - mean) / std).permute(0, 2, 3, 1)


def by_torch(network, x, y, loss, target, preprocess=lambda x: x):
    network, x = network.eval().double(), torch.from_numpy(x).double().requires_grad_(True)
    z = network.logits(preprocess(x)).flatten(1)
    value, slope = LOSS_FUNCTIONS[loss](z.detach(), torch.from_numpy(y), torch.from_numpy(target))
    (grad,) = torch.autograd.grad(z, x, slope)
    return z.detach().numpy(), value.numpy(), grad.numpy()


def assert_is_the_original(model, network, preprocess=lambda x: x, n=4):
    x = images(n, model.input_shape[0], model.input_shape[1:])
    y = np.arange(n) % CLASSES
    target = (y + 1) % CLASSES
    for loss in ("ce", "margin", "dlr_targeted"):
        z, value, grad = by_torch(network, x, y, loss, target, preprocess)
        ours = model.loss_and_grad(x, y, loss, target)
        np.testing.assert_allclose(model.logits(x), z, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(ours[0], z, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(ours[1], value, rtol=1e-4, atol=1e-5)
        assert np.linalg.norm(ours[2] - grad) < 1e-5 * np.linalg.norm(grad)
