"""One evaluation from the command line: its data, its state in the cache, its bar, its receipt."""

import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dra_serve.errors import BadRequest, DataMissing

if TYPE_CHECKING:
    from dra_serve.classifier import Model
    from dra_serve.evaluation.data import LabelledImages
    from dra_serve.evaluation.plan import Plan


def find_data(data: Path | None, classifier: "Model") -> Path:
    """Return the data to evaluate on: as given, else where the environment says the model's data is."""
    if data is not None:
        return data
    name = classifier.config.data.name if classifier.config else "cifar10"
    variable = f"DRA_SERVE_{name.upper().replace('-', '_')}"
    if variable not in os.environ:
        raise DataMissing(
            f"data: give --data FOLDER, or set {variable}, to {name}'s test images", field="data"
        )
    return Path(os.environ[variable])


def find_threads(classifier: "Model", threads: int | None) -> int:
    """Return how many threads attack: as given, else this shard's part of the cores.

    One for a torch module, which has threads of its own; BadRequest if more are asked for.
    """
    from dra_serve.evaluation.threads import threads_of_a_shard
    from dra_serve.onnx_classifier import OnnxClassifier

    if not isinstance(classifier, OnnxClassifier):
        if threads not in (None, 1):
            allowed = "1 for a torch module: torch has threads of its own (torch.set_num_threads)"
            raise BadRequest("threads", given=threads, allowed=allowed)
        return 1
    return threads_of_a_shard(os.environ) if threads is None else threads


def find_state(fingerprint: str) -> Path:
    """Return the folder in the cache of this evaluation by the code of today.

    Says on stderr if one was begun by other code: that is left as it is, and nothing of it is taken.
    """
    from dra_serve.cache import cache_folder
    from dra_serve.evaluation.provenance import code

    folder = cache_folder() / "evaluations"
    state = folder / f"{fingerprint}-{hashlib.sha256(code().encode()).hexdigest()[:12]}"
    mine = {state.name, f"{state.name}.merging"}
    begun = [path for path in sorted(folder.glob(f"{fingerprint}*")) if path.name not in mine]
    if begun and not state.exists():
        told = f"begins again: {begun[0]} was begun by other code or packages than {code()}; remove it"
        print(told, file=sys.stderr)
    return state


def carry_out(
    classifier: "Model",
    images: "LabelledImages",
    plan: "Plan",
    deliver: Callable[[dict[str, Any]], None],
    *,
    subset_seed: int,
    state: Path | None,
    batch: int | None,
    threads: int | None,
) -> None:
    """Evaluate with a bar, going on from a killed run of the same, and deliver the receipt if all is done.

    A shard that is not the last says what is missing instead. threads: by default `find_threads`.
    """
    from dra_serve.evaluation.bar import progress_bar
    from dra_serve.evaluation.merge import merging
    from dra_serve.evaluation.receipt import build_receipt
    from dra_serve.evaluation.runner import run
    from dra_serve.evaluation.shards import shard_of

    shard = shard_of(os.environ)
    state = state or find_state(plan.fingerprint(classifier, images))
    threads = find_threads(classifier, threads)
    with progress_bar(shard) as show:
        outcomes = run(
            classifier, images, plan, batch=batch, threads=threads, state=state, shard=shard, on_batch=show
        )
    done = f"shard {shard.rank} of {shard.world} is done"
    another = f"{done}; another wrote the receipt"
    if not outcomes.complete and not state.exists():
        print(another, file=sys.stderr)
        return
    if not outcomes.complete:
        left = int((~outcomes.done).sum())
        print(
            f"{done}; {left:,} of {len(images.y):,} images are missing: "
            f"{', '.join(outcomes.missing)}. The last to finish, or this command again, writes the receipt.",
            file=sys.stderr,
        )
        return
    with merging(state) as mine:
        if not mine:
            print(another, file=sys.stderr)
            return
        receipt = build_receipt(
            outcomes,
            images,
            plan,
            model=classifier.name,
            model_sha256=classifier.sha256,
            gradient_sha256=classifier.gradient_sha256,
            classes=classifier.classes,
            subset_seed=subset_seed,
            warnings=_suspicions(classifier, images, plan),
        )
        deliver(receipt)


def _suspicions(classifier: "Model", images: "LabelledImages", plan: "Plan") -> list[str]:
    """Return what a quick look at a few of the images gives reason to doubt; `doctor` looks longer."""
    from dra_serve.evaluation.data import as_float
    from dra_serve.evaluation.diagnosis import AT_MOST, warnings_for
    from dra_serve.evaluation.runner import evaluation_order

    few = evaluation_order(len(images.y))[:AT_MOST]
    x, y = as_float(images.x[few]), images.y[few]
    return warnings_for(classifier, x, y, norm=plan.norm, eps=plan.eps)
