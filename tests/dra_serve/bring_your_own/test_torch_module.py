"""A torch network by the name of its function."""

import sys

import pytest

import dra_serve
from dra_serve.bring_your_own.slope import measure_slope
from dra_serve.errors import BadRequest
from dra_serve.source_options import Source, parse
from tests.dra_serve.bring_your_own.theirs import assert_is_the_original, images


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
