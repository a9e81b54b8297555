"""Checkpoints as safetensors: tensors in the file, everything else as JSON in its header. No pickle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from dra_serve.errors import UserError
from training.tensor_file import write_tensors


def save_checkpoint(
    path: Path,
    *,
    modules: Mapping[str, nn.Module],
    optimizer: Optimizer,
    generators: Mapping[str, Generator],
    progress: Mapping[str, Any],
) -> None:
    """Write the whole state of a run, replacing the old file in one move: a kill leaves either."""
    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        tensors.update({f"module.{name}.{key}": value for key, value in module.state_dict().items()})
    for index, state in optimizer.state_dict()["state"].items():
        tensors.update({f"optimizer.{index}.{key}": v for key, v in state.items() if isinstance(v, Tensor)})
    tensors.update({f"generator.{name}": rng.get_state() for name, rng in generators.items()})
    tensors = {key: value.detach().contiguous().clone() for key, value in tensors.items()}
    write_tensors(path, tensors, metadata={"progress": json.dumps(dict(progress))})


def load_checkpoint(
    path: Path,
    *,
    modules: Mapping[str, nn.Module],
    optimizer: Optimizer,
    generators: Mapping[str, Generator],
) -> dict[str, Any]:
    """Restore what `save_checkpoint` wrote and return its `progress`.

    Raises UserError for another run's file.
    """
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, not a dict
        progress: dict[str, Any] = json.loads(file.metadata()["progress"])
    try:
        for name, module in modules.items():
            module.load_state_dict(_under(tensors, f"module.{name}."))
        for name, rng in generators.items():
            rng.set_state(tensors[f"generator.{name}"])
    except (KeyError, RuntimeError) as error:
        raise UserError(
            f"{path}: the checkpoint belongs to another network; remove the run's folder to start afresh",
            field="checkpoint",
        ) from error
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in _under(tensors, "optimizer.").items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return progress


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
