"""Teachers on disk: diffusers pipeline folders (safetensors), ours and `google/ddpm-cifar10-32`-like ones."""

import hashlib
import json
from pathlib import Path

import torch
from diffusers import DDPMScheduler, EDMEulerScheduler, UNet2DModel

from dra_serve.errors import DataMissing
from training.teachers.denoiser import Denoiser
from training.teachers.preconditioning import DDPM, EDM, Preconditioning


def build_unet(
    *, image_channels: int, size: int, patch: int, channels: tuple[int, ...], layers: int, norm_groups: int
) -> UNet2DModel:
    """Return a U-Net without attention for images (image_channels, size, size) folded by `patch`."""
    return UNet2DModel(
        sample_size=size // patch,
        in_channels=image_channels * patch**2,
        out_channels=image_channels * patch**2,
        block_out_channels=channels,
        layers_per_block=layers,
        down_block_types=("DownBlock2D",) * len(channels),
        up_block_types=("UpBlock2D",) * len(channels),
        norm_num_groups=norm_groups,
        add_attention=False,
    )


def save_teacher(denoiser: Denoiser, folder: Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Write an EDM denoiser as a diffusers pipeline folder: model_index.json, unet/, scheduler/."""
    edm = denoiser.preconditioning
    assert isinstance(edm, EDM)
    unet = UNet2DModel.from_config(denoiser.unet.config)
    unet.load_state_dict(denoiser.unet.state_dict())
    unet.to(dtype).save_pretrained(folder / "unet", safe_serialization=True)
    EDMEulerScheduler(sigma_data=edm.sigma_data).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "DDPMPipeline",
        "unet": ["diffusers", "UNet2DModel"],
        "scheduler": ["diffusers", "EDMEulerScheduler"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def load_teacher(folder: Path | str, *, image_channels: int = 3) -> Denoiser:
    """Return the frozen float32 denoiser of a diffusers pipeline folder, in eval mode.

    An EDM scheduler means our preconditioning, any other is read as an epsilon-predicting DDPM. Raises
    DataMissing where the folder or its weights are not there; pickled weights are refused.
    """
    folder = Path(folder)
    if not (folder / "unet" / "config.json").is_file():
        raise DataMissing(
            f"teacher: {folder} is no diffusers pipeline folder (no unet/config.json); train one with "
            f"training/train_teacher.py or pass a copy of google/ddpm-cifar10-32",
            field="teacher",
        )
    try:
        unet = UNet2DModel.from_pretrained(folder / "unet", use_safetensors=True, local_files_only=True)
    except OSError as error:
        raise DataMissing(
            f"teacher: {folder}/unet holds no diffusion_pytorch_model.safetensors", field="teacher"
        ) from error
    denoiser = Denoiser(unet.float(), _preconditioning(folder), image_channels=image_channels)
    return denoiser.eval().requires_grad_(False)


def untrained_like(teacher: Denoiser, *, seed: int) -> Denoiser:
    """Return the same network with fresh weights: the control that every probe is compared with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DModel.from_config(teacher.unet.config)
    image_channels = teacher.unet.config.in_channels // teacher.patch**2
    fresh = Denoiser(unet, teacher.preconditioning, image_channels=image_channels)
    return fresh.eval().requires_grad_(False)


def teacher_sha256(denoiser: Denoiser) -> str:
    """Return a hash of every weight, names included: what a feature cache is bound to."""
    digest = hashlib.sha256()
    for name, value in sorted(denoiser.unet.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _preconditioning(folder: Path) -> Preconditioning:
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    if config["_class_name"] == "EDMEulerScheduler":
        return EDM(sigma_data=config["sigma_data"])
    scheduler = DDPMScheduler.from_config(config)
    abar = scheduler.alphas_cumprod
    return DDPM(sigmas=((1 - abar) / abar).sqrt())
