"""One rule an operator; importing this package fills RULES."""

from dra_serve.gradient_graph.rules import (  # noqa: F401
    arithmetic,
    convolution,
    elementwise,
    flat,
    grid_sample,
    gru,
    indexing,
    lstm,
    matrices,
    normalisation,
    pooling,
    quantised,
    recurrent,
    reductions,
    resize,
    shapes,
)
from dra_serve.gradient_graph.rules.registry import RULES

__all__ = ["RULES"]
