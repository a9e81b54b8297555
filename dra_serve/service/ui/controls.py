"""What the page's controls say at first, and what an attack makes of them. Knows no Gradio."""

from typing import Any

from dra_serve.service.answers import AttackRequest

ATTACK = "pgd"
NORM = "linf"
EPS = 8  # of a value's 255 steps
STEPS = 20
RESTARTS = 1
SEED = 0


def to_options(
    *, norm: str, eps_linf: int, eps_l2: float, steps: int, restarts: int, seed: int
) -> dict[str, Any]:
    """Return the options of an attack; `steps` are the queries of one that asks for those."""
    return {
        "norm": norm,
        "eps": f"{eps_linf}/255" if norm == "linf" else eps_l2,
        "steps": steps,
        "queries": steps,
        "restarts": restarts,
        "seed": seed,
    }


def first_attack(*, seed: int = SEED) -> AttackRequest:
    """Return what a visitor's first press of Attack asks for."""
    options = {"norm": NORM, "eps": f"{EPS}/255", "steps": STEPS, "restarts": RESTARTS, "seed": seed}
    return AttackRequest(attack=ATTACK, options=options)
