"""Someone else's ONNX file: what it takes is declared once, and it is attacked white-box without torch."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

import dra_serve
from dra_serve.attacks.losses import LOSS_FUNCTIONS
from dra_serve.bring_your_own import derive
from dra_serve.bring_your_own.declaration import Declaration, beside
from dra_serve.bring_your_own.slope import measure_slope
from dra_serve.errors import BadRequest, ModelFolderError
from dra_serve.onnx_classifier import OnnxClassifier
from dra_serve.source_options import Source, parse

SIZE, CLASSES = (12, 10), 5
MEAN, STD = (103.9, 116.8, 123.7), (57.4, 57.1, 58.4)
FOREIGN = {"layout": "nhwc", "channels": "bgr", "range": 255.0, "mean": MEAN, "std": STD}


class Network(nn.Module):
    """A small network as others write them: its input form is `layout`, its end maybe a softmax."""

    def __init__(self, *, layout="nchw", softmax=False, squeeze=True, channels=3, dtype=None):
        super().__init__()
        torch.manual_seed(1)
        self.body = nn.Sequential(
            nn.Conv2d(channels, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, CLASSES, 3)
        )
        self.layout, self.softmax, self.squeeze, self.dtype = layout, softmax, squeeze, dtype
        self.body[1].running_var.uniform_(0.5, 2)

    def logits(self, x):
        x = x if self.dtype is None else x.to(self.body[0].weight.dtype)
        x = x.permute(0, 3, 1, 2) if self.layout == "nhwc" else x
        z = self.body(x).mean((2, 3), keepdim=True) * 3
        return z.flatten(1) if self.squeeze else z

    def forward(self, x):
        z = self.logits(x)
        return torch.softmax(z, 1) if self.softmax else z


def export(network, path, *, batch=None, opset=11, open_size=False, dtype=torch.float32):
    sizes = (*SIZE, 3) if network.layout == "nhwc" else (network.body[0].in_channels, *SIZE)
    axes = {} if batch else {0: "batch"}
    axes |= {2: "height", 3: "width"} if open_size else {}
    file = io.BytesIO()
    x = torch.rand(batch or 2, *sizes).to(dtype)
    options = {"input_names": ["pixels"], "output_names": ["scores"], "dynamic_axes": {"pixels": axes}}
    torch.onnx.export(network.eval(), (x,), file, dynamo=False, opset_version=opset, **options)
    path.write_bytes(file.getvalue())
    return path


def images(n=4, channels=3, size=SIZE):
    return np.random.default_rng(0).random((n, channels, *size), np.float32)


def foreign_input(x):
    """The declared preprocessing as a user would write it in torch: x in [0, 1], RGB, NCHW."""
    pixels = 255 * x.flip(1)
    mean, std = (torch.tensor(v, dtype=x.dtype).view(3, 1, 1) for v in (MEAN, STD))
    return ((pixels - mean) / std).permute(0, 2, 3, 1)


def by_torch(network, x, y, loss, target, preprocess=lambda x: x):
    network, x = network.eval().double(), torch.from_numpy(x).double().requires_grad_(True)
    z = network.logits(preprocess(x)).flatten(1)
    value, slope = LOSS_FUNCTIONS[loss](z.detach(), torch.from_numpy(y), torch.from_numpy(target))
    (grad,) = torch.autograd.grad(z, x, slope)
    return z.detach().numpy(), value.numpy(), grad.numpy()


def assert_is_the_original(model, network, preprocess=lambda x: x, n=4):
    x = images(n, model.input_shape[0], model.input_shape[1:])
    y = np.arange(n) % CLASSES
    target = (y + 1) % CLASSES
    for loss in ("ce", "margin", "dlr_targeted"):
        z, value, grad = by_torch(network, x, y, loss, target, preprocess)
        ours = model.loss_and_grad(x, y, loss, target)
        np.testing.assert_allclose(model.logits(x), z, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(ours[0], z, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(ours[1], value, rtol=1e-4, atol=1e-5)
        assert np.linalg.norm(ours[2] - grad) < 1e-5 * np.linalg.norm(grad)


@pytest.fixture
def foreign(tmp_path):
    """An NHWC, BGR, 0-255, mean/std file that ends in a softmax, batch fixed at 1, and its network."""
    network = Network(layout="nhwc", softmax=True)
    return export(network, tmp_path / "theirs.onnx", batch=1), network


def test_a_foreign_file_is_attacked_white_box(foreign):
    path, network = foreign
    model = dra_serve.load(path, **FOREIGN)
    assert model.input_shape == (3, *SIZE)
    assert model.classes == tuple("01234")
    assert_is_the_original(model, network, foreign_input)
    x = images()
    result = dra_serve.attack(model, x, model.logits(x).argmax(axis=1), eps=0.2, steps=10)
    assert result.success.any()
    said = "; ".join(model.notes)
    assert "takes NHWC, BGR in [0, 255], mean 103.9 116.8 123.7, std 57.4 57.1 58.4" in said
    assert "declared, kept in theirs.onnx.config.json" in said
    assert "the softmax at its end is taken off" in said
    assert "finite differences agree with its gradient" in said


def test_it_is_declared_once_and_derived_once(foreign):
    path, network = foreign
    first = dra_serve.load(path, **FOREIGN)
    assert json.loads(beside(path).read_text())["channels"] == "bgr"
    again = dra_serve.load(path)
    assert "declared in theirs.onnx.config.json" in again.notes[0]
    assert "gradient from the cache" in again.notes[-1]
    assert (again.sha256, again.gradient_sha256) == (first.sha256, first.gradient_sha256)
    assert_is_the_original(again, network, foreign_input)
    other = dra_serve.load(path, channels="rgb")
    assert other.sha256 != first.sha256
    assert "RGB in [0, 255], mean 103.9" in other.notes[0]


def test_nothing_is_kept_of_a_declaration_that_does_not_fit(foreign):
    path, _ = foreign
    with pytest.raises(BadRequest, match=r"mean: got .*; allowed: 3 numbers"):
        dra_serve.load(path, mean=(1.0, 2.0, 3.0, 4.0))
    with pytest.raises(BadRequest, match="input-size: got 20x20; allowed: 12x10: the file fixes it"):
        dra_serve.load(path, input_size=(20, 20))
    with pytest.raises(BadRequest, match=r"allowed: 1 or 3 channels in nchw; --layout"):
        dra_serve.load(path, layout="nchw")
    assert not beside(path).exists()


@pytest.mark.parametrize(
    ("given", "field"),
    [({"layout": "nwhc"}, "layout"), ({"channels": "gbr"}, "channels"), ({"range": 0.0}, "range"),
     ({"range": float("nan")}, "range"), ({"std": (1.0, 0.0, 1.0)}, "std"), ({"mean": ()}, "mean"),
     ({"input_size": (0, 5)}, "input-size"), ({"scale": 3}, "scale")],
)  # fmt: skip
def test_a_declaration_out_of_range_is_refused_by_its_option(foreign, given, field):
    with pytest.raises(BadRequest) as caught:
        dra_serve.load(foreign[0], **given)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"schema_version": 2}', '{"channel": "bgr"}', '{"mean": "0.5"}', '{"classes": ["a"]}'],
)
def test_a_broken_declaration_is_refused_by_its_file(foreign, text):
    beside(foreign[0]).write_text(text)
    with pytest.raises(ModelFolderError, match=r"^theirs\.onnx\.config\.json: "):
        dra_serve.load(foreign[0])


def test_classes_may_be_named_beside_the_file(foreign):
    beside(foreign[0]).write_text(json.dumps({"classes": ["ant", "bee", "cat", "dog", "elk"]}))
    assert dra_serve.load(foreign[0]).classes == ("ant", "bee", "cat", "dog", "elk")


def test_only_files_are_declared():
    with pytest.raises(BadRequest, match=r"layout: got bundled:dra; allowed: with an \.onnx file alone"):
        dra_serve.load("bundled:dra", layout="nhwc")


def test_nothing_declared_is_said_to_be_assumed(tmp_path):
    network = Network()
    model = dra_serve.load(export(network, tmp_path / "plain.onnx"))
    assert model.notes[0].startswith("takes NCHW, RGB in [0, 1], no mean and std (assumed: --layout,")
    assert not beside(tmp_path / "plain.onnx").exists()
    assert_is_the_original(model, network)


def test_height_and_width_left_open_are_fixed_by_the_input_size(tmp_path):
    network = Network()
    path = export(network, tmp_path / "open.onnx", open_size=True)
    with pytest.raises(BadRequest, match="input-size: got None; allowed: HxW"):
        dra_serve.load(path)
    model = dra_serve.load(path, input_size=(9, 15))
    assert model.input_shape == (3, 9, 15)
    assert_is_the_original(model, network)
    assert dra_serve.load(path).input_shape == (3, 9, 15)


@pytest.mark.parametrize("opset", [9, 12, 17])
def test_a_softmax_over_channels_before_the_end_is_found(tmp_path, opset):
    """(N, K, 1, 1), as SqueezeNet has it."""
    network = Network(softmax=True, squeeze=False)
    model = dra_serve.load(export(network, tmp_path / "maps.onnx", opset=opset))
    assert "the softmax at its end is taken off" in model.notes
    assert_is_the_original(model, network)


def test_probabilities_without_a_softmax_are_turned_into_logits(tmp_path):
    class Divided(Network):
        def forward(self, x):
            e = self.logits(x).exp()
            return e / e.sum(1, keepdim=True)

    network = Divided()
    model = dra_serve.load(export(network, tmp_path / "divided.onnx"))
    assert "its outputs are probabilities: their logarithm is taken" in model.notes
    x, y = images(), np.arange(4)
    z, value, grad = by_torch(network, x, y, "margin", y)
    ours = model.loss_and_grad(x, y, "margin")
    np.testing.assert_allclose(np.diff(ours[0]), np.diff(z), rtol=1e-4, atol=1e-5)  # up to a shift
    np.testing.assert_allclose(ours[1], value, rtol=1e-4, atol=1e-5)
    assert np.linalg.norm(ours[2] - grad) < 1e-5 * np.linalg.norm(grad)


def test_eight_bit_input_is_read_as_floats(tmp_path):
    network = Network(layout="nhwc", dtype=torch.uint8)
    path = export(network, tmp_path / "bytes.onnx", dtype=torch.uint8)
    model = dra_serve.load(path, range=255.0)
    assert any("8-bit input" in note for note in model.notes)
    assert_is_the_original(model, network, lambda x: 255 * x.permute(0, 2, 3, 1))
    whole = np.random.default_rng(2).integers(0, 256, (3, 3, *SIZE)).astype(np.uint8)
    theirs = network.float()(torch.from_numpy(whole.transpose(0, 2, 3, 1))).detach().numpy()
    np.testing.assert_allclose(model.logits(whole.astype(np.float32) / 255), theirs, rtol=1e-4, atol=1e-4)


def test_one_grey_channel(tmp_path):
    network = Network(channels=1)
    model = dra_serve.load(export(network, tmp_path / "grey.onnx"), mean=(0.5,), std=(0.25,))
    assert model.input_shape == (1, *SIZE)
    assert_is_the_original(model, network, lambda x: (x - 0.5) / 0.25)


def test_of_two_outputs_the_first_that_may_be_logits_is_taken(tmp_path):
    network = Network()
    model = onnx.load(export(network, tmp_path / "two.onnx"))
    model.graph.node.append(helper.make_node("ReduceMean", ["scores"], ["mean"], keepdims=0))
    model.graph.output.insert(0, helper.make_tensor_value_info("mean", TensorProto.FLOAT, []))
    onnx.save(model, tmp_path / "two.onnx")
    loaded = dra_serve.load(tmp_path / "two.onnx")
    assert "of its 2 outputs scores is taken" in loaded.notes
    assert_is_the_original(loaded, network)


def test_weights_beside_the_file_are_part_of_what_is_cached(tmp_path):
    network = Network()
    path = export(network, tmp_path / "split.onnx")
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert_is_the_original(dra_serve.load(path), network)
    weights = (tmp_path / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes((np.frombuffer(weights, np.float32) * 1.25).tobytes())
    again = dra_serve.load(path)
    assert "gradient derived" in again.notes[-1]
    assert not np.allclose(again.logits(images()), network.float()(torch.from_numpy(images())).detach())


def test_a_changed_rule_is_not_answered_from_the_cache(tmp_path, monkeypatch):
    """Found when a faster rule of the same version went on serving the graphs of the slower one."""
    path = export(Network(), tmp_path / "one.onnx")
    rules = tmp_path / "rules"
    (rules / "inner").mkdir(parents=True)
    (rules / "inner" / "conv.py").write_text("one")
    monkeypatch.setattr(derive, "_SOURCE", [rules])
    said = []
    for source in ("one", "one", "another"):
        (rules / "inner" / "conv.py").write_text(source)
        derive._source.cache_clear()  # as a new process has it
        said.append(derive.derive(path, Declaration()).cached)
    derive._source.cache_clear()
    assert said == [False, True, False]


@pytest.mark.parametrize("wrong", [1.03, "part"])
def test_a_wrong_gradient_is_told_by_finite_differences(tmp_path, wrong):
    path = export(Network(), tmp_path / "wrong.onnx")
    right = dra_serve.load(path)
    assert measure_slope(right).error < 1e-3

    class Wrong:
        input_shape, classes, has_gradient, logits = right.input_shape, right.classes, True, right.logits

        def loss_and_grad(self, x, y, loss="ce", target=None):
            logits, value, grad = right.loss_and_grad(x, y, loss, target)
            if wrong == "part":
                grad[:, :, :, :5] = 0
                return logits, value, grad
            return logits, value, grad * np.float32(wrong)

    slope = measure_slope(Wrong())
    assert slope.error > 0.02
    assert slope.words().startswith("WARNING: finite differences differ from its gradient by")


def test_an_operator_that_stops_the_gradient_is_named(tmp_path):
    class Stepped(Network):
        def logits(self, x):
            return super().logits(x) * (1 + torch.floor(x.mean((1, 2, 3)) * 2)[:, None])

    network = Stepped()
    for again in range(2):
        model = dra_serve.load(export(network, tmp_path / "stepped.onnx"))
        assert "Floor passes no gradient: its derivative is zero, other ways remain" in model.notes, again
    assert_is_the_original(model, network)


def test_a_gradient_that_rounding_hides_is_not_called_wrong_or_right(linear_onnx, tmp_path):
    """Logits of 1e4 that hardly depend on x: float32 cannot tell two steps apart."""
    weights = np.random.default_rng(0).standard_normal((4, 192)) * 1e-4
    onnx.save(linear_onnx(weights, np.array([1e4, 0, 0, 0.0]), (3, 8, 8)), tmp_path / "stiff.onnx")
    assert "say nothing of its gradient" in dra_serve.load(tmp_path / "stiff.onnx").notes[-1]


def test_without_torch(foreign):
    """A clean process: no torch is loaded while the file is declared, derived and attacked."""
    path, _ = foreign
    code = (
        "import sys, dra_serve, numpy as np\n"
        f"m = dra_serve.load({str(path)!r}, **{FOREIGN!r})\n"
        "x = np.random.default_rng(0).random((2, *m.input_shape), np.float32)\n"
        "dra_serve.attack(m, x, np.zeros(2, int), steps=2)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_weights_that_no_converter_takes_are_folded_first(tmp_path):
    """A batch norm in training mode over the weights, as weight standardisation is exported at opset 13."""

    class Standardised(Network):
        def logits(self, x):
            conv = self.body[0]
            flat = conv.weight.reshape(1, len(conv.weight), -1)
            weight = nn.functional.batch_norm(flat, None, None, training=True).reshape_as(conv.weight)
            h = nn.functional.conv2d(x, weight, conv.bias, 2, 1)
            return self.body[1:](h).mean((2, 3))

    network = Standardised()
    loaded = dra_serve.load(export(network, tmp_path / "standardised.onnx", opset=13))
    assert loaded.has_gradient
    assert_is_the_original(loaded, network)


def test_the_graph_itself_is_used_where_nothing_has_to_be_done(tmp_path):
    path = export(Network(), tmp_path / "plain.onnx")
    direct = OnnxClassifier(path, None, classes=tuple("01234"), input_shape=(3, *SIZE))
    assert dra_serve.load(path).sha256 == direct.sha256


def test_a_file_that_is_no_image_classifier(tmp_path):
    def saved(shape, kind=TensorProto.FLOAT):
        graph = helper.make_graph(
            [helper.make_node("Identity", ["x"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", kind, shape)],
            [helper.make_tensor_value_info("y", kind, shape)],
        )
        opsets = [helper.make_opsetid("", 17)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "odd.onnx")
        return Path(tmp_path / "odd.onnx")

    with pytest.raises(BadRequest, match="model input shape"):
        dra_serve.load(saved([1, 16]))
    with pytest.raises(BadRequest, match="model input type"):
        dra_serve.load(saved([1, 3, 4, 4], TensorProto.INT64))
    with pytest.raises(BadRequest, match="UINT8 into"):
        dra_serve.load(saved([1, 3, 4, 4], TensorProto.UINT8))


def test_the_command_line_declares_and_says_so_in_one_line(foreign, tmp_path):
    from dra_serve.images import encode_png

    image = tmp_path / "one.png"
    image.write_bytes(encode_png((255 * images(1)[0].transpose(1, 2, 0)).astype(np.uint8)))
    options = "--layout NHWC --channels bgr --range 255 --mean 103.9,116.8,123.7 --std 57.4,57.1,58.4"

    def predict(*more):
        command = [sys.executable, "-m", "dra_serve.cli", "predict", str(foreign[0]), str(image), "--json"]
        return subprocess.run([*command, *more], capture_output=True, text=True, check=False)

    first, again, wrong = predict(*options.split()), predict(), predict("--input-size", "big")
    assert json.loads(first.stdout) == json.loads(again.stdout)
    assert first.stderr.count("\n") == 1
    assert first.stderr.startswith("theirs: takes NHWC, BGR in [0, 255]")
    assert (wrong.returncode, wrong.stderr) == (
        2,
        "dra-serve: input-size: got big; allowed: HxW, such as 224x224\n",
    )


def write_module(folder, monkeypatch, body):
    (folder / "theirnets.py").write_text("import torch\n" + body)
    monkeypatch.chdir(folder)
    monkeypatch.delitem(sys.modules, "theirnets", raising=False)


NETWORK = """
def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.GELU(),
                               torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 5))
