"""The gradient through strided convolutions, and the forms that ONNX Runtime keeps in its blocked layout."""

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the name torch itself gives it)
from onnx import numpy_helper

from dra_serve.gradient_graph import differentiate

CLASSES = 5


def built(body, shape, weights, opset=20):
    """A model whose `y` a random matrix turns into logits, and its arrays in float64; weights: shapes."""
    rng = np.random.default_rng(3)
    arrays = {
        name: np.asarray(rng.standard_normal(w), np.float32) if isinstance(w, tuple) else w
        for name, w in weights.items()
    }
    sizes = ",".join(map(str, shape))
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : {opset}]> '
        f"net (float[n,{sizes}] x) => (float[n,{CLASSES}] logits)"
        f"{{ {body} flat = Flatten(y) logits = MatMul(flat, matrix) }}"
    )
    model.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in arrays.items())
    return model, {name: torch.from_numpy(a).double() for name, a in arrays.items()}


def assert_gradient_is_torchs(question, errors_by_row, body, shape, weights, network):
    """network: y from x and the weights. Returns the operators of the gradient graph."""
    with torch.no_grad():
        _, exact = built(body, shape, weights)
        features = network(torch.zeros(1, *shape).double(), **exact).numel()
    model, exact = built(body, shape, weights | {"matrix": (features, CLASSES)})
    matrix = exact.pop("matrix") / features**0.5 / 10
    (stored,) = [t for t in model.graph.initializer if t.name == "matrix"]
    stored.CopyFrom(numpy_helper.from_array(matrix.float().numpy(), "matrix"))
    matrix = matrix.float().double()
    asked = question.draw((6, *shape), CLASSES, low=-1)
    gradient = differentiate(model)
    onnx.checker.check_model(gradient, full_check=True)
    logits, _, grad = asked.ask_onnx(gradient)
    torch_logits, _, torch_grad = asked.ask_torch(lambda x: network(x, **exact).flatten(1) @ matrix)
    assert errors_by_row(logits, torch_logits).max() < 1e-5
    assert np.abs(torch_grad).max() > 1e-4
    assert errors_by_row(grad, torch_grad).max() < 2e-5
    return [node.op_type for node in gradient.graph.node]


# kernel, strides, pads (top, left, bottom, right), group, sizes of x
BY_PHASES = {
    "3x3": ((3, 3), (2, 2), (1, 1, 1, 1), 1, (8, 8)),
    "2x2": ((2, 2), (2, 2), (0, 0, 0, 0), 1, (8, 6)),
    "5x5": ((5, 5), (2, 2), (2, 2, 2, 2), 1, (8, 6)),
    "6x6": ((6, 6), (2, 2), (2, 2, 2, 2), 1, (8, 8)),
    "7x7 padded by 3": ((7, 7), (2, 2), (3, 3, 3, 3), 1, (10, 8)),
    "no padding, last row unread": ((3, 3), (2, 2), (0, 0, 0, 0), 1, (8, 8)),
    "padded at the end alone": ((3, 3), (2, 2), (0, 0, 1, 1), 1, (8, 8)),
    "one axis, uneven kernel": ((3, 4), (2, 1), (1, 2, 1, 1), 1, (8, 7)),
    "the other axis": ((2, 3), (1, 2), (0, 1, 1, 1), 1, (7, 8)),
    "groups": ((3, 3), (2, 2), (1, 1, 1, 1), 4, (8, 8)),
    "a kernel a channel": ((3, 3), (2, 2), (1, 1, 1, 1), 16, (8, 8)),
}
BY_CONV_TRANSPOSE = {
    "odd size": ((3, 3), (2, 2), (1, 1, 1, 1), 1, (9, 8)),
    "phases without a tap": ((1, 1), (2, 2), (0, 0, 0, 0), 1, (8, 8)),
    "stride 3": ((3, 3), (3, 3), (0, 0, 0, 0), 1, (9, 9)),
    "padded wider than the kernel": ((3, 3), (2, 2), (4, 4, 4, 4), 1, (8, 8)),
}
FORMS = {name: (form, True) for name, form in BY_PHASES.items()}
FORMS |= {name: (form, False) for name, form in BY_CONV_TRANSPOSE.items()}


