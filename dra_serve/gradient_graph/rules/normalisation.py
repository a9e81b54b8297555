"""Normalisations in evaluation mode."""

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from dra_serve.gradient_graph.graph import Graph
from dra_serve.gradient_graph.rules.reductions import or_zero
from dra_serve.gradient_graph.rules.registry import Share, attributes, axis_of, like, refuse, rule


def _standardised(G: Graph, x: str, gw: str, axes: list[int], epsilon: float) -> str:
    """Return the gradient through xh = (x - mean) i over `axes`, gw being that of xh.

    i (gw - mean gw - xh mean(gw xh)), with i = 1 / sqrt(var + epsilon); mean and i are computed again.
    """
    centred = G("Sub", x, G("ReduceMean", x, axes, keepdims=1))
    variance = G("ReduceMean", G("Mul", centred, centred), axes, keepdims=1)
    i = G("Reciprocal", G("Sqrt", G("Add", variance, epsilon)))
    xh = G("Mul", centred, i)
    along = G("Mul", xh, G("ReduceMean", G("Mul", gw, xh), axes, keepdims=1))
    return G("Mul", i, G("Sub", G("Sub", gw, G("ReduceMean", gw, axes, keepdims=1)), along))


def _a_channel(G: Graph, node: NodeProto, values: str) -> str:
    """Return (C,) values as (C, 1, ..., 1), to meet (N, C, ...)."""
    return G("Reshape", values, [-1, *[1] * (len(G.shape[node.input[0]]) - 2)])


@rule("LayerNormalization")
def layer_normalization(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    x, scale = node.input[:2]
    rank = len(G.shape[x])
    axes = list(range(axis_of(node, rank, default=-1), rank))
    epsilon = float(attributes(node).get("epsilon", 1e-5))
    return [lambda: _standardised(G, x, G("Mul", g, scale), axes, epsilon)]


@rule("BatchNormalization")
def batch_normalization(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    if attributes(node).get("training_mode", 0):
        raise refuse(node, "training mode")
    _, scale, _, _, variance = node.input
    epsilon = float(attributes(node).get("epsilon", 1e-5))

    def share() -> str:
        return G("Mul", g, _a_channel(G, node, G("Div", scale, G("Sqrt", G("Add", variance, epsilon)))))

    return [share]


@rule("InstanceNormalization")
def instance_normalization(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    x, scale = node.input[:2]
    epsilon = float(attributes(node).get("epsilon", 1e-5))
    axes = list(range(2, len(G.shape[x])))
    return [lambda: _standardised(G, x, G("Mul", g, _a_channel(G, node, scale)), axes, epsilon)]


@rule("GroupNormalization")
def group_normalization(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    """Scale is one a channel since opset 21, one a group before."""
    x, scale = node.input[:2]
    groups = int(attributes(node)["num_groups"])
    epsilon = float(attributes(node).get("epsilon", 1e-5))
    a_channel = G.shape[scale] != (groups,) or G.shape[x][1] == groups

    def grouped(name: str) -> str:
        return G("Reshape", name, [0, groups, -1])

    def share() -> str:
        if a_channel:
            gw = grouped(G("Mul", g, _a_channel(G, node, scale)))
        else:
            gw = G("Mul", grouped(g), G("Reshape", scale, [groups, 1]))
        return like(G, _standardised(G, grouped(x), gw, [2], epsilon), x)

    return [share]


@rule("LRN")
def local_response(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    """y = x D^-beta with D = bias + alpha / size * (x^2 summed over near channels).

    g D^-beta - 2 alpha beta / size * x * (g y / D, summed over the channels that reach this one).
    AlexNet's normalisation, Krizhevsky et al. 2012, section 3.3.
    """
    given, x, y = attributes(node), node.input[0], node.output[0]
    size = int(given["size"])
    alpha, beta = float(given.get("alpha", 1e-4)), float(given.get("beta", 0.75))
    (channels,) = G.sizes(node, x, 1)[:1]
    offsets = np.arange(channels)[None, :] - np.arange(channels)[:, None]
    near = ((offsets >= -((size - 1) // 2)) & (offsets <= size // 2)).astype(np.float32)
    spatial = [1] * (len(G.shape[x]) - 2)

    def summed(value: str, band: np.ndarray) -> str:
        return G("Conv", value, band.reshape(channels, channels, *spatial))

    def share() -> str:
        scale = G("Mul", summed(G("Mul", x, x), near), alpha / size)
        d = G("Add", scale, float(given.get("bias", 1.0)))
        across = G("Mul", G("Mul", x, summed(G("Div", G("Mul", g, y), d), near.T)), 2 * alpha * beta / size)
        return G("Sub", G("Mul", g, G("Pow", d, -beta)), across)

    return [share]


@rule("LpNormalization")
def lp_normalization(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    """y = x / |x|: (g - d|x| (g . y)) / |x|, where d|x| is y for p = 2, the signs for p = 1."""
    given, x, y = attributes(node), node.input[0], node.output[0]
    axis, order = axis_of(node, len(G.shape[x]), default=-1), int(given.get("p", 2))

    def share() -> str:
        norm = G("ReduceL2" if order == 2 else "ReduceL1", x, [axis], keepdims=1)
        slope = y if order == 2 else G("Sign", x)
        along = G("Mul", slope, G("ReduceSum", G("Mul", g, y), [axis], keepdims=1))
        return or_zero(G, G("Div", G("Sub", g, along), norm), norm)

    return [share]