"""


def test_a_torch_module_by_the_name_of_its_function(tmp_path, monkeypatch, capsys):
    write_module(tmp_path, monkeypatch, NETWORK)
    source = Source(parse(input_size="12x10"))
    model = source.load_any("theirnets:net")
    assert capsys.readouterr().err == (
        "net: takes RGB in [0, 1], as every module:function does; put in evaluation mode\n"
    )
    network = sys.modules["theirnets"].net()
    network.logits = network.forward
    assert_is_the_original(model, network)
    assert model.sha256 == source.load_any("theirnets:net").sha256
    x = images()
    y = model.logits(x).argmax(axis=1)
    result = dra_serve.attack(model, x, y, eps=0.5, steps=10)
    assert (result.loss > model.loss_and_grad(x, y)[1]).all()
    assert measure_slope(model).error < 1e-3


@pytest.mark.parametrize(
    ("body", "message"),
    [("def net(): return 3", "theirnets:net -> int"), ("def other(): pass", "AttributeError"),
     ("def net(): raise OSError('no weights')", "OSError: no weights"),
     ("def net(): return torch.nn.Conv2d(3, 5, 3)", r"giving \(2, 5, 10, 8\)"),
     ("def net(): return torch.nn.Linear(3, 5)", "input-size: got 3x12x10")],
)  # fmt: skip
def test_a_function_of_another_kind_is_refused(tmp_path, monkeypatch, body, message):
    write_module(tmp_path, monkeypatch, body)
    with pytest.raises(BadRequest, match=message):
        Source(parse(input_size="12x10")).load_any("theirnets:net")


def test_a_torch_module_has_its_own_preprocessing_and_is_not_served(tmp_path, monkeypatch):
    write_module(tmp_path, monkeypatch, NETWORK)
    with pytest.raises(BadRequest, match=r"channels: got theirnets:net; allowed: with an \.onnx file alone"):
        Source(parse(channels="bgr")).load_any("theirnets:net")
    with pytest.raises(BadRequest, match="input-size: got None; allowed: HxW"):
        Source().load_any("theirnets:net")
    with pytest.raises(BadRequest, match="module:function is for evaluate and doctor"):
        Source().load("theirnets:net")
