"""What the unit says to its owner, in Japanese and English: what has happened, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from firmware.core.alarms import Alarm, Kind
from firmware.core.notices import Budget, Day, Message

Language = Literal["ja", "en"]

# By kind: Japanese, English. Braces are filled from the alarm's detail.
_ALARMS: Mapping[Kind, tuple[str, str]] = {
    "line_cut": (
        "電話線{line}が切れています。壁の差し込み口と電話機のコードを確かめてください。",
        "Telephone line{line} is dead. Check the plug at the wall and the cord to the telephone.",
    ),
    "off_hook": (
        "電話線{line}の受話器が外れたままです。受話器をきちんと置いてください。",
        "The handset of line{line} is off the hook. Put it down properly.",
    ),
    "line_silent": (
        "電話線{line}に{days}日間、着信も発信もありません。携帯電話からお店に一度かけて確かめてください。",
        "There has been no call on line{line} for {days} days. Call the shop once from a mobile phone to check.",
    ),
    "no_caller_id": (
        "電話線{line}で続けて{calls}件、番号が届いていません。ナンバー・ディスプレイの契約とモデムを確かめてください。",
        "The last {calls} calls on line{line} came without caller ID. Check the Number Display contract and the modem.",
    ),
    "clipped_audio": (
        "電話線{line}の通話{calls}件の録音が大きすぎて割れています。録音用の入力の音量を下げてください。",
        "The last {calls} recordings of line{line} are too loud and distorted. Turn down the unit's sound input.",
    ),
    "silent_audio": (
        "電話線{line}の通話{calls}件の録音に声が入っていません。録音用のコードが抜けていないか確かめてください。",
        "Nobody can be heard in the last {calls} recordings of line{line}. Check the sound cable of the unit.",
    ),
    "no_file": (
        "電話線{line}の通話を録音できませんでした。本体の空き容量とコードを確かめてください。",
        "A call on line{line} could not be recorded. Check the free space and the cables of the unit.",
    ),
    "long_call": (
        "電話線{line}の通話が{minutes}分続いています。心当たりがなければ受話器を確かめてください。",
        "The call on line{line} has lasted {minutes} minutes. If nobody is talking, check the handset.",
    ),
    "repeat_calls": (
        "電話線{line}に同じ番号から1時間に{calls}回の着信がありました。迷惑電話であれば登録してください。",
        "The same number has called line{line} {calls} times within an hour. If it is a nuisance, put it on the list.",
    ),
    "device": (
        "機器（{device}）が応答しません。コードを差し直してください。直らなければ設置業者に連絡してください。",
        "A device ({device}) does not answer. Plug its cable in again; if that does not help, call the installer.",
    ),
    "store": (
        "通話の記録に異常があります。設置業者に連絡してください。",
        "Something is wrong with the record of calls. Call the installer.",
    ),
    "unsealed": (
        "録音を封印する公開鍵が使えないため、封印せずに録音しています。設置業者に連絡してください。",
        "The public key that recordings are sealed to cannot be used: they are not sealed. Call the installer.",
    ),
    "timestamp": (
        "記録の日時の証明（タイムスタンプ）が3日以上取れていません。録音は続いています。設置業者に連絡してください。",
        "For three days or more no timestamp has come that proves the records' time. Recording goes on. "
        "Call the installer.",
    ),
    "copies": (
        "通話の控えを3日以上保存できていません。控えの保存先（USBメモリー、ネットワーク）を確かめてください。録音は続いています。",
        "For three days or more no call could be copied off the unit. Check the USB disk or the network that copies go "
        "to. Recording goes on.",
    ),
    "disk": (
        "空き容量が残り{free_mb}MBです。古い録音を保存してから削除してください。",
        "{free_mb} MB are free. Save old recordings elsewhere and remove them.",
    ),
    "disk_soon": (
        "録音の保存場所が、今のペースではあと約{days}日でいっぱいになります。古い録音を保存して削除するか、保存期間を設定してください。",
        "At this rate the disk is full in about {days} days. Remove old recordings, or set how long they stay.",
    ),
    "clock": (
        "本体の時計が合っていません。ネットワークのコードを確かめてください。録音は続いています。",
        "The unit's clock is not set. Check the network cable. Recording goes on.",
    ),
    "temperature": (
        "本体が{temperature_c}度まで熱くなっています。風通しのよい場所に移してください。",
        "The unit has become {temperature_c} °C hot. Move it to a place with more air.",
    ),
    "under_voltage": (
        "電源の電圧が足りません。付属の電源アダプターを使ってください。",
        "The power supply is too weak. Use the adapter that came with the unit.",
    ),
    "outbox": (
        "通知{waiting}件が送信先（{of}）に届いていません。ネットワークと送信先を確かめてください。通知は保存されています。",
        "{waiting} events have not reached {of}. Check the network and the receiver. The events are kept.",
    ),
    "parked": (
        "送信先（{of}）が通知{parked}件を受け取りませんでした。設定を直して本体を再起動するか、再送を依頼してください。",
        "{of} refused {parked} events. Mend its settings and restart the unit, or ask for them again (events.replay).",
    ),
    "unconfirmed": (
        "送信先（{of}）で{unconfirmed}件の受け取りが確認されていません。管理システムを確かめてください。",
        "{unconfirmed} events at {of} have not been confirmed. Check the management system.",
    ),
}


def alarm(told: Alarm) -> dict[Language, str]:
    """One or two sentences: what is wrong, and what to do."""
    ja, en = _ALARMS[told.kind]
    line = "" if told.line is None else str(told.line)
    of = told.name.partition("/")[2]
    return {
        "ja": ja.format(**told.detail, line=line, of=of),
        "en": en.format(**told.detail, line=f" {line}" if line else "", of=of),
    }


# By presentation: who called, where there is no number.
_NOBODY: Mapping[str, tuple[str, str]] = {
    "withheld": ("非通知", "number withheld"),
    "payphone": ("公衆電話", "a payphone"),
    "unavailable": ("表示圏外", "number unavailable"),
    "service_conflict": ("番号が通知されない電話", "number not sent"),
    "not_received": ("番号不明", "number unknown"),
    "corrupt": ("番号不明", "number unknown"),
}
_MOST_CALLERS = 5  # by name in one message


def missed(events: Sequence[Mapping[str, Any]], language: Language, site: str, now: datetime) -> Message:
    """One message of all these `call.missed` events, oldest first, their numbers masked as the owner wants them."""
    ja = language == "ja"
    callers: dict[str, list[Mapping[str, Any]]] = {}
    for number, event in enumerate(events):
        person = event["data"]["caller"]
        same = person.get("number") or person.get("last4") or number  # of two without a number nobody can say
        callers.setdefault(str(same), []).append(event)
    lines = []
    for calls in list(callers.values())[:_MOST_CALLERS]:
        times = "" if len(calls) == 1 else f"（{len(calls)}回）" if ja else f" ({len(calls)} times)"
        lines.append(f"{_time(calls[-1], language, now)} {_who(calls[-1]['data']['caller'], language)}{times}")
    more = sum(len(calls) for calls in list(callers.values())[_MOST_CALLERS:])
    if more:
        lines.append(f"ほか{more}件" if ja else f"and {more} more")
    if any(event["data"]["caller"]["presentation"] == "allowed" for event in events):
        lines.append("折り返しのお電話をお願いします。" if ja else "Please call back.")
    else:
        lines.append(
            "番号が分からないため、折り返しはできません。" if ja else "Without a number nobody can be called back."
        )
    one, many = ("不在着信", "不在着信{}件") if ja else ("Missed call", "{} missed calls")
    title = one if len(events) == 1 else many.format(len(events))
    return Message(title=_title(title, language, site), text="\n".join(lines))


def alarms(events: Sequence[tuple[Mapping[str, Any], bool]], language: Language, site: str) -> Message:
    """One message of all these `alarm.raised` events, each with whether it is over by now."""
    ja = language == "ja"
    over_now = "（現在は解消しています。）" if ja else " (It is over now.)"
    lines = [event["data"]["text"][language] + (over_now if over else "") for event, over in events]
    fault = any(event["data"]["severity"] == "fault" for event, _ in events)
    title = ("異常のお知らせ" if fault else "お知らせ") if ja else ("Alarm" if fault else "Notice")
    return Message(title=_title(title, language, site), text="\n".join(lines))


def digest(day: Day, language: Language, site: str) -> Message:
    if language == "ja":
        begin = f"{day.since:%-m/%-d %-H:%M}から"
        calls = f"の着信は{day.incoming}件（応答{day.answered}件、不在{day.missed}件）です。"
        lines = [begin + (calls if day.incoming else "の着信はありません。")]
        if day.waiting:
            lines.append(f"折り返し待ちが{day.waiting}件あります。お電話をお願いします。")
        return Message(title=_title("電話のまとめ", language, site), text="\n".join(lines))
    begin = f"Since {day.since:%-d %b %-H:%M}"
    calls = f"{_count(day.incoming, 'call')}, {day.answered} answered, {day.missed} missed."
    lines = [f"{begin}: {calls if day.incoming else 'no calls.'}"]
    if day.waiting:
        waits = "waits" if day.waiting == 1 else "wait"
        lines.append(f"{_count(day.waiting, 'caller')} {waits} to be called back.")
    return Message(title=_title("Calls", language, site), text="\n".join(lines))


def budget(left: Budget, language: Language, site: str) -> Message:
    if language == "ja":
        text = (
            f"今月の通知が{left.sent}件になりました。上限の{left.limit}件に達すると、異常のお知らせだけをお送りします。"
        )
        return Message(title=_title("通知の件数", language, site), text=text)
    text = f"{left.sent} messages were sent this month. From {left.limit} on only alarms are sent."
    return Message(title=_title("Messages", language, site), text=text)


def _title(text: str, language: Language, site: str) -> str:
    return f"【{site}】{text}" if language == "ja" else f"[{site}] {text}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _time(event: Mapping[str, Any], language: Language, now: datetime) -> str:
    if event["data"]["clock"] == "unsynced":
        return "（時刻不明）" if language == "ja" else "(time unknown)"
    at = datetime.fromisoformat(event["time"]).astimezone(now.tzinfo)
    if at.date() == now.date():
        return f"{at:%-H:%M}"
    return f"{at:%-m/%-d %-H:%M}" if language == "ja" else f"{at:%-d %b %-H:%M}"


def _who(person: Mapping[str, Any], language: Language) -> str:
    ja = language == "ja"
    if person["presentation"] != "allowed":
        return _NOBODY[person["presentation"]][0 if ja else 1]
    shown = person.get("display") or person.get("number") or person.get("raw")
    if not shown and person.get("last4"):
        shown = f"末尾{person['last4']}" if ja else f"number ending in {person['last4']}"
    words = [person.get("name"), shown or ("番号通知あり" if ja else "a number that is not shown")]
    region = person.get("region_ja" if ja else "region_en")
    return " ".join(word for word in words if word) + (
        f"（{region}）" if region and ja else f" ({region})" if region else ""
    )
