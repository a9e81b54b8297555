"""Plots as SVG text: the same numbers give the same bytes, and no library draws them."""

from collections.abc import Mapping, Sequence
from html import escape

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 640, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 190, 16, 44
_COLOURS = ("#0b6bcb", "#c2410c", "#15803d", "#7c3aed", "#525252")
_DASHES = ("", "6 4", "2 3")  # so that no two lines are told apart by colour alone


def line_chart(
    series: Mapping[str, Points], *, x_label: str, y_label: str, x_ticks: Mapping[float, str]
) -> str:
    """Return an SVG of the series, shares (0 to 1, shown as percent) over x; a name beside each line's end.

    x_ticks: where the axis is marked -> the mark. Raises ValueError without a point beyond x = 0.
    """
    right = max((x for points in series.values() for x, _ in points), default=0.0)
    if right <= 0:
        raise ValueError("nothing to draw: no point beyond x = 0")

    def at(x: float, y: float) -> tuple[float, float]:
        across, down = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
        return _LEFT + across * x / right, _TOP + down * (1 - y)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="12" role="img">',
        f"<title>{escape(y_label)} against {escape(x_label)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
    ]
    for percent in range(0, 101, 20):
        x, y = at(0, percent / 100)
        parts.append(f'<path d="M{x:.1f} {y:.1f}H{WIDTH - _RIGHT}" stroke="#ddd"/>')
        parts.append(_text(x - 6, y + 4, f"{percent} %", "end"))
    for value, mark in x_ticks.items():
        x, y = at(value, 0)
        parts.append(_text(x, y + 16, mark, "middle"))
    parts.append(_text((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 8, x_label, "middle"))
    parts.append(
        f'<g transform="translate(14 {HEIGHT / 2}) rotate(-90)">{_text(0, 0, y_label, "middle")}</g>'
    )
    lowest = 0.0
    for number, (name, points) in enumerate(sorted(series.items(), key=lambda item: -item[1][-1][1])):
        colour, dash = _COLOURS[number % len(_COLOURS)], _DASHES[number % len(_DASHES)]
        path = "L".join("{:.1f} {:.1f}".format(*at(*point)) for point in points)
        parts.append(
            f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>'
        )
        x, y = at(*points[-1])
        lowest = max(y + 4, lowest + 15)  # names of lines that end close together stand below each other
        parts.append(_text(x + 6, lowest, name, "start", colour))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str, anchor: str, colour: str = "#333") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'
