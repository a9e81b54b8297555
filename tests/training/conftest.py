"""Small data, a small student and a small teacher: real ones, so that nothing in training is replaced."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from training.data import ImageData
from training.recipes.classifier import Recipe
from training.run import Run
from training.teachers.denoiser import Denoiser
from training.teachers.features import CachedFeatures, FeatureChoice, cache_features
from training.teachers.folder import build_unet, save_teacher
from training.teachers.preconditioning import EDM

IMAGES = 64
CHOICE = FeatureChoice(blocks=("up_blocks.0",), sigma=0.1, grid=1, draws=2)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Bit-for-bit comparisons need the same order of additions."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def data() -> ImageData:
    """64 training and 16 test images, 3 x 8 x 8, whose brightness tells the class."""
    rng = torch.Generator().manual_seed(0)
    y = torch.arange(IMAGES + 16) % 4
    noise = torch.randint(0, 100, (len(y), 3, 8, 8), generator=rng)
    x = (noise + 40 * y[:, None, None, None]).to(torch.uint8)
    return ImageData("blobs", ("a", "b", "c", "d"), x[:IMAGES], y[:IMAGES], x[IMAGES:], y[IMAGES:])


@pytest.fixture
def recipe() -> Recipe:
    """Eight steps: two epochs of four."""
    return Recipe(
        name="tiny",
        data="blobs",
        width=4,
        blocks=(1, 1),
        eps=0.1,
        alpha=0.05,
        epochs=2,
        batch=12,
        rate=0.05,
        padding=1,
        projector=8,
        held_out=16,
        teacher="no such teacher",
        teacher_blocks=CHOICE.blocks,
        teacher_grid=CHOICE.grid,
    )


@pytest.fixture(scope="session")
def make_teacher() -> Callable[..., Denoiser]:
    """Return make(seed=0): an EDM denoiser of 3 x 8 x 8 images, frozen, with random weights."""

    def make(seed: int = 0) -> Denoiser:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            unet = build_unet(image_channels=3, size=8, patch=2, channels=(8, 16), layers=1, norm_groups=4)
        return Denoiser(unet, EDM()).eval().requires_grad_(False)

    return make


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory, make_teacher: Callable[..., Denoiser]) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    save_teacher(make_teacher(), folder)
    return folder


@pytest.fixture
def features(data: ImageData, make_teacher: Callable[..., Denoiser], tmp_path: Path) -> CachedFeatures:
    path = tmp_path / "features.safetensors"
    return cache_features(make_teacher(), data.train_x, CHOICE, path=path, data_sha256=data.sha256())


@pytest.fixture
def make_run(recipe: Recipe, data: ImageData) -> Callable[..., Run]:
    """Return make(features=None, **fields): a run of the tiny recipe with fields replaced."""

    def make(features: CachedFeatures | None = None, **fields: object) -> Run:
        return Run(replace(recipe, **fields), data, torch.arange(48), features)

    return make
