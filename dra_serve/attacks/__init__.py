"""White-box attacks over the array API: the same functions train a torch network and judge an ONNX file.

One idea a file; `registry.py` is the list. Always: inside the ball and inside [0, 1], x untouched, the
same seed gives the same answer whatever the batch, a finished image is attacked no further.
"""

from dra_serve.attacks.fab import fab_smallest
from dra_serve.attacks.fgsm import fgsm
from dra_serve.attacks.fmn import fmn_smallest, margins
from dra_serve.attacks.pgd import PgdParameters, perturb, pgd, random_start
from dra_serve.attacks.registry import ATTACKS, Attack, attack, get_attack
from dra_serve.attacks.result import AttackResult, StepReport

__all__ = [
    "ATTACKS",
    "Attack",
    "AttackResult",
    "PgdParameters",
    "StepReport",
    "attack",
    "fab_smallest",
    "fgsm",
    "fmn_smallest",
    "get_attack",
    "margins",
    "perturb",
    "pgd",
    "random_start",
]
