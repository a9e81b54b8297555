"""ONNX Runtime behind the protocol: right answers, and no silent ones."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest

from dra_serve.attacks.losses import LOSS_FUNCTIONS
from dra_serve.classifier import LOSSES
from dra_serve.errors import BadRequest, ModelFolderError, NoGradient
from dra_serve.gradient_graph import differentiate
from dra_serve.model_folder import read_folder
from dra_serve.onnx_classifier import OnnxClassifier

SHAPE = (3, 8, 8)
CLASSES = ("cat", "dog", "ship", "truck")


@pytest.fixture
def model(tiny_onnx_folder):
    return read_folder(tiny_onnx_folder()).classifier()


@pytest.fixture
def forward(tiny_onnx):
    return tiny_onnx()


def images(n=6, seed=0):
    return np.random.default_rng(seed).random((n, *SHAPE), dtype=np.float32)


def classifier(forward, gradient, **options):
    options = {"classes": CLASSES, "input_shape": SHAPE, **options}
    as_bytes = [None if m is None else m.SerializeToString() for m in (forward, gradient)]
    return OnnxClassifier(*as_bytes, **options)


@pytest.mark.parametrize("loss", LOSSES)
def test_loss_and_gradient_are_those_of_the_logits(model, loss):
    x, y, target = images(), np.array([0, 1, 2, 3, 0, 1]), np.array([1, 2, 3, 0, 2, 3])
    logits, value, grad = model.loss_and_grad(x, y, loss, target)
    np.testing.assert_allclose(logits, model.logits(x), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(value, LOSS_FUNCTIONS[loss](logits, y, target)[0], rtol=1e-4, atol=1e-5)
    steep = np.abs(grad).max(axis=(1, 2, 3)) > 1e-6  # dlr is flat where y ranks third
    assert steep.sum() >= 4
    uphill = np.clip(x + np.float32(1e-3) * np.sign(grad), 0, 1)
    assert (model.loss_and_grad(uphill, y, loss, target)[1] > value)[steep].all()


def test_bytes_and_paths_give_the_same_model(model, forward):
    x = images()
    other = classifier(forward, differentiate(forward), name="other")
    np.testing.assert_array_equal(model.logits(x), other.logits(x))
    assert (model.name, other.name) == ("tiny", "other")
    assert model.has_gradient
    assert model.classes == CLASSES
    assert model.input_shape == SHAPE


def test_no_images(model):
    x = images(0)
    assert model.logits(x).shape == (0, 4)
    logits, value, grad = model.loss_and_grad(x, np.zeros(0, np.int64))
    assert (logits.shape, value.shape, grad.shape) == ((0, 4), (0,), (0, 3, 8, 8))


def test_without_a_gradient_graph(forward):
    model = classifier(forward, None)
    assert not model.has_gradient
    assert model.logits(images()).shape == (6, 4)
    with pytest.raises(NoGradient, match="has no gradient graph"):
        model.loss_and_grad(images(), np.zeros(6, int))


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.1, 1.1, 255])
def test_images_outside_the_unit_interval_are_refused(model, value):
    x = images()
    x[3, 1, 2, 2] = value
    for call in (model.logits, lambda x: model.loss_and_grad(x, np.zeros(6, int))):
        with pytest.raises(BadRequest, match="x: got values from"):
            call(x)


def test_wrong_shapes_and_types_are_refused(model):
    with pytest.raises(
        BadRequest, match=r"x: got dtype float64; allowed: float32 \(N, 3, 8, 8\) in \[0, 1\]"
    ):
        model.logits(images().astype(float))
    with pytest.raises(BadRequest, match=r"x: got shape \(6, 8, 8, 3\)"):
        model.logits(images().transpose(0, 2, 3, 1))


@pytest.mark.parametrize("bad", [4, -1])
@pytest.mark.parametrize("field", ["y", "target"])
def test_labels_out_of_range_are_refused_not_answered(model, field, bad):
    labels = {"y": np.zeros(6, int), "target": np.ones(6, int)}
    labels[field][2] = bad
    with pytest.raises(BadRequest, match=f"{field}: got {bad}; allowed: .* from 0 to 3"):
        model.loss_and_grad(images(), labels["y"], "dlr_targeted", labels["target"])


def test_unknown_loss_and_missing_target_are_refused(model):
    with pytest.raises(BadRequest, match="loss: got hinge"):
        model.loss_and_grad(images(), np.zeros(6, int), "hinge")
    with pytest.raises(BadRequest, match="target: got None"):
        model.loss_and_grad(images(), np.zeros(6, int), "dlr_targeted")


def test_eight_threads_get_the_answers_of_one(model):
    x, y = images(16), np.arange(16) % 4

    def one(i):
        return model.loss_and_grad(x[i : i + 1], y[i : i + 1])[2]

    alone = [one(i) for i in range(16)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(one, [*range(16)] * 8))
    for i, grad in enumerate(together):
        np.testing.assert_array_equal(grad, alone[i % 16])


def test_a_batch_fixed_at_one_is_split(linear_onnx):
    W = np.random.default_rng(0).standard_normal((4, 192))
    open_batch, fixed = (linear_onnx(W, np.zeros(4), SHAPE, batch=batch) for batch in ("n", 1))
    gradient = differentiate(open_batch)
    for value in [*gradient.graph.input, *gradient.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    x, y = images(), np.arange(6) % 4
    split, whole = classifier(fixed, gradient), classifier(open_batch, differentiate(open_batch))
    np.testing.assert_allclose(split.logits(x), whole.logits(x), rtol=1e-5, atol=1e-5)
    for a, b in zip(split.loss_and_grad(x, y), whole.loss_and_grad(x, y), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_a_gradient_graph_of_another_model_is_found_out(tiny_onnx, forward):
    with pytest.raises(
        ModelFolderError, match=r"model\.gradient\.onnx: its logits are not those of model\.onnx"
    ):
        classifier(forward, differentiate(tiny_onnx(seed=1)))


def test_a_forward_graph_is_no_gradient_graph(forward):
    with pytest.raises(ModelFolderError, match=r"^model\.gradient\.onnx: "):
        classifier(forward, forward)


def test_the_wrong_number_of_classes_or_pixels_is_found_out(forward):
    with pytest.raises(ModelFolderError, match=r"model\.onnx: logits \(2, 4\) for 2 images, not \(2, 3\)"):
        classifier(forward, None, classes=CLASSES[:3])
    with pytest.raises(ModelFolderError, match=r"model\.onnx: does not accept float32 \(2, 3, 8, 9\)"):
        classifier(forward, None, input_shape=(3, 8, 9))


def test_junk_is_no_model(tmp_path):
    path = tmp_path / "junk.onnx"
    path.write_bytes(b"not a protobuf")
    for source in (path, b"", b"junk"):
        with pytest.raises(ModelFolderError, match="ONNX Runtime cannot load it"):
            OnnxClassifier(source, None, classes=CLASSES, input_shape=SHAPE)


def test_input_and_output_may_have_any_name(forward):
    renamed = onnx.ModelProto.FromString(
        forward.SerializeToString().replace(b"\x01x", b"\x01q").replace(b"logits", b"scores")
    )
    onnx.checker.check_model(renamed)
    model, x = classifier(renamed, differentiate(renamed)), images()
    np.testing.assert_array_equal(model.logits(x), classifier(forward, None).logits(x))
    assert model.loss_and_grad(x, np.zeros(6, int))[2].shape == x.shape
