"""A gradient graph for any ONNX classifier: white-box attacks without torch.

`differentiate` walks the nodes of a forward graph backwards, one rule an operator, and returns a
standard ONNX graph `(x, y, loss, target) -> (logits, value, grad)` that stock ONNX Runtime runs.

    losses.py    value and gradient of the four losses at the logits, in closed form
    rules/       what each operator does to a gradient; `@rule("Conv")`
    prepare.py   the forward graph put in one form: opset >= 18, constants, names
    expand.py    operators without a rule, written as operators with one
    unroll.py    loops of a fixed number of rounds, written out
    batch.py     a batch fixed in the file, opened
    graph.py     the builder: forward nodes first, gradient nodes appended
    reverse.py   the pass itself

Needs the `onnx` extra, imported when called. Reverse accumulation after Griewank and Walther,
"Evaluating Derivatives", chapter 3.
"""

from typing import TYPE_CHECKING

from dra_serve.errors import MissingExtra

if TYPE_CHECKING:
    import onnx


def differentiate(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Return the gradient graph of `model`, which is not changed.

    model: one float32 input (N, C, H, W) with C, H, W fixed, one output of logits (N, K); any opset
    from 9 up, standard operators. A batch fixed in the file is opened where that leaves the answers
    alone; otherwise the gradient graph keeps it.

    Inputs of the result: x like the model's; y, loss, target int64 (N,), where loss holds the place
    in `dra_serve.classifier.LOSSES` (0 ce, 1 margin, 2 dlr, 3 dlr_targeted) and target is read by
    dlr_targeted alone. Outputs: logits (N, K); value (N,), larger is worse for the defender; grad
    like x, of each example's own value. Labels out of range are answered silently: check them first.
    Weights keep their names and are stored once. The same model gives the same bytes.

    Raises NoDerivative, naming operator and node, where a rule is missing; BadRequest for a model
    of another form; MissingExtra without the `onnx` package.
    """
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise MissingExtra("onnx", "onnx") from error
    from dra_serve.gradient_graph.reverse import gradient_model

    return gradient_model(model)
