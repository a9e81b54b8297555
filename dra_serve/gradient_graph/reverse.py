"""The reverse pass: from the gradient at the logits to the gradient at x."""

import hashlib

import numpy as np
import onnx

from dra_serve.classifier import LOSSES
from dra_serve.errors import BadRequest, NoDerivative
from dra_serve.gradient_graph.batch import open_batch
from dra_serve.gradient_graph.expand import expand
from dra_serve.gradient_graph.graph import Graph
from dra_serve.gradient_graph.losses import loss_and_grad_at_logits
from dra_serve.gradient_graph.prepare import measure, prepare
from dra_serve.gradient_graph.rules import RULES
from dra_serve.gradient_graph.rules.flat import FLAT
from dra_serve.gradient_graph.rules.quantised import STRAIGHT_THROUGH
from dra_serve.gradient_graph.rules.registry import EVERY_OUTPUT
from dra_serve.gradient_graph.rules.strided_conv import add
from dra_serve.gradient_graph.unroll import WHY_NOT


def gradient_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the gradient graph of `model`; `dra_serve.gradient_graph.differentiate` documents it."""
    forward = open_batch(expand(prepare(model), known=RULES))
    G = Graph(forward, measure(forward))
    classes = _classes(G)
    _, grad_logits = loss_and_grad_at_logits(G, G.logits, classes)
    grad, stopped = _reverse(G, grad_logits)
    G("Identity", grad, name="grad")
    metadata = {
        "dra_serve.graph": "gradient",
        "dra_serve.forward_sha256": hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest(),
        "dra_serve.losses": ",".join(LOSSES),
        "dra_serve.classes": str(classes),
        "dra_serve.onnx_version": onnx.__version__,
    }
    estimated = {node.op_type for node in G.forward_nodes if G.active.intersection(node.output)}
    if estimated := estimated.intersection(STRAIGHT_THROUGH):
        metadata["dra_serve.straight_through"] = ",".join(sorted(estimated))
    if stopped:
        metadata["dra_serve.stopped"] = ",".join(sorted(stopped))
    return G.finish(metadata, forward)


def _classes(G: Graph) -> int:
    shape = G.shape[G.logits]
    if len(shape) != 2 or shape[0] != G.shape[G.x][0] or not isinstance(shape[1], int) or shape[1] < 2:
        raise BadRequest("model output shape", given=shape, allowed="logits (N, K) with K >= 2")
    if G.type[G.logits] != np.float32:
        raise BadRequest("model output type", given=G.type[G.logits], allowed="FLOAT")
    return shape[1]


def _reverse(G: Graph, grad_logits: str) -> tuple[str, set[str]]:
    """Append the gradient nodes, last forward node first; return the gradient at x, and the operators of
    FLAT that a gradient arrived at and went no farther."""
    grads, stopped = {G.logits: grad_logits}, set[str]()
    for node in reversed(G.forward_nodes):
        arriving = [grads.pop(name, None) for name in node.output]
        if not any(arriving):
            continue
        parts = _parts(G, node, arriving)
        if not parts and node.op_type in FLAT and G.active.intersection(node.output):
            stopped.add(node.op_type)
        for name, part in parts:
            grads[name] = add(G, grads[name], part) if name in grads else part
            if name in G.shape:
                G.shape[grads[name]], G.type[grads[name]] = G.shape[name], np.dtype(np.float32)
    if G.x not in grads:
        last = G.producer[G.logits]
        raise NoDerivative(
            last.op_type, last.name, "the logits do not depend on x through it" + _flatly(stopped)
        )
    return grads[G.x], stopped


def _flatly(stopped: set[str]) -> str:
    return f" but by steps ({', '.join(sorted(stopped))})" if stopped else ""


def _parts(G: Graph, node: onnx.NodeProto, arriving: list[str | None]) -> list[tuple[str, str]]:
    """Return (input, its share of the gradient) for every input of `node` that depends on x."""
    rule = RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if rule is None:
        why = WHY_NOT.get(node.op_type, "no derivative rule")
        raise NoDerivative(node.op_type, node.name, why)
    every_output = node.op_type in EVERY_OUTPUT
    if any(arriving[1:]) and not every_output:
        raise NoDerivative(node.op_type, node.name, "a gradient arrives at a second output")
    shares = rule(G, node, arriving if every_output else arriving[0])
    parts = []
    for place, name in enumerate(node.input):
        if name not in G.active:
            continue
        if place >= len(shares):
            raise NoDerivative(node.op_type, node.name, f"input {place} depends on x")
        share = shares[place]
        if share is not None:
            parts.append((name, share()))
    return parts
