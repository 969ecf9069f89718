"""ARCHITECTURE.md's state diagram is the transition table. `python -m tests.test_architecture` writes it anew."""

from __future__ import annotations

import re
from pathlib import Path

from firmware.core.line import TABLE, State

PAGE = Path(__file__).parent.parent / "ARCHITECTURE.md"
_DIAGRAM = re.compile(r"(?<=```mermaid\n).*?(?=```)", re.DOTALL)


def diagram() -> str:
    """The table as a Mermaid state diagram: an arrow for each change of state, labelled with its fact."""
    arrows: dict[tuple[State, State], list[str]] = {}
    for (state, _), rule in TABLE.items():
        for to in rule.to:
            if to is not state and rule.label_to(to) not in arrows.setdefault((state, to), []):
                arrows[state, to].append(rule.label_to(to))
    lines = ["stateDiagram-v2", "    [*] --> idle"]
    order = list(State)
    for (state, to), labels in sorted(arrows.items(), key=lambda a: (order.index(a[0][0]), order.index(a[0][1]))):
        lines.append(f"    {state.value} --> {to.value} : {', '.join(labels).replace(':', ',')}")
    return "\n".join(lines) + "\n"


def test_the_diagram_is_the_table() -> None:
    found = _DIAGRAM.search(PAGE.read_text(encoding="utf-8"))
    assert found, "ARCHITECTURE.md has no Mermaid diagram"
    assert found[0] == diagram(), "run: python -m tests.test_architecture"


if __name__ == "__main__":
    PAGE.write_text(_DIAGRAM.sub(lambda _: diagram(), PAGE.read_text(encoding="utf-8"), count=1), encoding="utf-8")
