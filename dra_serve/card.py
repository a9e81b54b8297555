"""The model card: a folder's README.md, written from its config and receipts and from nothing else.

The same folder gives the same bytes. Figures come with their conditions; what nobody measured is not there.
"""

from collections.abc import Iterator
from pathlib import Path
from string import Template
from typing import Any

from dra_serve.errors import ModelFolderError, UserError
from dra_serve.exporters.model_index import eval_results
from dra_serve.model_config import ModelConfig
from dra_serve.model_folder import GRADIENT, RESULTS, ModelFolder, read_folder
from dra_serve.receipts import title
from dra_serve.sums import write_sums

CARD = "README.md"
_METHOD = "[diffusion representation alignment](https://arxiv.org/abs/2602.19931) (DRA)"


def write_card(path: Path | str, repo_id: str | None = None) -> None:
    """Write the card into the model folder at `path` and renew its sums. Errors as `read_folder`."""
    folder = read_folder(path)
    (folder.path / CARD).write_text(model_card(folder, repo_id), encoding="utf-8")
    write_sums(folder.path)


def model_card(folder: ModelFolder, repo_id: str | None = None) -> str:
    """Return the card of a model folder as Markdown, its metadata (`model-index`) at the top.

    repo_id: "org/name" that the examples load; by default the folder they stand in.
    Raises ModelFolderError for a receipt without the figures or conditions that a card must show.
    """
    try:
        sections = (
            _metadata(folder),
            f"# {folder.config.name}",
            _what_it_is(folder.config),
            _measured(folder),
            _use(folder, repo_id),
            _training(folder.config),
            _limits(folder.config),
        )
    except KeyError as error:
        raise ModelFolderError(f"a receipt without {error}", file=RESULTS) from error
    except UserError as error:  # names its field
        raise ModelFolderError(error.detail, file=RESULTS) from error
    except (AttributeError, TypeError, ValueError) as error:
        raise ModelFolderError(f"a receipt that cannot be read: {error}", file=RESULTS) from error
    return "\n\n".join(section for section in sections if section) + "\n"


def _metadata(folder: ModelFolder) -> str:
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        model_name=folder.config.name,
        library_name="dra-serve",
        pipeline_tag="image-classification",
        tags=["adversarial-robustness", "adversarial-training", "onnx"]
        + (["diffusion-representation-alignment"] if _uses_dra(folder.config) else []),
        datasets=[folder.config.data.name],
        eval_results=eval_results(folder.receipts) or None,
        ignore_metadata_errors=False,
    )
    return f"---\n{data.to_yaml()}\n---"


def _what_it_is(config: ModelConfig) -> str:
    channels, height, width = config.input_shape
    colour = {1: "grey", 3: "RGB"}.get(channels, f"{channels}-channel")
    how = f"adversarially trained with {_METHOD}" if _uses_dra(config) else "adversarially trained"
    about = (
        f"Tells {len(config.classes)} classes apart in {colour} images of {width} x {height} pixels: "
        f"{', '.join(config.classes)}. It was {how} on {config.data.images:,} images of {config.data.name}, "
        f"to stay right under perturbations of {config.threat.norm} norm up to {config.threat.eps} "
        f"(pixels in [0, 1])."
    )
    if config.twin is None:
        return about
    return (
        f"{about}\n\nIts twin is `{config.twin}`: the same network, data order, seed and attack, trained "
        f"without the DRA term. A figure of this model means little without its twin's beside it."
    )


def _measured(folder: ModelFolder) -> str:
    if not folder.receipts:
        return "## Measured\n\nNothing yet: this folder holds no receipt, so no accuracy is claimed."
    rows = [
        "| attack | images | clean | robust (95 % interval) | robust, 8-bit image |",
        "|---|---|---|---|---|",
        *(_row(receipt) for receipt in folder.receipts),
    ]
    explained = (
        "Robust: right on the clean image and after the attack, in percent of all images. 8-bit: the same "
        "after rounding the adversarial image to k/255, as a file would store it. The interval (Wilson) "
        "covers the choice of images, not of training seeds. `results.json` holds the receipts: every "
        "argument, the outcome of every image, versions and hardware."
    )
    conditions = "\n".join(f"- {line}" for receipt in folder.receipts for line in _conditions(receipt))
    return f"## Measured\n\n{chr(10).join(rows)}\n\n{explained}\n\n{conditions}"


def _row(receipt: dict[str, Any]) -> str:
    low, high = receipt["wilson_95"]
    cells = (
        title(receipt),
        f"{receipt['n']:,}",
        _percent(receipt["clean_accuracy"]),
        f"{_percent(receipt['robust_accuracy'])} ({_percent(low)} to {_percent(high)})",
        _percent(receipt["robust_accuracy_8bit"]),
    )
    return f"| {' | '.join(cells)} |"


