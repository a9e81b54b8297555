"""The golden robust accuracies of the bundled pair: how many of 40 test images stand after each attack.

    python -m tests.golden.robust_accuracy    # or `make golden`: measure again and rewrite the file

The images are 40 of CIFAR-10's test set, the seeded choice that `evaluate -n 40` makes.
"""

import json
from pathlib import Path
from typing import Any

import dra_serve
from dra_serve.evaluation import SUITES, read_images

FILE = Path(__file__).with_suffix(".json")
IMAGES = Path(__file__).with_name("cifar10-test-40.npz")
PAIR = ("dra", "at")
MEASURED = ("quick", "fast")


def measure(name: str) -> dict[str, Any]:
    """Return a bundled model's hash and its numbers of images: clean, after each attack, on 8-bit files."""
    model, images = dra_serve.load(f"bundled:{name}"), read_images(IMAGES)
    counts = {}
    for suite in MEASURED:
        outcomes = dra_serve.evaluate(model, images, suite=suite, eps="8/255")
        attacks = [stage.attack for stage in SUITES[suite]]
        after = {attack: int(row.sum()) for attack, row in zip(attacks, outcomes.after, strict=True)}
        counts[suite] = {
            "clean": int(outcomes.clean.sum()),
            **after,
            "8-bit": int(outcomes.robust_8bit.sum()),
        }
    return {"model_sha256": model.sha256, "n": len(images.y), "robust": counts}


def main() -> None:
    FILE.write_text(json.dumps({name: measure(name) for name in PAIR}, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {FILE}")


if __name__ == "__main__":
    main()
