"""How sure a model is, step by step: the chart on its card, as SVG."""

from collections.abc import Sequence
from html import escape

from dra_serve.service.answers import Step
from dra_serve.service.ui.card import Card, score
from dra_serve.service.words import percent

_POINTS = 200  # of a line of the chart


def chart(card: Card) -> str:
    """Return the probability of the clean label by step, and that of its strongest rival."""
    steps = _thinned(card.steps)
    predictions = [card.clean, *(step.prediction for step in steps)]
    budget = steps[-1].steps if steps else 1
    at = [0.0, *(step.step / budget for step in steps)]
    own = [score(p, card.label) for p in predictions]
    rival = [max((s for name, s in p.top if name != card.label), default=0.0) for p in predictions]
    summary = (
        f"Probability of {card.label} by {card.unit[0]}: {percent(own[0])} at first, {percent(own[-1])} now"
    )
    length = f"{budget:,} {card.unit[1]}" if steps else ""
    return (
        '<figure class="chart"><figcaption>'
        f"probability by {card.unit[0]}"
        f'<span class="key own">{escape(card.label)}</span><span class="key rival">strongest other</span>'
        '</figcaption><div class="plot">'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label="{escape(summary)}">'
        '<path class="grid" d="M0 0H100M0 50H100M0 100H100"/>'
        f"{_line(at, rival, 'rival')}{_line(at, own, 'own')}</svg>"
        f'<i class="dot" style="left:{100 * at[-1]:.2f}%;top:{100 - 100 * own[-1]:.2f}%"></i>'
        '<span class="y top">100&nbsp;%</span><span class="y bottom">0</span></div>'
        f'<div class="x"><span>clean</span><span>{length}</span></div></figure>'
    )


def _thinned(steps: Sequence[Step]) -> Sequence[Step]:
    """Return so many steps as the chart has room for, the last among them.

    Drawing all 5,000 of Square twelve times a second would take the attack's own time.
    """
    stride = -(-len(steps) // _POINTS) or 1
    return steps[(len(steps) - 1) % stride :: stride] if steps else steps


def _line(at: Sequence[float], values: Sequence[float], kind: str) -> str:
    points = " ".join(f"{100 * x:.2f},{100 - 100 * y:.2f}" for x, y in zip(at, values, strict=True))
    return f'<polyline class="{kind}" points="{points}"/>'
