"""The file of a nuisance caller: all his calls, what was noted and the hashes, on as many pages as it takes."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from firmware.bundle.incident import incident
from firmware.core.call import Call, ClockRead, Recording
from firmware.core.caller import of_number
from firmware.core.contacts import Contact

NUMBER = "+81300001234"
READ = ClockRead(mono_ns=0, wall_ns=1_764_000_000_000_000_000, state="ntp")
WHO = Contact(
    contact_id="c", number=NUMBER, name="迷惑 太郎", reading="めいわく たろう", flags=("nuisance",), by="x", updated="x"
)


def call(number: int, **more: Any) -> Call:
    begins_ns = number * 1_200_000_000_000
    made = Call(
        call_id=f"00000000-0000-7000-8000-{number:012d}",
        line=1,
        direction="incoming",
        boot_id="b",
        clock=READ,
        opened_ns=begins_ns,
        answered_ns=begins_ns + 5_000_000_000,
        ended_ns=begins_ns + 65_000_000_000,
        outcome="answered",
        caller=of_number("0300001234", "jp"),
        recording=Recording(
            path=f"recordings/{number}.flac",
            from_ns=begins_ns,
            frames=480_000,
            rate_hz=8000,
            size_bytes=1,
            sha256=f"{number:064x}",
        ),
        no_recording=None,
    )
    return replace(made, **more)


def written(tmp_path: Path, calls: list[Call], remarks: Mapping[str, Any], contact: Contact | None = WHO) -> str:
    out = tmp_path / "incident.pdf"
    incident(out, [NUMBER], contact, calls, remarks, datetime(2026, 11, 27, 9, tzinfo=UTC), tmp_path)
    return subprocess.run(["pdftotext", "-layout", str(out), "-"], capture_output=True, text=True, check=True).stdout


def test_calls_notes_and_hashes_stand_in_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    calls = [call(2), call(1, outcome="missed", answered_ns=None, recording=None, no_recording="not_answered")]
    note = {"at": "2026-11-26T01:00:00.000Z", "by": "佐藤", "text": "大声で怒鳴られた。"}
    remarks = {calls[0].call_id: {"notes": [note], "tags": ["クレーム"], "taken_by": "鈴木"}}
    text = written(tmp_path, calls, remarks)
    for told in ("03-0000-1234", "迷惑 太郎", "大声で怒鳴られた。", "佐藤", "クレーム", "鈴木", f"{2:064x}"):
        assert told in text, told
    assert "2件 / calls; 不在 / missed 1" in text and re.search("1 ?/ ?1", text)
    assert not caplog.records  # of a character that is missing
    assert text.index("000000000001") < text.index("000000000002")  # in the order of time
    assert "does not show that the unit's owner" in re.sub(r"\s+", " ", text)


def test_many_calls_and_a_long_note_go_on_over_pages(tmp_path: Path) -> None:
    calls = [call(number) for number in range(60)]
    note = {"at": "2026-11-26T01:00:00.000Z", "by": "佐藤", "text": "長い話。" * 900}
    text = written(tmp_path, calls, {calls[7].call_id: {"notes": [note], "tags": [], "taken_by": None}})
    pages = text.split("\f")[:-1]
    assert all(re.search(f"{number} ?/ ?{len(pages)}", page) for number, page in enumerate(pages, 1)) and len(pages) > 5
    assert text.count("SHA-256") >= 60 and "".join(text.split()).count("長い話。") > 900 - len(pages)
    for page in pages:  # no heading is left alone at the end of a page
        assert not re.search(r"\n\s*\d+\.\s+2025[^\n]*\n+\s*\d+ ?/ ?\d+\s*$", page)


def test_what_no_font_has_stops_nothing(tmp_path: Path) -> None:
    odd = replace(WHO, name="😀\u202e\x00" * 10, note="x" * 5000)
    text = written(tmp_path, [call(1)], {}, odd)
    assert "03-0000-1234" in text
    with pytest.raises(FileExistsError):
        written(tmp_path, [call(1)], {})


def test_the_most_within_an_hour_and_the_long_ones_are_counted(tmp_path: Path) -> None:
    calls = [call(number) for number in range(4)]  # 20 minutes apart
    calls.append(replace(call(90), ended_ns=call(90).opened_ns + 1_900_000_000_000))
    text = written(tmp_path, calls, {}, None)
    assert "most within an hour 3" in text and "of 30 minutes or more 1" in text
