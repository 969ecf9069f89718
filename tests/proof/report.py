"""What a proof tells of itself."""

from __future__ import annotations

from collections.abc import Callable


class Report:
    """Figures for the result file, and the part done for the terminal. A proof that fails raises AssertionError."""

    def __init__(self, progress: Callable[[float], None] = lambda part: None) -> None:
        self.figures: dict[str, str] = {}
        self.progress = progress

    def figure(self, name: str, value: object) -> None:
        self.figures[name] = str(value)
