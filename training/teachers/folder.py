"""Teachers on disk: diffusers pipeline folders (safetensors), ours and `google/ddpm-cifar10-32`-like ones."""

import hashlib
import json
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, EDMEulerScheduler, UNet2DModel
from safetensors import SafetensorError

from dra_serve.errors import BadRequest, DataMissing
from training.teachers.denoiser import Denoiser
from training.teachers.preconditioning import DDPM, EDM, Preconditioning, VelocityDDPM

PREDICTIONS: dict[str, type[DDPM]] = {"epsilon": DDPM, "v_prediction": VelocityDDPM}


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

    The U-Net lies in `unet/` or, as in `google/ddpm-cifar10-32` on the Hub, beside model_index.json; the
    scheduler in `scheduler/` or as scheduler_config.json there. An EDM scheduler means our preconditioning;
    any other with betas is a DDPM's, predicting epsilon or v. Raises DataMissing where a file is not
    there or broken (pickled weights are refused), BadRequest for a model that is no teacher of such images.
    """
    folder = Path(folder)
    home = next((f for f in (folder / "unet", folder) if (f / "config.json").is_file()), None)
    if home is None:
        raise DataMissing(
            f"teacher: {folder} is no diffusers pipeline folder (no unet/config.json, no config.json); train "
            f"one with training/train_teacher.py or pass a copy of google/ddpm-cifar10-32",
            field="teacher",
        )
    _check_unet(_read_json(home / "config.json"), image_channels)
    preconditioning = _preconditioning(folder)
    try:
        unet = UNet2DModel.from_pretrained(home, use_safetensors=True, local_files_only=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise DataMissing(
            f"teacher: {home} holds no diffusion_pytorch_model.safetensors of this network", field="teacher"
        ) from error
    denoiser = Denoiser(unet.float(), preconditioning, image_channels=image_channels)
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
    """Return a hash of all that its answers follow from: configuration, preconditioning, every weight."""
    digest = hashlib.sha256()
    config = {key: value for key, value in denoiser.unet.config.items() if not key.startswith("_")}
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    digest.update(type(denoiser.preconditioning).__name__.encode())
    for name, number in sorted(vars(denoiser.preconditioning).items()):
        digest.update(name.encode() + torch.as_tensor(number, dtype=torch.float64).numpy().tobytes())
    for name, value in sorted(denoiser.unet.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _check_unet(config: dict[str, Any], image_channels: int) -> None:
    """Raise BadRequest unless config.json describes a U-Net for images of so many channels alone."""
    kind, channels = config.get("_class_name"), config.get("in_channels", 3)
    if kind != "UNet2DModel":
        raise BadRequest("teacher", given=f"a {kind}", allowed="a diffusers UNet2DModel")
    if config.get("class_embed_type") is not None or config.get("num_class_embeds") is not None:
        raise BadRequest("teacher", given="a class-conditional U-Net", allowed="one that is asked no class")
    patch = isqrt(channels // image_channels)
    if patch < 1 or image_channels * patch**2 != channels:
        allowed = f"{image_channels} times a square, for images of {image_channels} channels"
        raise BadRequest("teacher", given=f"{channels} input channels", allowed=allowed)
    if config.get("out_channels", 3) != channels:
        given = f"{config.get('out_channels', 3)} output channels"
        raise BadRequest("teacher", given=given, allowed=f"{channels}, as many as it takes in")


def _preconditioning(folder: Path) -> Preconditioning:
    """Return how the network of this folder is fed and read, from its scheduler's configuration."""
    name = "scheduler_config.json"
    path = next((f for f in (folder / "scheduler" / name, folder / name) if f.is_file()), None)
    if path is None:
        raise DataMissing(
            f"teacher: {folder} holds no scheduler/{name}, which tells how its network is to be fed",
            field="teacher",
        )
    config = _read_json(path)
    kind, prediction = config.get("_class_name"), config.get("prediction_type", "epsilon")
    if kind == "EDMEulerScheduler":
        if prediction != "epsilon":
            raise BadRequest("prediction_type", given=prediction, allowed=f"epsilon, with {kind}")
        return EDM(sigma_data=config.get("sigma_data", 0.5))
    if not config.keys() & {"beta_schedule", "trained_betas"}:
        allowed = "one with betas (DDPMScheduler, DDIMScheduler, ...) or EDMEulerScheduler"
        raise BadRequest("scheduler", given=kind, allowed=allowed)
    if prediction not in PREDICTIONS:
        raise BadRequest("prediction_type", given=prediction, allowed=" or ".join(PREDICTIONS))
    abar = DDPMScheduler.from_config(config).alphas_cumprod
    return PREDICTIONS[prediction](sigmas=((1 - abar) / abar).sqrt())


def _read_json(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataMissing(f"teacher: {path} is no JSON", field="teacher") from error
    if not isinstance(config, dict):
        raise DataMissing(f"teacher: {path} holds no JSON object", field="teacher")
    return config
