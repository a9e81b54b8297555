"""Someone else's graph as one that takes x in [0, 1] and gives logits."""

from dataclasses import dataclass

import onnx

from dra_serve.bring_your_own.declaration import Declaration
from dra_serve.bring_your_own.images_in import input_form, preprocess
from dra_serve.bring_your_own.logits_out import answers_of, logits_at_the_end
from dra_serve.errors import BadRequest
from dra_serve.gradient_graph.batch import open_batch
from dra_serve.gradient_graph.prepare import normalise, rename


@dataclass(frozen=True)
class Wrapped:
    """model: x (N, C, H, W) in [0, 1] -> logits (N, K). changed: False where it is the file's own graph.

    layout: the one in force. notes: what was done and nobody declared.
    """

    model: onnx.ModelProto
    changed: bool
    layout: str
    input_shape: tuple[int, int, int]
    classes: int
    notes: tuple[str, ...]


def wrap(model: onnx.ModelProto, declared: Declaration) -> Wrapped:
    """Return `model`, which is not changed, as a classifier on x (N, C, H, W), RGB in [0, 1].

    The declared preprocessing becomes nodes in front; a softmax at the end is taken off, and where the
    outputs are probabilities without one, their logarithm is taken: both are logits up to a shift of a
    row, which no loss sees. Raises BadRequest for a form that no declaration can put right.
    """
    graph = (ours := normalise(model)).graph
    notes: list[str] = []
    layout, (channels, height, width) = input_form(graph, declared)
    before = preprocess(graph, declared, layout, (channels, height, width), notes)
    after = logits_at_the_end(ours, notes)
    rename(graph)
    open_already = graph.input[0].type.tensor_type.shape.dim[0].HasField("dim_param")
    opened = ours if open_already else open_batch(ours)
    (answer,) = answers_of(opened)
    if answer.ndim != 2 or answer.shape[1] < 2:
        raise BadRequest("model output shape", given=answer.shape, allowed="logits (N, K) with K >= 2")
    changed = before or after or opened is not ours or declared.input_size is not None
    return Wrapped(opened, changed, layout, (channels, height, width), int(answer.shape[1]), tuple(notes))
