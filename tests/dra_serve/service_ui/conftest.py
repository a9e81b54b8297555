"""A sturdy model and a fragile one, linear and on CIFAR-10's classes and size, and pictures for both."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from dra_serve.gradient_graph import differentiate
from dra_serve.images import encode_png
from dra_serve.model_config import ModelConfig
from dra_serve.model_folder import write_config, write_receipts
from dra_serve.service.registry import Registry
from dra_serve.sums import write_sums

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SHAPE = (3, 32, 32)
RECEIPT = {
    "suite": None,
    "attacks": [{"name": "pgd", "arguments": {"steps": 50, "restarts": 5, "norm": "linf", "eps": 8 / 255}}],
    "norm": "linf",
    "eps": 8 / 255,
    "n": 10_000,
    "clean_accuracy": 0.655,
    "robust_accuracy_8bit": 0.3751,
}


@pytest.fixture(scope="session")
def pair_folders(
    tmp_path_factory: pytest.TempPathFactory, linear_onnx: Callable[..., onnx.ModelProto]
) -> list[Path]:
    """Return the folders of `tiny-dra`, which says cat whatever the attack, and of its twin `tiny-at`, which
    any attack fools in a few steps."""
    rng, base = np.random.default_rng(0), tmp_path_factory.mktemp("models")
    own, weights = rng.standard_normal((2, len(CLASSES), int(np.prod(SHAPE))))
    says_cat = 3.0 * (np.arange(len(CLASSES)) == CLASSES.index("cat"))
    networks = {
        "tiny-dra": linear_onnx(1e-4 * own, says_cat, SHAPE),
        "tiny-at": linear_onnx(0.05 * weights, -0.025 * weights.sum(axis=1), SHAPE),
    }
    twins = dict(zip(networks, reversed(networks), strict=True))
    for name, forward in networks.items():
        folder = base / name
        folder.mkdir()
        onnx.save(forward, folder / "model.onnx")
        onnx.save(differentiate(forward), folder / "model.gradient.onnx")
        write_config(folder, _config(name, lam=0.5 if name == "tiny-dra" else 0.0, twin=twins[name]))
        write_receipts(folder, [RECEIPT])
        write_sums(folder)
    return [base / name for name in networks]


@pytest.fixture(scope="session")
def registry(pair_folders: list[Path]) -> Registry:
    return Registry.load([str(folder) for folder in pair_folders])


@pytest.fixture(scope="session")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of three pictures of noise that fit, one that does not, and one file that is none."""
    folder = tmp_path_factory.mktemp("examples")
    for seed, name in enumerate(("cat-test-00001", "dog-test-00002", "ship-test-00003")):
        (folder / f"{name}.png").write_bytes(encode_png(noise(seed)))
    (folder / "wide.png").write_bytes(encode_png(noise(4, 32, 40)))
    (folder / "zz-text.png").write_text("no picture", encoding="utf-8")
    return folder


def noise(seed: int, height: int = 32, width: int = 32) -> np.ndarray:
    """Return uint8 (H, W, 3), every value as likely."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def slow_folder(tmp_path_factory: pytest.TempPathFactory, slow_onnx: Callable[..., onnx.ModelProto]) -> Path:
    """Return the folder of `slow`, whose attacks take seconds."""
    forward = slow_onnx(SHAPE, classes=len(CLASSES), width=96)
    folder = tmp_path_factory.mktemp("slow") / "slow"
    folder.mkdir()
    onnx.save(forward, folder / "model.onnx")
    onnx.save(differentiate(forward), folder / "model.gradient.onnx")
    write_config(folder, _config("slow", lam=0.0, twin=None))
    write_sums(folder)
    return folder


def _config(name: str, *, lam: float, twin: str | None) -> ModelConfig:
    return ModelConfig.model_validate(
        {
            "name": name,
            "classes": CLASSES,
            "input_shape": SHAPE,
            "normalisation": {"mean": [0.5] * 3, "std": [0.25] * 3},
            "network": {"name": "linear", "arguments": {}},
            "data": {"name": "noise", "sha256": "0" * 64, "images": 1},
            "threat": {"norm": "linf", "eps": "8/255"},
            "recipe": {"lam": lam},
            "twin": twin,
        }
    )
