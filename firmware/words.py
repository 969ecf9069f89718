"""What the unit says to its owner, in Japanese and English: what has happened, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from firmware.core.alarms import Alarm, Kind

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
    "disk": (
        "空き容量が残り{free_mb}MBです。古い録音を保存してから削除してください。",
        "{free_mb} MB are free. Save old recordings elsewhere and remove them.",
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
        "送信先（{of}）が通知{parked}件を受け取りませんでした。設定を直してから再送してください。",
        "{of} refused {parked} events. Mend its settings, then ask for them again (events.replay).",
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
