"""The file of a nuisance caller, for whoever is asked for help: his calls, what was noted, hashes; two languages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from fpdf import FPDF
from fpdf.enums import XPos, YPos

from firmware.bundle.report import CLOCKS, GREY, INK, LEFT, OUTCOMES, WIDE, both, font_of, heading, row, time_of
from firmware.core.call import Call
from firmware.core.contacts import Contact
from firmware.core.numbers import national

_BOTTOM = 272.0  # mm; below stands the page's number
_LONG_S = 1800.0  # of a call: a sign of harassment, as the draft guideline has it
_FLAGS = {
    "vip": ("お得意様", "VIP"),
    "nuisance": ("迷惑電話", "nuisance"),
    "do_not_record": ("録音しない", "not recorded"),
}
_FOOT = (
    "この書類は装置の記録から作った一覧です。値（SHA-256）は、録音が「この装置が値を計算した後に変わっていない」ことを"
    "確かめるためのものです。装置の持ち主が全体を作り直していないことまでは示しません。各通話の証拠は、束"
    "（tsuroku export）と verify.py で確かめてください。\n"
    "This list is made of the unit's records. A hash shows that a recording has not changed since this unit computed "
    "it; it does not show that the unit's owner has not made everything anew. The proof of each call is its bundle "
    "(tsuroku export), to be checked with verify.py."
)


class _Paper(FPDF):
    def footer(self) -> None:
        self.set_y(-14)
        self.set_font("ja", size=8)
        self.set_text_color(*GREY)
        self.cell(0, 5, f"{self.page_no()} / {{nb}}", align="C")


def incident(
    out: Path,
    numbers: Sequence[str],
    contact: Contact | None,
    calls: Sequence[Call],
    remarks: Mapping[str, Mapping[str, Any]],
    made: datetime,
    work: Path,
) -> None:
    """Write the file to out, which must not be there. numbers: his, as E.164. calls: in any order.

    remarks: by call (core/remarks.py). work: a folder for as long as it is made. Raises FileExistsError;
    FileNotFoundError without the Debian package fonts-ipaexfont-gothic.
    """
    if out.exists():
        raise FileExistsError(out)
    calls = sorted(calls, key=lambda call: call.iso(call.opened_ns) or "")
    told = [*(str(remark) for remark in remarks.values()), *(str(call.to_dict()) for call in calls)]
    texts = [Path(__file__).read_text(encoding="utf-8"), *told, str(contact.to_doc()) if contact else ""]
    pdf = _Paper(format="A4")
    pdf.set_margins(LEFT, 18, LEFT)
    pdf.set_auto_page_break(False)
    pdf.add_font("ja", "", font_of(texts, work))
    pdf.set_title("Tsuroku: incident file")
    pdf.add_page()
    heading(pdf, "迷惑電話の記録", f"Incident file   {made:%Y-%m-%d %H:%M} (UTC{made:%z})")
    for ja, en, value in _about(numbers, contact, calls):
        row(pdf, ja, en, value)
    for number, call in enumerate(calls, 1):
        _call(pdf, number, call, remarks.get(call.call_id, {}))
    if pdf.get_y() > _BOTTOM - 30:
        pdf.add_page()
    pdf.ln(4)
    pdf.set_font("ja", size=7.5)
    pdf.set_text_color(*GREY)
    pdf.multi_cell(WIDE, 3.9, _FOOT, align="L")
    with out.open("xb") as file:
        file.write(bytes(pdf.output()))


def _about(numbers: Sequence[str], contact: Contact | None, calls: Sequence[Call]) -> list[tuple[str, str, str]]:
    shown = ", ".join(national(number) or number for number in numbers)
    rows = [("電話番号", "Number", shown)]
    if contact:
        named = contact.name + (f"（{contact.reading}）" if contact.reading else "")
        rows.append(("名前", "Name", named))
        if contact.flags:
            rows.append(("印", "Flags", ", ".join(both(_FLAGS[flag]) for flag in contact.flags)))
        if contact.note:
            rows.append(("メモ", "Note", contact.note))
    lengths = [call.duration_s or 0.0 for call in calls]
    times = [datetime.fromisoformat(at) for call in calls if (at := call.iso(call.opened_ns))]
    most = max((sum(at <= other < at + timedelta(hours=1) for other in times) for at in times), default=0)
    period = f"{times[0].astimezone():%Y-%m-%d} – {times[-1].astimezone():%Y-%m-%d}" if times else "－"
    counts = (
        f"{len(calls)}件 / calls; 不在 / missed {sum(call.outcome == 'missed' for call in calls)}; "
        f"30分以上 / of 30 minutes or more {sum(each >= _LONG_S for each in lengths)}; "
        f"1時間の最多 / most within an hour {most}"
    )
    talked = f"合計 / in all {_length(sum(lengths))}; 最長 / longest {_length(max(lengths, default=0))}"
    return [*rows, ("期間", "Period", period), ("件数", "Calls", counts), ("通話時間", "Talked", talked)]


def _call(pdf: FPDF, number: int, call: Call, remark: Mapping[str, Any]) -> None:
    """One call; its heading stays with what follows."""

    outcome = both(OUTCOMES.get(call.outcome or "", ("進行中", "going on")))
    facts = [f"{outcome}; 呼出 / rings {call.rings}; 長さ / length {_length(call.duration_s)}"]
    if call.clock.state != "ntp":
        facts.append(f"時計 / clock: {both(CLOCKS[call.clock.state])}")
    if remark.get("taken_by"):
        facts.append(f"応対者 / taken by: {remark['taken_by']}")
    if remark.get("tags"):
        facts.append(f"タグ / tags: {', '.join(remark['tags'])}")
    lines = [*facts, *_recording(call), f"ID {call.call_id}"]
    if pdf.get_y() + 12 + 4.2 * len(lines) > _BOTTOM:
        pdf.add_page()
    pdf.ln(2)
    pdf.set_font("ja", size=11)
    pdf.set_text_color(*INK)
    pdf.cell(0, 6, f"{number}.  {time_of(call, call.opened_ns)}", new_x=XPos.LMARGIN, new_y=YPos.NEXT)
    pdf.set_font("ja", size=8.5)
    for line in lines:
        _text(pdf, line)
    for note in remark.get("notes", ()):
        at = datetime.fromisoformat(note["at"]).astimezone()
        _text(pdf, f"メモ / note  {at:%Y-%m-%d %H:%M} {note['by']}: {note['text']}")


def _text(pdf: FPDF, text: str) -> None:
    """A paragraph, over as many pages as it takes."""
    lines: Any = pdf.multi_cell(WIDE - 6, 4.2, text, align="L", dry_run=True, output="LINES")
    for line in lines:
        if pdf.get_y() + 4.2 > _BOTTOM:
            pdf.add_page()
            pdf.set_font("ja", size=8.5)
            pdf.set_text_color(*INK)
        pdf.set_x(LEFT + 6)
        pdf.cell(WIDE - 6, 4.2, line, new_x=XPos.LMARGIN, new_y=YPos.NEXT)


def _recording(call: Call) -> list[str]:
    recording = call.recording
    if recording is None:
        return [f"録音なし / no recording ({call.no_recording})"]
    gone = recording.deleted
    state = f"{gone.at} に削除 / deleted ({gone.why})" if gone else f"{recording.duration_s:.1f} s"
    digest = call.imported.sha256 if call.imported else recording.sha256
    return [f"録音 / recording: {state}", f"SHA-256 {digest}"]


def _length(seconds: float | None) -> str:
    if seconds is None:
        return "－"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"
