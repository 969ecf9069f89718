"""The page of a call that goes into a bundle: who, when, what was recorded, its waveform and hashes; two languages."""

from __future__ import annotations

import contextlib
import itertools
import json
import string
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from fontTools import subset
from fpdf import FPDF
from fpdf.enums import XPos, YPos

from firmware.core.call import Call
from firmware.core.facts import KEYS
from firmware.core.numbers import national
from firmware.recording.levels import peaks_of

if TYPE_CHECKING:
    from firmware.bundle.export import Wanted

_FONT = Path("/usr/share/fonts/opentype/ipaexfont-gothic/ipaexg.ttf")
INK, GREY, _PALE, _LINE, _RED = (32, 36, 44), (110, 116, 128), (244, 245, 247), (58, 104, 160), (176, 52, 44)
WIDE, LEFT = 170.0, 20.0  # mm
_COLUMNS = 680  # of the waveform

OUTCOMES = {
    "answered": ("着信・応答", "incoming, answered"),
    "missed": ("着信・不在", "incoming, missed"),
    "outgoing_answered": ("発信・応答あり", "outgoing, answered"),
    "outgoing_unanswered": ("発信・応答なし", "outgoing, not answered"),
    "outgoing_unknown": ("発信・応答不明", "outgoing, not known whether answered"),
    "fax": ("ファクス", "fax"),
    "joined_late": ("途中から", "joined when it was under way"),
    "too_short": ("短い通話", "too short"),
    "interrupted": ("中断（装置の停止）", "interrupted: the unit stopped"),
    "imported": ("取り込んだ録音", "imported recording"),
}
CLOCKS = {
    "ntp": ("時刻サーバーに同期", "set by a time server"),
    "rtc": ("時計用電池で保持、未照合", "kept by a clock chip, not compared"),
    "unsynced": ("時計は未設定。時刻は信用できません", "not set: times cannot be trusted"),
}
_OF_FILE = ("取り込んだファイルの記載による", "as the imported file tells it")
_ABSENT = {
    "withheld": ("非通知", "withheld"),
    "payphone": ("公衆電話", "payphone"),
    "unavailable": ("表示圏外", "unavailable"),
    "service_conflict": ("サービス競合", "service conflict"),
    "not_received": ("番号なし（受信せず）", "not received"),
    "corrupt": ("番号なし（誤り）", "received with errors"),
}


def font_of(texts: Iterable[str], work: Path) -> Path:
    """A font with the characters of these texts and of this module: the whole one would take most of the time.

    work: where it is put. Raises FileNotFoundError without the Debian package fonts-ipaexfont-gothic.
    """
    if not _FONT.exists():
        raise FileNotFoundError(2, "install the package fonts-ipaexfont-gothic for the report", str(_FONT))
    path, own = work / "font.ttf", Path(__file__).read_text(encoding="utf-8")
    options = subset.Options(layout_features=[], notdef_outline=True)
    subsetter = subset.Subsetter(options)
    subsetter.populate(text="".join(sorted(set(string.printable + own).union(*texts))))
    with contextlib.closing(subset.load_font(str(_FONT), options)) as font:
        subsetter.subset(font)
        subset.save_font(font, str(path), options)
    return path


class Pages:
    """Makes the pages of some calls. note: of whoever hands them over. work: a folder for as long as they are made.

    Raises FileNotFoundError without the Debian package fonts-ipaexfont-gothic.
    """

    def __init__(self, calls: Sequence[Call], note: str | None, work: Path) -> None:
        texts = itertools.chain([note or ""], (json.dumps(call.to_dict(), ensure_ascii=False) for call in calls))
        self._note, self._font = note, font_of(texts, work)

    def page(self, call: Call, record: Mapping[str, Any] | None, sound: Path | None, wanted: Wanted) -> bytes:
        """A PDF of one page. record: as it is signed. sound: as it goes along, None for a sealed one."""
        pdf = FPDF(format="A4")
        pdf.set_margins(LEFT, 18, LEFT)
        pdf.set_auto_page_break(False)
        pdf.add_font("ja", "", self._font)
        pdf.add_page()
        pdf.set_title(f"Tsuroku {call.call_id}")
        heading(pdf, "通話の記録", f"Record of a call   {call.call_id}")
        for ja, en, value in _rows(call):
            row(pdf, ja, en, value)
        if sound is not None:
            _waveform(pdf, call, sound)
        row(pdf, "録音", "Recording", _recording(call, _parts(call, sound, wanted)))
        if self._note:
            row(pdf, "メモ", "Note", self._note)
        _hashes(pdf, call, record)
        _foot(pdf)
        return bytes(pdf.output())