def _conditions(receipt: dict[str, Any]) -> Iterator[str]:
    """Yield what the table has no column for: which images, which file, every argument, each warning."""
    data = receipt["data"]
    images, n = receipt["images"], receipt["n"]
    which = f"all {n:,}"
    if images != "all":
        which = f"{n:,} of {images['of']:,} (permutation seed {images['permutation_seed']})"
    split = f" {data['split']}" if data.get("split") else ""
    runs = "; ".join(f"{run['name']}: {_plain(run['arguments'])}" for run in receipt["attacks"])
    yield (
        f"{title(receipt)}: {which}{split} images of {data['name']} "
        f"(sha256 `{data['sha256'][:12]}`), `model.onnx` sha256 `{receipt['model_sha256'][:12]}`; {runs}"
    )
    for warning in receipt.get("warnings", []):
        yield f"Warning, {title(receipt)}: {warning}"


def _use(folder: ModelFolder, repo_id: str | None) -> str:
    """Return the examples that work for this folder: without a gradient graph no attack, and so on."""
    where = "" if repo_id else ", in this folder"
    source = repo_id or "."
    examples = [
        f"## Use it\n\nWithout torch, by `pip install dra-serve`{where}:",
        _code(_PREDICT + (_ATTACK if (folder.path / GRADIENT).exists() else ""), folder.config, source),
        "With ONNX Runtime alone (the normalisation is inside the graph):",
        _code(_ONNX_FROM_HUB if repo_id else _ONNX, folder.config, source),
    ]
    if (folder.path / "model.safetensors").exists():
        examples += [
            "With torch, from a checkout of the dra_serve repository:",
            _code(_TORCH, folder.config, source),
        ]
    return "\n\n".join(examples)


_PREDICT = """\
import dra_serve
import numpy as np

model = dra_serve.load("$source")
x = np.zeros((1, $shape), np.float32)  # your images, in [0, 1]
y = model.logits(x).argmax(axis=1)
print(model.classes[y[0]])
"""
_ATTACK = """\
attacked = dra_serve.attack(model, x, y, "pgd", norm="$norm", eps="$eps")
print("fooled" if attacked.success[0] else "withstood")
"""
_ONNX = """\
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
(logits,) = session.run(None, {"x": np.zeros((1, $shape), np.float32)})
"""
_ONNX_FROM_HUB = _ONNX.replace(
    "import onnxruntime\n", "import onnxruntime\nfrom huggingface_hub import hf_hub_download\n"
).replace('"model.onnx"', 'hf_hub_download("$source", "model.onnx")')
_TORCH = """\
from training.networks import HubClassifier

network = HubClassifier.from_pretrained("$source").eval()  # images in [0, 1] -> logits
"""


def _code(template: str, config: ModelConfig, source: str) -> str:
    shape = ", ".join(map(str, config.input_shape))
    filled = Template(template).substitute(
        source=source, shape=shape, norm=config.threat.norm, eps=config.threat.eps
    )
    return f"```python\n{filled}```"


def _training(config: ModelConfig) -> str:
    """Return how it was trained: every field of the recipe, every fact of the run."""
    facts = {"network": f"{config.network.name}, {_plain(config.network.arguments)}"}
    facts |= {"data": f"{config.data.name}, {config.data.images:,} images, sha256 {config.data.sha256}"}
    facts |= {name.replace("_", " "): _plain(value) for name, value in config.training.items()}
    if config.recipe:
        facts |= {"recipe": _plain(config.recipe)}
    return "## Training\n\n" + "\n".join(f"- {name}: {value}" for name, value in facts.items())


def _limits(config: ModelConfig) -> str:
    return (
        "## Limits\n\n"
        f"- Robustness was trained for {config.threat.norm} perturbations up to {config.threat.eps} alone. "
        "Larger ones, other norms, patches, rotations and weather are another matter.\n"
        "- An accuracy under an attack is an upper bound: a stronger attack finds more. Read it together "
        "with the attack's name and budget.\n"
        f"- It knows images like those of {config.data.name}, and answers one of its classes whatever it is "
        "shown. Its scores are not calibrated probabilities."
    )


def _uses_dra(config: ModelConfig) -> bool:
    return float(config.recipe.get("lam", 0)) > 0


def _plain(value: Any) -> str:
    """Return a JSON value in words: `width 32, blocks 1 1 1`."""
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {_plain(part)}" for name, part in value.items())
    if isinstance(value, (list, tuple)):
        return " ".join(_plain(part) for part in value)
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
