"""The families that public ONNX files come from, by the old exporter too, at the opsets they come in."""

import io
import logging
import warnings

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the name torch itself gives it)
from torch import nn

from dra_serve.gradient_graph import differentiate

SHAPE, CLASSES = (3, 16, 16), 10


def unit(width, out, kernel=3, stride=1, groups=1, act=nn.ReLU):
    conv = nn.Conv2d(width, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), act())


class Head(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(width, CLASSES)

    def forward(self, x):
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Excite(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, width, act, gate):
        super().__init__()
        self.down, self.up, self.act, self.gate = (
            nn.Conv2d(width, 4, 1),
            nn.Conv2d(4, width, 1),
            act(),
            gate(),
        )

    def forward(self, x):
        return x * self.gate(self.up(self.act(self.down(x.mean((2, 3), keepdim=True)))))


def vgg():
    pool = nn.MaxPool2d(2)
    return nn.Sequential(unit(3, 8), pool, unit(8, 16), pool, nn.AdaptiveAvgPool2d(2), nn.Flatten(),
                         nn.Linear(64, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, CLASSES))  # fmt: skip


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.pool = unit(3, 8, 7, 2), nn.MaxPool2d(3, 2, 1)
        self.a, self.b = unit(8, 16, 3, 2), unit(16, 16, act=nn.Identity)
        self.skip, self.head = unit(8, 16, 1, 2, act=nn.Identity), Head(16)

    def forward(self, x):
        x = self.pool(self.stem(x))
        return self.head(torch.relu(self.b(self.a(x)) + self.skip(x)))


def mobilenet_v3():
    return nn.Sequential(
        unit(3, 8, 3, 2, act=nn.Hardswish), unit(8, 16, 1, act=nn.Hardswish),
        unit(16, 16, 5, 1, 16, nn.Hardswish), Excite(16, nn.ReLU, nn.Hardsigmoid),
        unit(16, 12, 1, act=nn.ReLU6), Head(12))  # fmt: skip


class EfficientNet(nn.Module):
    """Padding as TensorFlow's SAME has it, on one side more."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, bias=False)
        self.body = nn.Sequential(
            unit(8, 24, 1, act=nn.SiLU), unit(24, 24, 5, 1, 24, nn.SiLU), Excite(24, nn.SiLU, nn.Sigmoid),
            unit(24, 8, 1, act=nn.Identity))  # fmt: skip
        self.head = Head(8)

    def forward(self, x):
        x = F.silu(self.stem(F.pad(x, (0, 1, 0, 1))))
        return self.head(x + self.body(x))


class DenseNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm2d(w) for w in (3, 11, 19)])
        self.convs = nn.ModuleList([nn.Conv2d(w, 8, 3, padding=1) for w in (3, 11)])
        self.head = Head(19)

    def forward(self, x):
        for norm, conv in zip(self.norms, self.convs, strict=False):
            x = torch.cat([x, conv(F.relu(norm(x)))], 1)
        return self.head(F.avg_pool2d(F.relu(self.norms[-1](x)), 2))


class ShuffleNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.branch, self.head = unit(3, 16), unit(8, 8, 3, 1, 8), Head(16)

    def forward(self, x):
        a, b = self.stem(x).chunk(2, dim=1)
        x = torch.cat([a, self.branch(b)], 1)
        n, c, h, w = x.shape
        return self.head(x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w))


class Inception(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, (1, 7), padding=(0, 3)), nn.Conv2d(3, 6, (7, 1), padding=(3, 0))
        self.c, self.head = nn.Conv2d(3, 6, 1), Head(18)

    def forward(self, x):
        pooled = F.avg_pool2d(x, 3, 1, 1, count_include_pad=True)
        x = F.max_pool2d(torch.cat([self.a(x), self.b(x), self.c(pooled)], 1), 3, 2, ceil_mode=True)
        return self.head(F.local_response_norm(F.elu(x), 5, alpha=0.1))


class Swin(nn.Module):
    """Windows, a cyclic shift, a relative position bias read from a table, attention by hand."""

    def __init__(self, width=16, heads=2):
        super().__init__()
        self.patches, self.norm1, self.norm2 = (
            nn.Conv2d(3, width, 2, 2),
            nn.LayerNorm(width),
            nn.LayerNorm(width),
        )
        self.qkv, self.out, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads
        self.table = nn.Parameter(torch.randn(49, heads))
        self.register_buffer("index", torch.randint(49, (16, 16)))
        self.merge, self.head = nn.Linear(4 * width, width), nn.Linear(width, CLASSES)

    def forward(self, x):
        x = self.norm1(self.patches(x).permute(0, 2, 3, 1))
        rolled = torch.roll(x, (-2, -2), (1, 2))
        n, h, w, c = rolled.shape
        windows = rolled.view(n, h // 4, 4, w // 4, 4, c).transpose(2, 3).reshape(-1, 16, c)
        q, k, v = self.qkv(windows).reshape(-1, 16, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        bias = self.table[self.index.view(-1)].view(16, 16, -1).permute(2, 0, 1)
        attention = (q * 8**-0.5 @ k.transpose(-2, -1) + bias).softmax(-1)
        windows = self.out((attention @ v).transpose(1, 2).reshape(-1, 16, c))
        back = windows.view(-1, h // 4, w // 4, 4, 4, c).transpose(2, 3).reshape(-1, h, w, c)
        x = x + torch.roll(back, (2, 2), (1, 2))
        parts = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return self.head(self.norm2(self.merge(torch.cat(parts, -1))).mean((1, 2)))


class ConvNeXtV2(nn.Module):
    """GELU, LayerNorm by hand over channels, global response normalisation by an L2 norm."""

    def __init__(self):
        super().__init__()
        self.patches, self.depthwise = nn.Conv2d(3, 12, 2, 2), nn.Conv2d(12, 12, 7, padding=3, groups=12)
        self.up, self.down, self.gamma = nn.Linear(12, 24), nn.Linear(24, 12), nn.Parameter(torch.randn(24))
        self.head = Head(12)

    def forward(self, x):
        x = self.patches(x)
        h = self.depthwise(x)
        centred = h - h.mean(1, keepdim=True)
        h = centred / torch.sqrt(centred.pow(2).mean(1, keepdim=True) + 1e-6)
        h = F.gelu(self.up(h.permute(0, 2, 3, 1)))
        norms = h.norm(p=2, dim=(1, 2), keepdim=True)
        h = h + self.gamma * (h * (norms / (norms.mean(-1, keepdim=True) + 1e-6)))
        return self.head(x + self.down(h).permute(0, 3, 1, 2))


class ViT(nn.Module):
    """einsum attention, group and instance normalisation, a resized position map."""

    def __init__(self, width=16):
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, width, 4, 4), nn.GroupNorm(4, width)
        self.positions, self.qkv = nn.Parameter(torch.randn(1, width, 4, 4)), nn.Linear(width, 3 * width)
        self.instance, self.head = nn.InstanceNorm2d(width, affine=True), Head(width)

    def forward(self, x):
        x = self.norm(self.patches(x) + self.positions)
        q, k, v = self.qkv(x.flatten(2).transpose(1, 2)).chunk(3, -1)
        attention = torch.einsum("bic,bjc->bij", q, k).mul(0.25).softmax(-1)
        mixed = torch.einsum("bij,bjc->bci", attention, v).reshape(x.shape)
        x = F.interpolate(x + mixed, scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.head(F.leaky_relu(self.instance(x), 0.1))


FAMILIES = {
    "vgg": vgg, "resnet": ResNet, "mobilenet v3": mobilenet_v3, "efficientnet": EfficientNet,
    "densenet": DenseNet, "shufflenet": ShuffleNet, "inception": Inception, "swin": Swin,
    "convnext v2": ConvNeXtV2, "vit": ViT,
}  # fmt: skip
NO_KINKS = ("efficientnet", "swin", "convnext v2")


def exported(network, how):
    """how: "dynamo", or the old exporter's opset and whether the batch is fixed at 1, as "11 fixed"."""
    file, fixed = io.BytesIO(), how.endswith("fixed")
    x = torch.rand(1 if fixed else 2, *SHAPE)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if how == "dynamo":
            shapes = ({0: torch.export.Dim("n", min=1, max=64)},)
            options = {"opset_version": 18, "dynamic_shapes": shapes, "verbose": False}
            return torch.onnx.export(network, (x,), dynamo=True, **options).model_proto
        axes = None if fixed else {"x": {0: "n"}}
        torch.onnx.export(network, (x,), file, dynamo=False, opset_version=int(how.split()[0]),
                          input_names=["x"], output_names=["logits"], dynamic_axes=axes)  # fmt: skip
    return onnx.load_from_string(file.getvalue())


def network_of(family):
    torch.manual_seed(0)
    network = FAMILIES[family]().eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network


def agrees(family, how, question, errors_by_row):
    network = network_of(family)
    gradient = differentiate(exported(network, how))
    assert gradient.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "n"  # a fixed one is opened
    asked = question.draw((8, *SHAPE), CLASSES, seed=1)
    logits, value, grad = asked.ask_onnx(gradient)
    torch_logits, torch_value, torch_grad = asked.ask_torch(network.double())
    assert errors_by_row(logits, torch_logits).max() < 1e-5
    np.testing.assert_allclose(value, torch_value, rtol=1e-4, atol=1e-5)
    errors = errors_by_row(grad, torch_grad * (np.abs(torch_grad).max(axis=(1, 2, 3), keepdims=True) > 1e-9))
    assert np.median(errors) < 1e-5
    if family in NO_KINKS:
        assert errors.max() < 2e-5
    else:  # a unit at its kink may fall either way
        assert (np.sign(grad) == np.sign(torch_grad)).mean() > 0.9999


@pytest.mark.parametrize("how", ["11", "13 fixed", "17"])
@pytest.mark.parametrize("family", [*FAMILIES])
def test_family_by_the_old_exporter(family, how, question, errors_by_row):
    if how == "11" and family == "vit":
        how = "12"  # the first opset with Einsum
    agrees(family, how, question, errors_by_row)


def test_family_by_the_new_exporter(question, errors_by_row):
    agrees("swin", "dynamo", question, errors_by_row)
