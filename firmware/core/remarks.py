"""What people write down about a call: notes, tags, who took it, what is to be done. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

_MOST_NOTES, _LONGEST_NOTE = 200, 4000
_MOST_TAGS, _LONGEST_NAME = 20, 40
NOTHING: Mapping[str, Any] = {"notes": [], "tags": [], "taken_by": None, "follow_up": None}
_OF_FOLLOW_UP = ("reaction", "next", "who", "due", "done")


class RemarkError(ValueError):
    """Not as it must be: one sentence."""


def changed(before: Mapping[str, Any], change: Mapping[str, Any], by: str, at: str) -> dict[str, Any]:
    """What is written down of a call after a change. before: of it, or NOTHING. at: UTC. Raises RemarkError.

    change: some of `note` (a text that is added), `tags` (all of them), `taken_by` (a name, or null), `follow_up`
    (null, or what the caller wants, what is next, who does it, due as a day, whether it is done).
    """
    after = {key: before.get(key, NOTHING[key]) for key in NOTHING}
    if unknown := change.keys() - {"note", "tags", "taken_by", "follow_up"}:
        raise RemarkError(f"A call has no {sorted(unknown)[0]!r}; give note, tags, taken_by or follow_up.")
    if "note" in change:
        text = _text(change["note"], "note", _LONGEST_NOTE)
        if text is None:
            raise RemarkError("A note needs a text.")
        if len(after["notes"]) >= _MOST_NOTES:
            raise RemarkError(f"A call has at most {_MOST_NOTES} notes.")
        after["notes"] = [*after["notes"], {"at": at, "by": by, "text": text}]
    if "tags" in change:
        if not isinstance(change["tags"], list):
            raise RemarkError("tags must be a list of texts.")
        tags = [tag for each in change["tags"] if (tag := _text(each, "tag", _LONGEST_NAME))]
        if len(tags) > _MOST_TAGS:
            raise RemarkError(f"A call has at most {_MOST_TAGS} tags.")
        after["tags"] = list(dict.fromkeys(tags))
    if "taken_by" in change:
        after["taken_by"] = _text(change["taken_by"], "taken_by", _LONGEST_NAME)
    if "follow_up" in change:
        after["follow_up"] = _follow_up(change["follow_up"])
    return after


def _follow_up(given: Any) -> dict[str, Any] | None:
    if given is None:
        return None
    if not isinstance(given, Mapping) or given.keys() - set(_OF_FOLLOW_UP):
        raise RemarkError(f"follow_up must hold nothing but {', '.join(_OF_FOLLOW_UP)}.")
    due = _text(given.get("due"), "due", 10)
    try:
        if due and datetime.fromisoformat(due).strftime("%Y-%m-%d") != due:
            raise ValueError
    except ValueError:
        raise RemarkError("due must be a day like 2026-11-30.") from None
    done = given.get("done", False)
    if not isinstance(done, bool):
        raise RemarkError("done must be true or false.")
    told = {key: _text(given.get(key), key, 200) for key in ("reaction", "next")}
    told["who"] = _text(given.get("who"), "who", _LONGEST_NAME)
    return {**told, "due": due, "done": done} if due or any(told.values()) else None


def _text(given: Any, name: str, longest: int) -> str | None:
    if given is None:
        return None
    if not isinstance(given, str):
        raise RemarkError(f"{name} must be a text.")
    text = "".join(c for c in given.replace("\r\n", "\n") if c == "\n" or c.isprintable()).strip()
    if len(text) > longest:
        raise RemarkError(f"{name} may have {longest} characters at most.")
    return text or None
