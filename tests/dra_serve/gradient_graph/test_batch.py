"""A batch fixed in the file."""

from dra_serve.gradient_graph import differentiate
from tests.dra_serve.gradient_graph.small import matrix_of, model


def test_batch_fixed_at_one_is_opened(question, errors_by_row):
    built = model(
        "r = Reshape(x, s) e = Exp(r) y = Reshape(e, t)", shape="1,6", head="y", s=[1, 2, 3], t=[1, 6]
    )
    asked = question.draw((7, 6), 4)
    matrix = matrix_of(built)
    gradient = differentiate(built)
    assert gradient.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "n"
    assert (
        errors_by_row(asked.ask_onnx(gradient)[2], asked.ask_torch(lambda x: x.exp() @ matrix)[2]).max()
        < 1e-5
    )


def test_batch_that_cannot_be_opened_stays_fixed(question, errors_by_row):
    """The mean over the batch is the image itself at n = 1 only: opening it would change the answers."""
    built = model("m = ReduceMean<keepdims=1>(x, a) e = Exp(m)", shape="1,6", head="e", a=[0])
    gradient = differentiate(built)
    assert gradient.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
    asked = question.draw((1, 6), 4)
    matrix = matrix_of(built)
    assert (
        errors_by_row(asked.ask_onnx(gradient)[2], asked.ask_torch(lambda x: x.exp() @ matrix)[2]).max()
        < 1e-5
    )
