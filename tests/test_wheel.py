"""The built wheel, installed into an empty environment far from the sources: what a stranger gets.

Needs pip to reach PyPI, or its cache.
"""

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent

ATTACK = """
import sys
from pathlib import Path
import numpy as np
import dra_serve

assert "site-packages" in dra_serve.__file__, dra_serve.__file__
model = dra_serve.load(sys.argv[1])
x = np.load(sys.argv[2])
y = model.logits(x).argmax(axis=1)
result = dra_serve.attack(model, x, y, "pgd", eps="8/255", steps=5)
np.save(sys.argv[3], result.x_adv)
print(dra_serve.__version__, *sorted({"torch", "onnx", "gradio", "bentoml"} & {*sys.modules}))
"""


@dataclass(frozen=True)
class Installed:
    """The wheel, and the environment that holds it and its core dependencies alone."""

    wheel: Path
    bin: Path

    @property
    def version(self) -> str:
        return self.wheel.name.split("-")[1]

    def run(self, *command: str | Path, cwd: Path) -> str:
        """Return stdout of a command of the environment, run where no source of ours lies on the path."""
        clean = {
            name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")
        }
        program, *arguments = map(str, command)
        done = subprocess.run(
            [self.bin / program, *arguments], cwd=cwd, env=clean, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")
    _quiet(sys.executable, "-m", "build", "--wheel", "--outdir", folder / "dist", ROOT)
    (wheel,) = (folder / "dist").glob("*.whl")
    _quiet(sys.executable, "-m", "venv", folder / "venv")
    _quiet(folder / "venv/bin/python", "-m", "pip", "install", "--quiet", wheel)
    return Installed(wheel, folder / "venv/bin")


def _quiet(*command: str | Path) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_wheel_holds_the_package_and_nothing_else(installed: Installed) -> None:
    with zipfile.ZipFile(installed.wheel) as wheel:
        names = wheel.namelist()
    package = [str(path.relative_to(ROOT)) for path in (ROOT / "dra_serve").rglob("*.py")]
    assert {*package} <= {*names}
    assert {name.partition("/")[0] for name in names} == {
        "dra_serve",
        f"dra_serve-{installed.version}.dist-info",
    }
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_core_install_brings_no_heavy_dependency(installed: Installed, tmp_path: Path) -> None:
    listed = installed.run("pip", "list", "--format=freeze", cwd=tmp_path).lower()
    names = {line.partition("==")[0] for line in listed.splitlines()}
    assert "onnxruntime" in names
    assert not names & {"torch", "onnx", "gradio", "bentoml", "fastapi"}


def test_command_line_starts(installed: Installed, tmp_path: Path) -> None:
    told = installed.run("dra-serve", "--help", cwd=tmp_path)
    for command in ("serve", "predict", "attack", "models", "push", "pull"):
        assert command in told


def test_model_folder_loads_and_is_attacked(
    installed: Installed, tmp_path: Path, tiny_onnx_folder: Callable[..., Path]
) -> None:
    folder = tiny_onnx_folder()
    x = np.random.default_rng(0).random((2, 3, 8, 8), dtype=np.float32)
    np.save(tmp_path / "x.npy", x)
    told = installed.run(
        "python", "-c", ATTACK, folder, tmp_path / "x.npy", tmp_path / "x_adv.npy", cwd=tmp_path
    )
    assert told.split() == [installed.version]  # the version, and none of the heavy modules
    x_adv = np.load(tmp_path / "x_adv.npy")
    assert 0 < np.abs(x_adv - x).max() <= 8 / 255 + 1e-6


def test_bundled_pair_comes_along(installed: Installed, tmp_path: Path) -> None:
    code = "import dra_serve; print(*(dra_serve.load(f'bundled:{name}').name for name in ('dra', 'at')))"
    assert len(installed.run("python", "-c", code, cwd=tmp_path).split()) == 2
