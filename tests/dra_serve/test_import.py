"""What `import dra_serve` offers is there, and works without torch. (How light it is: test_structure.py.)"""

import subprocess
import sys

import pytest

import dra_serve

TORCH_FREE_ATTACK = """
import sys
import dra_serve
import numpy as np
model = dra_serve.load(sys.argv[1])
x = np.full((2, *model.input_shape), 0.5, np.float32)
dra_serve.attack(model, x, model.logits(x).argmax(axis=1), steps=3, restarts=2)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def run(code: str, *arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_a_folder_is_attacked_without_torch_or_onnx(tiny_onnx_folder):
    loaded = run(TORCH_FREE_ATTACK, str(tiny_onnx_folder()))
    assert "onnxruntime" in loaded
    assert not {"torch", "onnx", "gradio", "bentoml"} & set(loaded)


@pytest.mark.parametrize("name", dra_serve.__all__)
def test_every_public_name_resolves(name):
    assert getattr(dra_serve, name)
    assert name in dir(dra_serve)


def test_the_public_names():
    assert dra_serve.__all__ == ["Client", "__version__", "attack", "evaluate", "load"]


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = dra_serve.nothing
