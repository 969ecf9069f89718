"""What a bench found: tables for people, figures for programs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Progress = Callable[[str, float], None]  # what is done now, part of this bench that is done, 0 to 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    title: str
    how: str  # one or two sentences: how it was measured, and the aim
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    figures: dict[str, float] = field(default_factory=dict)

    def markdown(self) -> str:
        lines = [f"## {self.title}", self.how, "", _row(self.columns), _row(["---"] * len(self.columns))]
        return "\n".join([*lines, *(_row(row) for row in self.rows)])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def quantile(values: Sequence[float], part: float) -> float:
    """The smallest value that at least this part of all do not exceed."""
    return sorted(values)[math.ceil(part * len(values)) - 1]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)
