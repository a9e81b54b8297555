"""Convolutions and their transposes."""

import pytest
import torch.nn.functional as F  # noqa: N812 (the name torch itself gives it)

from tests.dra_serve.gradient_graph.rules.case import IMAGE, Case


def conv(name: str, attributes: str, weight: tuple[int, ...], shape=IMAGE, **options) -> Case:
    def network(x, w, b):
        pads = options.get("pads")
        return F.conv2d(
            F.pad(x, pads) if pads else x, w, b, **{k: v for k, v in options.items() if k != "pads"}
        )

    body = f"y = Conv<{attributes}>(x, w, b)"
    return Case(f"Conv {name}", body, shape, network, {"w": weight, "b": weight[:1]})


def conditional(name: str, attributes: str, outputs: int, shape=IMAGE, **options) -> Case:
    """A convolution whose weights and bias are drawn from the images themselves."""
    group = options.get("groups", 1)

    def network(x, w, **_):
        weight = (x[:, :, :3, :3].mean(0).sin().reshape(-1, 4 // group, 3, 3) * w)[:outputs]
        return F.conv2d(x, weight, x.mean((0, 2, 3))[:outputs], **options)

    body = ("c = Slice(x, zeros, threes, last) m = ReduceMean<keepdims=0>(c, images) s = Sin(m) "
            "r = Reshape(s, form) k = Mul(r, w) a = ReduceMean<keepdims=0>(x, but_channels) "
            f"b = Slice(a, zero, many, zero) y = Conv<{attributes}>(x, k, b)")  # fmt: skip
    constants = {"zeros": [0, 0], "threes": [3, 3], "last": [2, 3], "images": [0], "zero": [0],
                 "many": [outputs], "but_channels": [0, 2, 3], "form": [-1, 4 // group, 3, 3],
                 "w": (outputs, 4 // group, 3, 3)}  # fmt: skip
    return Case(f"Conv, weights that depend on x, {name}", body, shape, network, constants)


CASES = [
    conditional("plain", "group=1", 1),
    conditional("padded", "pads=[1,1,1,1]", 1, padding=1),
    conditional("stride 2, last pixels unread", "strides=[2,3]", 1, stride=(2, 3)),
    conditional("groups, stride, dilation", "group=2, strides=[2,1], dilations=[1,2], pads=[2,1,2,1]", 2,
                groups=2, stride=(2, 1), dilation=(1, 2), padding=(2, 1)),
    conditional("depthwise", "group=4", 4, groups=4),
    conv("1x1", "kernel_shape=[1,1]", (6, 4, 1, 1)),
    conv("3x3", "pads=[1,1,1,1]", (6, 4, 3, 3), padding=1),
    conv("no padding", "group=1", (6, 4, 3, 2)),
    conv("padding wider than the kernel's reach", "pads=[3,3,3,3]", (6, 4, 3, 3), padding=3),
    conv("1x1 padded", "pads=[1,1,1,1]", (6, 4, 1, 1), padding=1),
    conv("dilation", "pads=[2,2,2,2], dilations=[2,2]", (6, 4, 3, 3), padding=2, dilation=2),
    conv("uneven dilation", "dilations=[3,1]", (6, 4, 2, 3), dilation=(3, 1)),
    conv("groups", "group=2, pads=[1,1,1,1]", (6, 2, 3, 3), padding=1, groups=2),
    conv("depthwise 7x7", "group=4, pads=[3,3,3,3]", (4, 1, 7, 7), padding=3, groups=4),
    conv("depthwise, two a channel", "group=4", (8, 1, 3, 3), groups=4),
    conv("stride 2", "strides=[2,2], pads=[1,1,1,1]", (6, 4, 3, 3), stride=2, padding=1),
    conv("stride 2, 1x1", "strides=[2,2]", (6, 4, 1, 1), stride=2),
    conv("stride 3, last pixels unread", "strides=[3,3]", (6, 4, 2, 2), stride=3),
    conv("patches", "strides=[4,4]", (6, 4, 4, 4), (4, 8, 8), stride=4),
    conv("stride 2, groups, dilation", "strides=[2,1], group=2, dilations=[2,1], pads=[1,0,1,0]",
         (6, 2, 3, 3),
         stride=(2, 1), padding=(1, 0), dilation=(2, 1), groups=2),
    conv("uneven pads", "pads=[0,1,2,3]", (6, 4, 3, 3), pads=(1, 3, 0, 2)),
    conv("uneven pads, stride 2", "strides=[2,2], pads=[0,1,2,3]", (6, 4, 3, 3), pads=(1, 3, 0, 2), stride=2),
    conv("SAME_UPPER", 'auto_pad="SAME_UPPER"', (6, 4, 2, 4), pads=(1, 2, 0, 1)),
    conv("SAME_LOWER", 'auto_pad="SAME_LOWER"', (6, 4, 2, 4), pads=(2, 1, 1, 0)),
    conv("SAME_UPPER, stride 2", 'auto_pad="SAME_UPPER", strides=[2,2]', (6, 4, 3, 3), pads=(0, 1, 1, 1),
         stride=2),
    conv("VALID", 'auto_pad="VALID"', (6, 4, 3, 3)),
    Case("Conv 1d", "y = Conv<pads=[1,1], strides=[2]>(x, w)", (4, 9),
         lambda x, w: F.conv1d(x, w, padding=1, stride=2), {"w": (5, 4, 3)}),
    Case("Conv 3d", "y = Conv<pads=[1,1,1,1,1,1]>(x, w)", (2, 4, 5, 3),
         lambda x, w: F.conv3d(x, w, padding=1), {"w": (3, 2, 3, 3, 3)}),
    Case("ConvTranspose", "y = ConvTranspose<strides=[2,2], pads=[1,1,1,1]>(x, w, b)", (4, 5, 6),
         lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2, padding=1), {"w": (4, 3, 3, 3), "b": (3,)}),
    Case("ConvTranspose groups, output padding, dilation",
         "y = ConvTranspose<strides=[3,3], group=2, output_padding=[2,1], dilations=[1,2]>(x, w)", (4, 5, 6),
         lambda x, w: F.conv_transpose2d(x, w, stride=3, groups=2, output_padding=(2, 1), dilation=(1, 2)),
         {"w": (4, 3, 2, 2)}),
    Case("ConvTranspose 1x1, output padding", "y = ConvTranspose<strides=[2,2], output_padding=[1,1]>(x, w)",
         (4, 5, 6),
         lambda x, w: F.conv_transpose2d(x, w, stride=2, output_padding=1), {"w": (4, 3, 1, 1)}),
    Case("Col2Im", "y = Col2Im<strides=[2,1], pads=[1,0,1,0], dilations=[1,2]>(x, s, b)", (12, 12),
         lambda x, s, b: F.fold(x, (5, 6), (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)),
         {"s": [5, 6], "b": [3, 2]}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rule_agrees_with_autograd_and_with_central_differences(case, assert_exact):
    assert_exact(case)
