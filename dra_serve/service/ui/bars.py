"""The probabilities of a model's leading classes, before and after: the table of bars on its card."""

from html import escape

from dra_serve.classifier import Prediction
from dra_serve.service.ui.card import Card, score
from dra_serve.service.ui.view import text
from dra_serve.service.words import percent

ROWS = 5


def bars(card: Card) -> str:
    """Return the scores of the leading classes before and after."""
    rows = "".join(_row(label, card) for label in _leading(card.clean, card.after))
    return (
        '<table class="bars"><caption>probabilities<span class="key before">before</span>'
        '<span class="key after">after</span></caption>'
        '<thead><tr><th scope="col">class</th><th scope="col">bars</th>'
        f'<th scope="col">before, after</th></tr></thead><tbody>{rows}</tbody></table>'
    )


def _row(label: str, card: Card) -> str:
    after = card.after
    kind = "clean" if label == card.clean.label else "now" if after and label == after.label else ""
    tag = f'<span class="tag">{kind}</span>' if kind else ""
    drawn, numbers = _bar(card.clean, label, "before"), _number(card.clean, label)
    if after is not None:
        drawn += _bar(after, label, "after")
        numbers += f" → {_number(after, label)}"
    return (
        f'<tr class="{kind}"><th scope="row">{escape(label)}{tag}</th>'
        f'<td class="track">{drawn}</td><td class="number">{numbers}</td></tr>'
    )


def _bar(prediction: Prediction, label: str, kind: str) -> str:
    return f'<i class="{kind}" style="width:{100 * score(prediction, label):.1f}%"></i>'


def _number(prediction: Prediction, label: str) -> str:
    """Return the score as "61 %", "<1 %" or ">99 %": there is little room."""
    return text(percent(score(prediction, label)).replace("under ", "<").replace("over ", ">"))


def _leading(clean: Prediction, after: Prediction | None) -> list[str]:
    """Return the clean image's leading classes, the last of them giving way to the present answer.

    The order stays while an attack runs, so that the eye can follow a bar.
    """
    labels = [label for label, _ in clean.top[:ROWS]]
    if after is not None and after.label not in labels:
        labels[-1] = after.label
    return labels