def _parts(call: Call, sound: Path | None, wanted: Wanted) -> str | None:
    """What of the sound is left out."""
    if wanted.clip:
        first, last = wanted.clip
        return f"この束には {first}〜{last} 秒だけ / this bundle holds seconds {first} to {last} alone"
    if wanted.silence:
        seconds = ", ".join(f"{a}–{b}" for a, b in wanted.silence)
        return f"この束では {seconds} 秒を無音にしてある / seconds {seconds} were silenced for this bundle"
    return "封印されている / sealed" if sound is None and call.recording else None


def heading(pdf: FPDF, title: str, below: str) -> None:
    pdf.set_text_color(*INK)
    pdf.set_font("ja", size=19)
    pdf.cell(0, 10, title, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
    pdf.set_font("ja", size=11)
    pdf.set_text_color(*GREY)
    pdf.cell(0, 6, below, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
    pdf.set_draw_color(*INK)
    pdf.set_line_width(0.5)
    pdf.line(LEFT, pdf.get_y() + 2, LEFT + WIDE, pdf.get_y() + 2)
    pdf.ln(6)


def row(pdf: FPDF, ja: str, en: str, value: str, size: float = 10) -> None:
    top = pdf.get_y()
    pdf.set_font("ja", size=10)
    pdf.set_text_color(*INK)
    pdf.set_xy(LEFT, top)
    pdf.cell(42, 5, ja)
    pdf.set_font("ja", size=7)
    pdf.set_text_color(*GREY)
    pdf.set_xy(LEFT, top + 4.6)
    pdf.cell(42, 3.4, en)
    pdf.set_xy(LEFT + 44, top)
    pdf.set_font("ja", size=size)
    pdf.set_text_color(*INK)
    pdf.multi_cell(WIDE - 44, 5, value, align="L", new_x=XPos.LMARGIN, new_y=YPos.NEXT)
    bottom = max(pdf.get_y(), top + 8.4) + 1.2
    pdf.set_draw_color(226, 228, 232)
    pdf.set_line_width(0.2)
    pdf.line(LEFT, bottom, LEFT + WIDE, bottom)
    pdf.set_xy(LEFT, bottom + 1.6)


def both(pair: tuple[str, str]) -> str:
    return f"{pair[0]} / {pair[1]}"


def _who(call: Call) -> str:
    if call.direction == "outgoing":
        dialled = call.dialled
        return (national(dialled.number) or dialled.digits or dialled.raw or "") if dialled else "不明 / not known"
    caller = call.caller
    if not caller.number and not caller.raw:
        return both(_ABSENT.get(caller.presentation, ("不明", "not known")))
    region = f"  {caller.region_ja} / {caller.region_en}" if caller.region_ja and caller.region_en else ""
    return f"{caller.national or caller.raw}{region}{'  ' + caller.name if caller.name else ''}"


def time_of(call: Call, at_ns: int | None) -> str:
    iso = call.iso(at_ns)
    if iso is None:
        return "－"
    local = datetime.fromisoformat(iso).astimezone()
    return f"{local:%Y-%m-%d %H:%M:%S}.{local.microsecond // 1000:03d} (UTC{local:%z})   {iso}"


def _rows(call: Call) -> list[tuple[str, str, str]]:
    length = "－" if call.duration_s is None else f"{int(call.duration_s // 60)}:{call.duration_s % 60:04.1f}"
    return [
        ("相手", "Other side", _who(call)),
        ("種類", "Kind", both(OUTCOMES.get(call.outcome or "", ("進行中", "going on")))),
        ("回線", "Line", f"{call.line}" if call.line else "－"),
        ("始まり", "Began", time_of(call, call.opened_ns)),
        ("応答", "Answered", time_of(call, call.answered_ns)),
        ("終わり", "Ended", time_of(call, call.ended_ns)),
        ("通話時間", "Length", length),
        ("時計の状態", "Clock", both(_OF_FILE if call.imported else CLOCKS[call.clock.state])),
    ]


def _recording(call: Call, parts: str | None) -> str:
    recording = call.recording
    if recording is None:
        return f"なし（{call.no_recording}） / none ({call.no_recording})"
    told = [f"{recording.duration_s:.2f} s, {recording.rate_hz} Hz, {time_of(call, recording.from_ns)}"]
    for ja, en, stretches in (
        ("捕らえられず無音", "silence, not captured", recording.gaps),
        ("停止中で無音", "silence, paused", [each for each in recording.muted if each.by != KEYS]),
        ("番号ボタンの音を消去", "silence, a key's tone", [each for each in recording.muted if each.by == KEYS]),
    ):
        for each in stretches[:6]:
            told.append(f"{each.at_s:.2f}–{each.at_s + each.duration_s:.2f} s: {ja} / {en}")
        if len(stretches) > 6:
            told.append(f"+{len(stretches) - 6} {ja} / {en}")
    if (taken := call.imported) is not None:
        by = {"name": "ファイル名 / its name", "tags": "タグ / its tags", "file": "ファイルの日付 / its date"}
        told.append(f"{taken.file}\n{taken.at} に取り込み / imported; 日時の根拠 / time from: {by[taken.time_from]}")
    if recording.cut_short:
        told.append(f"途中まで / cut short: {recording.cut_short}")
    if parts:
        told.append(parts)
    return "\n".join(told)


def _waveform(pdf: FPDF, call: Call, sound: Path) -> None:
    """Peaks in decibels, silence and pauses shaded, seconds below."""
    peaks, seconds = peaks_of(sound, _COLUMNS)
    top, high = pdf.get_y() + 1, 30.0
    pdf.set_fill_color(*_PALE)
    pdf.rect(LEFT, top, WIDE, high, style="F")
    recording = call.recording
    if recording and seconds:
        for stretches, colour in ((recording.gaps, (240, 214, 210)), (recording.muted, (222, 224, 230))):
            pdf.set_fill_color(*colour)
            for each in stretches:
                left = min(each.at_s / seconds, 1) * WIDE
                wide = min(each.duration_s / seconds, 1) * WIDE
                pdf.rect(LEFT + left, top, min(wide, WIDE - left), high, style="F")
    pdf.set_draw_color(*_LINE)
    pdf.set_line_width(WIDE / _COLUMNS)
    for number, peak in enumerate(peaks):
        tall = max(0.15, float(np.clip((20 * np.log10(max(peak, 1) / 32768) + 50) / 50, 0, 1)) * high / 2)
        x = LEFT + (number + 0.5) * WIDE / len(peaks)
        pdf.line(x, top + high / 2 - tall, x, top + high / 2 + tall)
    pdf.set_font("ja", size=7)
    pdf.set_text_color(*GREY)
    step = next((each for each in (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600) if seconds / each <= 12), 7200)
    for second in range(0, int(seconds) + 1, step):
        x = LEFT + second / max(seconds, 0.1) * WIDE
        pdf.line(x, top + high, x, top + high + 1)
        pdf.set_xy(x - 8, top + high + 1)
        pdf.cell(16, 3.5, f"{second // 60}:{second % 60:02d}", align="C")
    pdf.set_xy(LEFT, top + high + 7)


def _hashes(pdf: FPDF, call: Call, record: Mapping[str, Any] | None) -> None:
    recording = call.recording
    told = []
    if call.imported:
        told.append(f"SHA-256\n{call.imported.sha256}")
    elif recording:
        told.append(f"SHA-256\n{recording.sha256}")
        if recording.root:
            told.append(f"秒ごとの木の根 / root of the seconds\n{recording.root}")
    if not call.imported:
        told.append(f"装置 / unit boot  {call.boot_id}")
    if record is None:
        told.append("記録は連鎖にありません / the record stands in no chain")
    row(pdf, "照合用の値", "Hashes", "\n".join(told), 8.2)


def _foot(pdf: FPDF) -> None:
    pdf.set_xy(LEFT, 262)
    pdf.set_font("ja", size=7.5)
    pdf.set_text_color(*GREY)
    text = (
        "この頁は要約です。録音と記録が書き換えられていないことは、同じ束の chain.json と署名を "
        "verify.py で確かめてください。"
        "署名が示すのは「この装置が記録した後に変わっていない」ことです。装置の持ち主が全体を作り直していないかは、"
        "外部に控えたチェックポイントと照合すれば分かります。\n"
        "This page is a summary. That recording and record are unchanged is shown by chain.json and its signature in "
        "the same bundle (verify.py). A signature shows that nothing changed since the unit recorded it; whether its "
        "owner has written everything anew is shown by checkpoints kept elsewhere."
    )
    pdf.multi_cell(WIDE, 3.9, text, align="L")
