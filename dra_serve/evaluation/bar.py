"""The bar of a running evaluation, on stderr, if that is a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from dra_serve.evaluation.outcomes import Standing
from dra_serve.evaluation.shards import Shard
from dra_serve.evaluation.statistics import wilson


@contextmanager
def progress_bar(shard: Shard) -> Iterator[Callable[[Standing], None]]:
    """Yield a callback for `on_batch`: attack, images left, robust accuracy so far, time left."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[figures]}"))
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=1.0, figures="")
        who = f"shard {shard.rank} of {shard.world}, " if shard.world > 1 else ""

        def show(standing: Standing) -> None:
            bar.update(
                task,
                completed=standing.share,
                description=f"{who}{standing.attack}: {standing.total - standing.done:,} images left",
                figures=figures(standing),
                refresh=True,  # every batch is seen, however quick
            )

        yield show


def figures(standing: Standing) -> str:
    """Return the robust accuracy so far with its 95 % interval, and the time left; "" while unknown."""
    words = []
    if standing.done:
        low, high = wilson(standing.robust, standing.done)
        words.append(f"robust {standing.robust / standing.done:.1%} ({low:.1%} to {high:.1%})")
    if standing.seconds_left is not None:
        words.append(f"{_duration(standing.seconds_left)} left")
    return ", ".join(words)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