@pytest.mark.parametrize("name", FORMS)
def test_strided_convolution_has_torchs_gradient(name, question, errors_by_row):
    (kernel, strides, pads, group, sizes), by_phases = FORMS[name]
    top, left, bottom, right = pads
    operators = assert_gradient_is_torchs(
        question,
        errors_by_row,
        f"y = Conv<strides={list(strides)}, pads={list(pads)}, group={group}>(x, w)",
        (16, *sizes),
        {"w": (32, 16 // group, *kernel)},
        lambda x, w: F.conv2d(F.pad(x, (left, right, top, bottom)), w, stride=strides, groups=group),
    )
    assert ("ConvTranspose" not in operators) == by_phases


def test_shortcut_is_added_phase_by_phase(question, errors_by_row):
    operators = assert_gradient_is_torchs(
        question,
        errors_by_row,
        "a = Conv<strides=[2,2], pads=[1,1,1,1]>(x, w) b = Conv<strides=[2,2]>(x, v) y = Add(a, b)",
        (16, 8, 6),
        {"w": (32, 16, 3, 3), "v": (32, 16, 1, 1)},
        lambda x, w, v: F.conv2d(x, w, stride=2, padding=1) + F.conv2d(x, v, stride=2),
    )
    assert "ConvTranspose" not in operators
    assert operators.count("Concat") == 1


def test_three_branches_of_different_strides_are_added(question, errors_by_row):
    operators = assert_gradient_is_torchs(
        question,
        errors_by_row,
        "a = Conv<strides=[2,2], pads=[1,1,1,1]>(x, w) b = Conv<strides=[1,2]>(x, v) "
        "c = Conv<strides=[2,2]>(x, u) d = Flatten(a) e = Flatten(b) f = Flatten(c) "
        "y = Concat<axis=1>(d, e, f)",
        (16, 8, 6),
        {"w": (32, 16, 3, 3), "v": (16, 16, 1, 2), "u": (16, 16, 2, 2)},
        lambda x, w, v, u: torch.cat(
            [
                F.conv2d(x, w, stride=2, padding=1).flatten(1),
                F.conv2d(x, v, stride=(1, 2)).flatten(1),
                F.conv2d(x, u, stride=2).flatten(1),
            ],
            dim=1,
        ),
    )
    assert "ConvTranspose" not in operators


@pytest.mark.parametrize("function", ["Relu", "Sigmoid"])
def test_activation_before_a_convolution(function, question, errors_by_row):
    operators = assert_gradient_is_torchs(
        question,
        errors_by_row,
        f"a = {function}(x) b = Conv<pads=[1,1,1,1]>(a, w) y = Add(a, b)",
        (16, 6, 5),
        {"w": (16, 16, 3, 3)},
        lambda x, w: (lambda a: a + F.conv2d(a, w, padding=1))(getattr(torch, function.lower())(x)),
    )
    assert "HardSigmoid" in operators
    assert "Where" not in operators[operators.index("Squeeze") :]


def test_relu_passes_no_infinite_gradient_of_what_it_cut_off(question, errors_by_row):
    """torch's gradient of sqrt(relu(x)) is 0 where x < 0, though sqrt has slope infinity at 0."""
    assert_gradient_is_torchs(
        question,
        errors_by_row,
        "a = Relu(x) y = Sqrt(a)",
        (4, 3),
        {},
        lambda x: torch.relu(x).sqrt(),
    )


def test_a_gradient_has_the_named_batch_of_its_value_where_a_reshape_hides_it():
    """Or ONNX Runtime leaves its blocked layout at every product of the two: 1.1 times the time."""
    model, _ = built(
        "r = Reshape(x, s) t = Transpose<perm=[0,1,3,2]>(r) a = Conv<pads=[1,1,1,1]>(t, w) b = Sigmoid(a) "
        "y = Conv(b, w)",
        (16, 8, 6),
        {"s": np.array([-1, 16, 6, 8]), "w": (16, 16, 3, 3), "matrix": (16 * 6 * 4, CLASSES)},
    )
    gradient = differentiate(model)
    batches = {
        value.name: value.type.tensor_type.shape.dim[0].dim_param
        for value in gradient.graph.value_info
        if len(value.type.tensor_type.shape.dim) == 4
    }
    (product,) = [
        node
        for node in gradient.graph.node
        if node.op_type == "Mul" and batches.get(node.input[0]) and node.output[0] in batches
    ]
    assert {batches[name] for name in ("r", "t", "a", "b", product.input[0], product.output[0])} == {"n"}
