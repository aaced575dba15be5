"""Learning curves of a run in the terminal: a line of blocks for each figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

_LEVELS = "▁▂▃▄▅▆▇█"
_WIDEST = 40  # columns of a curve
_NUMBERS = 63  # columns of the rest of a line
_AVERAGED = 10  # first and last are means over one part in so many of the steps


@dataclass(frozen=True, slots=True)
class Figure:
    """A number of metrics.jsonl that is shown: the kind of record, its name there, and ours."""

    kind: str
    name: str
    label: str
    percent: bool = False
    digits: int = 0

    def written(self, value: float) -> str:
        """A value as it is shown."""
        return f"{value:.1%}" if self.percent else f"{value:.{self.digits}f}"


FIGURES = (
    Figure("train", "accuracy", "right", percent=True),
    Figure("train", "wrong_step_rate", "wrong steps", percent=True),
    Figure("train", "mean_tokens", "tokens"),
    Figure("train", "kl", "KL", digits=4),
    Figure("train", "entropy", "entropy", digits=3),
    Figure("evaluation", "greedy_accuracy", "held out: pass@1", percent=True),
    Figure("evaluation", "greedy_wrong_step_rate", "held out: wrong steps", percent=True),
)


class Curves:
    """What moved so far; rich renders it to the width of the terminal."""

    def __init__(self) -> None:
        self._values: dict[Figure, list[float]] = {figure: [] for figure in FIGURES}
        self._steps: list[int] = []

    def add(self, record: Mapping[str, Any]) -> None:
        """A record of metrics.jsonl."""
        if record["kind"] == "train":
            self._steps.append(record["step"])
        for figure, values in self._values.items():
            if figure.kind == record["kind"] and record.get(figure.name) is not None:
                values.append(float(record[figure.name]))

    def __bool__(self) -> bool:
        return bool(self._steps)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self:
            return
        width = min(max(options.max_width - _NUMBERS, 0), _WIDEST)
        drawn = width >= 8 and not options.ascii_only
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        averaged = max(len(self._steps) // _AVERAGED, 1)
        first, last = self._steps[0], self._steps[-1]
        table.add_column(f"steps {first} to {last}" if last > first else f"step {last}")
        if drawn:
            table.add_column("", no_wrap=True)
        of = f" {averaged}" if averaged > 1 else ""
        for name in (f"first{of}", f"last{of}", "lowest", "highest"):
            table.add_column(name, justify="right", no_wrap=True)
        for figure, values in self._values.items():
            if not values:
                continue
            count = averaged if figure.kind == "train" else 1
            ends = fmean(values[:count]), fmean(values[-count:])
            table.add_row(
                figure.label,
                *([Text(sparkline(values, width), style="cyan")] if drawn else []),
                *(figure.written(value) for value in (*ends, min(values), max(values))),
            )
        yield table


def sparkline(values: Sequence[float], width: int) -> str:
    """A block for each value, from the lowest to the highest; means of neighbours if there are more
    than `width`."""
    count = min(len(values), width)
    edges = [round(i * len(values) / count) for i in range(count + 1)]
    means = [fmean(values[a:b]) for a, b in pairwise(edges)]
    low, span = min(means), max(means) - min(means)
    if not span:
        return _LEVELS[3] * count
    return "".join(_LEVELS[round((mean - low) / span * (len(_LEVELS) - 1))] for mean in means)
