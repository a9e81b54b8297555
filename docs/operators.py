"""Which of ONNX's operators a gradient is derived through, and how: `python -m docs.operators`.

Read off the rules themselves and ONNX's own list of operators, so it is never stale.
"""

from collections.abc import Iterable

import onnx
from onnx import defs

from dra_serve.gradient_graph.expand import has_definition
from dra_serve.gradient_graph.graph import FORWARD_ONLY
from dra_serve.gradient_graph.rules import RULES
from dra_serve.gradient_graph.rules.flat import FLAT
from dra_serve.gradient_graph.rules.quantised import INTEGER_ARITHMETIC, STRAIGHT_THROUGH
from dra_serve.gradient_graph.unroll import WHY_NOT

KINDS = (
    "a rule of its own",
    "constant but for jumps: zero, and said",
    "straight through: an estimate, and said",
    "by ONNX's definition of it through others",
    "written out, where its rounds or its branch do not depend on x",
    "takes or gives no floats, or reads a shape alone: no gradient goes through it",
    "refused by name",
)


def kind_of(schema: defs.OpSchema) -> str:
    """Return how a gradient is derived through an operator: one of KINDS."""
    own, flat, estimate, defined, written_out, no_gradient, refused = KINDS
    name = schema.name
    if name in STRAIGHT_THROUGH:
        return estimate
    if name in FLAT:
        return flat
    if name in RULES:
        return own
    if name in WHY_NOT or name == "If":
        return written_out
    if name in INTEGER_ARITHMETIC:
        return refused
    if name in FORWARD_ONLY or not (_floats(schema.inputs) and _floats(schema.outputs)):
        return no_gradient
    return defined if has_definition(schema) else refused


def _floats(values: Iterable[defs.OpSchema.FormalParameter]) -> bool:
    return any("tensor(float)" in kind for value in values for kind in value.types)  # in sequences too


def operators() -> dict[str, list[str]]:
    """Return the newest form of every standard operator, by kind."""
    newest = {s.name: s for s in defs.get_all_schemas() if s.domain == "" and not s.deprecated}
    found: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for name in sorted(newest):
        found[kind_of(newest[name])].append(name)
    return found


def main() -> None:
    """Print a line a kind, with its operators."""
    print(f"onnx {onnx.__version__}, opset {defs.onnx_opset_version()}")
    for kind, names in operators().items():
        print(f"\n{kind} ({len(names)}):\n    {' '.join(names)}")


if __name__ == "__main__":
    main()
