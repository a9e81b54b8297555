"""The forward graph of a torch network, by torch's own exporter."""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import torch
from onnx import helper
from torch import nn

from dra_serve.errors import DraServeError
from dra_serve.gradient_graph.prepare import strip

OPSET = 20  # the first with Gelu as an operator, and the one torch's exporter takes by itself
LARGEST_BATCH = 4096  # the exporter wants a bound; nothing in the file enforces it


class BatchFixedError(DraServeError):
    """The network's code made the batch size a constant of the graph."""

    title = "Batch fixed by the network's code"


def forward_graph(network: nn.Module, input_shape: tuple[int, ...]) -> onnx.ModelProto:
    """Return `network` in evaluation mode as an ONNX graph x (N, C, H, W) -> logits (N, K), float32.

    The network itself is not touched. Whatever the exporter adds for debugging, local paths among it,
    is taken out, and so are constants that no node reads. The same network gives the same bytes.
    Raises BatchFixedError where the network's code fixes the batch, which the exporter does not say.
    """
    network = copy.deepcopy(network).cpu().float().eval().requires_grad_(False)
    with _quiet_exporter():
        program = torch.onnx.export(
            network,
            (torch.zeros(2, *input_shape),),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=({0: torch.export.Dim("n", min=1, max=LARGEST_BATCH)},),
            input_names=["x"],
            output_names=["logits"],
            external_data=False,
            verbose=False,
        )
    assert program is not None  # dynamo=True returns a program
    model = program.model_proto
    batch = model.graph.input[0].type.tensor_type.shape.dim[0]
    if not batch.dim_param:
        raise BatchFixedError(
            f"the batch became {batch.dim_value}; write x.shape[0] for len(x), no int(...) of it"
        )
    strip(model)
    _drop_unread(model.graph)
    helper.set_model_props(model, {"dra_serve.graph": "forward"})
    return model


def _drop_unread(graph: onnx.GraphProto) -> None:
    read = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    del graph.value_info[:]


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Mute the exporter's warnings: about torchvision missing, and about its own internals."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)
