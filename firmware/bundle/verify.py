#!/usr/bin/env python3
"""Check a bundle of calls that a Tsuroku unit has exported: what in it can be proved, and what cannot.

    python3 verify.py BUNDLE.zip [--key HEX] [--checkpoint FILE] [--authority PEM] [--json]

One file of its own. It needs Python 3.11 and the package cryptography; the sound itself is checked with the package
soundfile or the program flac, timestamps with the package rfc3161-client, where these are there.
Exit code 0: all holds; 1: something does not; 2: this is no bundle that can be read.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import hmac
import io
import json
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

FORMAT = 1
DATE = (1980, 1, 1, 0, 0, 0)  # of every member: what a bundle says of time stands in what it holds
_MOST_MEMBERS = 100_000
_MOST_JSON = 64 << 20
_MOST_RATE_HZ = 655_350  # of FLAC
_NAME = re.compile(
    r"(?:manifest\.json|README\.txt|verify\.py|calls/[0-9a-f-]{36}/[a-z]+(?:\.[a-z0-9]+){1,3}"
    r"|timestamps/[0-9]{1,12}\.json)"
)
_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_CALL = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_MISSHAPEN = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError)
CANNOT = (
    "What this cannot show: that a call was recorded at all, or whole; which calls somebody has left out of the "
    "bundle; that the owner of the unit's key has not written everything anew. Against that only checkpoints help that "
    "somebody else has kept (--checkpoint), timestamps of an authority that is known from elsewhere (--authority), and "
    "the unit's key known from elsewhere (--key).",
    "この検査で分からないこと：通話がすべて録音されたか、束に入れなかった通話がないか、装置の鍵の持ち主が全体を"
    "作り直していないか。作り直しを確かめるには、他の人が控えたチェックポイント（--checkpoint）、別の経路で知った認証局の"
    "タイムスタンプ（--authority）、別の経路で知った装置の鍵（--key）が要ります。",
)


class Unusable(Exception):
    """This is no bundle: one sentence."""


@dataclass(frozen=True, slots=True)
class Finding:
    state: Literal["good", "wrong", "unknown"]
    where: str  # a member, or a call
    en: str
    ja: str


@dataclass(slots=True)
class Verdict:
    findings: list[Finding] = field(default_factory=list)
    key: str | None = None  # that signed

    @property
    def holds(self) -> bool:
        return all(each.state != "wrong" for each in self.findings)

    def good(self, where: str, en: str, ja: str) -> None:
        self.findings.append(Finding("good", where, en, ja))

    def wrong(self, where: str, en: str, ja: str) -> None:
        self.findings.append(Finding("wrong", where, en, ja))

    def unknown(self, where: str, en: str, ja: str) -> None:
        self.findings.append(Finding("unknown", where, en, ja))


@dataclass(slots=True)
class _Stamp:
    """Of an authority: when the line was there at the latest that the links lead to."""

    name: str
    at: str
    links: dict[int, str]


@dataclass(slots=True)
class _Outside:
    """What others than the unit have said of its chain."""

    checkpoints: list[tuple[int, str]]
    reached: set[int] = field(default_factory=set)  # lines of them that are in this bundle
    stamped: bool = False  # there are timestamps
    stamps: list[_Stamp] = field(default_factory=list)  # those that hold


def verify(
    path: Path,
    key: str | None = None,
    checkpoints: list[tuple[int, str]] | None = None,
    authorities: bytes | None = None,
    progress: Callable[[float], None] = lambda part: None,
) -> Verdict:
    """key: the unit's public key as hexadecimal, checkpoints: (seq, link) as the unit has published them, authorities:
    certificates of timestamps as PEM, all known from elsewhere. Raises Unusable, OSError.
    """
    verdict = Verdict()
    with path.open("rb") as file:
        infos = _members(file)
        with zipfile.ZipFile(file) as bundle:
            manifest = _json(bundle, "manifest.json")
            calls, listed = _listed(manifest)
            _container(verdict, file, infos)
            sums = _contents(verdict, bundle, infos, listed, progress)
            said = manifest["public_key"]
            verdict.key = key or said
            if key and key != said:
                verdict.wrong(
                    "manifest.json",
                    f"it was made by a unit whose key is {said[:16]}..., not the one given.",
                    f"この束を作った装置の鍵は {said[:16]}... で、指定された鍵と違います。",
                )
            elif not key:
                verdict.unknown(
                    "manifest.json",
                    f"the key {said[:16]}... is the bundle's own word; compare it with public_key in the unit's info.",
                    f"鍵 {said[:16]}... は束の中の記載です。装置の `info` の `public_key` と見比べてください。",
                )
            named = {call["call_id"] for call in calls}
            for name in sorted(sums):
                if name.startswith("calls/") and name.split("/")[1] not in named:
                    verdict.wrong(name, "it belongs to no call that the manifest names.", "一覧にない通話のものです。")
            outside = _Outside(checkpoints or [])
            for name in sorted(sums):
                if name.startswith("timestamps/"):
                    _timestamp(verdict, bundle, name, authorities, outside)
            for number, call in enumerate(calls):
                try:
                    _call(verdict, bundle, call, sums, outside)
                except _MISSHAPEN:
                    where = f"calls/{call['call_id']}/record.json"
                    verdict.wrong(where, "it is not as a unit writes it.", "装置が書いた形ではありません。")
                progress(0.5 + 0.5 * (number + 1) / len(calls))
            for seq, _ in outside.checkpoints:
                if seq not in outside.reached:
                    verdict.unknown(
                        "checkpoint",
                        f"line {seq} is not in this bundle, so the checkpoint of it says nothing of these calls.",
                        f"{seq} 行目はこの束にないため、そのチェックポイントからは何も言えません。",
                    )
    return verdict


# -- the container


def _members(file: IO[bytes]) -> list[zipfile.ZipInfo]:
    """Only what a unit writes: stored, small names, each once, nothing that could leave a folder."""
    try:
        with zipfile.ZipFile(file) as bundle:
            infos = bundle.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, struct.error, NotImplementedError, EOFError) as error:
        raise Unusable("this is no zip file, or it was cut short") from error
    names = [info.filename for info in infos]
    if len(infos) > _MOST_MEMBERS or len(set(names)) != len(names):
        raise Unusable("it has too many members, or two of one name")
    for info in infos:
        if not _NAME.fullmatch(info.filename):
            raise Unusable(f"it has a member {info.filename[:60]!r}, which no unit writes")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
            raise Unusable(f"its member {info.filename} is compressed or encrypted, which no unit does")
    if "manifest.json" not in names:
        raise Unusable("it has no manifest.json")
    if sum(info.file_size for info in infos) > file.seek(0, 2):
        raise Unusable("its members lie over each other, which no unit does")
    return infos


def _json(bundle: zipfile.ZipFile, name: str) -> Any:
    try:
        if bundle.getinfo(name).file_size > _MOST_JSON:
            raise Unusable(f"its {name} is far too large")
        return json.loads(bundle.read(name))
    except (KeyError, ValueError, RecursionError, zipfile.BadZipFile, EOFError) as error:
        raise Unusable(f"its {name} is missing or cannot be read") from error


def _listed(manifest: Any) -> tuple[list[dict[str, Any]], dict[str, str]]:
    try:
        if manifest["tsuroku_bundle"] != FORMAT:
            raise Unusable(f"it is of format {manifest['tsuroku_bundle']!r}; this program reads {FORMAT}")
        calls, members = manifest["calls"], manifest["members"]
        fits = bool(
            all(_CALL.fullmatch(call["call_id"]) and isinstance(call["sound"], dict | None) for call in calls)
            and all(re.fullmatch("[0-9a-f]{64}", digest) for digest in members.values())
            and re.fullmatch("[0-9a-f]{64}", manifest["public_key"])
        )
        for call in calls:
            if call["sound"]:
                fits = fits and call["sound"]["kind"] in ("original", "sealed", "redacted", "clip", "imported")
                fits = fits and isinstance(call["sound"]["file"], str)
    except (KeyError, TypeError, AttributeError) as error:
        raise Unusable("its manifest.json is not as a unit writes it") from error
    if not fits:
        raise Unusable("its manifest.json is not as a unit writes it")
    return calls, members


def _container(verdict: Verdict, file: IO[bytes], infos: list[zipfile.ZipInfo]) -> None:
    """Each byte that is no member's is what a unit writes there, so that nothing can hide between them."""
    at, central = 0, b""
    for info in sorted(infos, key=lambda each: each.header_offset):
        name = info.filename.encode()
        size, time, date = info.file_size, 0, 1 << 5 | 1
        local = _LOCAL.pack(b"PK\3\4", 20, 0, 0, time, date, info.CRC, size, size, len(name), 0) + name
        file.seek(at)
        if info.header_offset != at or file.read(len(local)) != local:
            verdict.wrong(
                "container",
                f"the bytes before {info.filename} were changed.",
                f"{info.filename} の前が書き換えられています。",
            )
            return
        mode = 0o100600 << 16
        central += (
            _CENTRAL.pack(
                b"PK\1\2", 20 | 3 << 8, 20, 0, 0, time, date, info.CRC, size, size, len(name), 0, 0, 0, 0, mode, at
            )
            + name
        )
        at += len(local) + size
    end = _END.pack(b"PK\5\6", 0, 0, len(infos), len(infos), len(central), at, 0)
    file.seek(at)
    if file.read() != central + end:
        verdict.wrong("container", "the list of members at its end was changed.", "末尾の一覧が書き換えられています。")


def _contents(
    verdict: Verdict,
    bundle: zipfile.ZipFile,
    infos: list[zipfile.ZipInfo],
    listed: dict[str, str],
    progress: Callable[[float], None],
) -> dict[str, str]:
    """SHA-256 of each member, held against the manifest."""
    total, done = sum(info.file_size for info in infos) or 1, 0
    sums: dict[str, str] = {}
    for info in infos:
        digest = hashlib.sha256()
        try:
            with bundle.open(info) as member:
                while data := member.read(1 << 20):
                    digest.update(data)
        except (zipfile.BadZipFile, EOFError, OSError):
            verdict.wrong(info.filename, "it was changed (its checksum).", "書き換えられています（検査符号）。")
            continue
        sums[info.filename] = digest.hexdigest()
        done += info.file_size
        progress(0.5 * done / total)
    there = {info.filename for info in infos}
    for name, wanted in listed.items():
        if name not in there:
            verdict.wrong(name, "it is missing.", "ありません。")
        elif name in sums and sums[name] != wanted:
            verdict.wrong(name, "it is not what the manifest lists.", "一覧の値と違います。")
    for name in sums:
        if name not in listed and name != "manifest.json":
            verdict.wrong(name, "the manifest does not list it.", "一覧にありません。")
    return sums


# -- the chain


def link_of(seq: int, prev: str, body_hash: str) -> str:
    """Of a line of the unit's log."""
    return hashlib.sha256(f"{seq:012d} {prev} {body_hash}".encode()).hexdigest()


def _is_signed(checkpoint: dict[str, Any], key: str) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    said = [str(checkpoint[name]) for name in ("store_id", "seq", "link", "calls", "at")]
    message = "\n".join(["tsuroku checkpoint 1", *said, ""]).encode()
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(bytes.fromhex(checkpoint["signature"]), message)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _documents(body: str, call_id: str) -> Iterator[dict[str, Any]]:
    """What a line says of a call: its record, as often as it was written."""
    head, *documents = body.split("\t")
    puts = [done for done in json.loads(head)["do"] if len(done) == 3]
    for (table, _, _), text in zip(puts, documents, strict=True):
        if table == "calls":
            document = json.loads(text)
            if document["call_id"] == call_id:
                yield document


def _chain(
    verdict: Verdict,
    bundle: zipfile.ZipFile,
    call_id: str,
    outside: _Outside,
) -> dict[str, Any] | None:
    """Follow the lines of a call to the signatures behind them. Returns the record that the last one holds."""
    name, record, before, unsigned = f"calls/{call_id}/chain.json", None, -1, False
    own = -1, ""
    try:
        runs = _json(bundle, name)["runs"]
        for run in runs:
            link = None
            for line in run["lines"]:
                seq, prev, body = int(line["seq"]), str(line["prev"]), line["body"]
                if seq <= before or (link is not None and prev != link[1]) or (link is not None and seq != link[0] + 1):
                    verdict.wrong(
                        name,
                        f"line {seq} does not follow the one before it: lines were changed, taken out or re-ordered.",
                        f"{seq} 行目が前の行につながりません。行が変えられたか、抜かれたか、並べ替えられています。",
                    )
                    return None
                digest = str(line["hash"]) if body is None else hashlib.sha256(body.encode()).hexdigest()
                link = seq, link_of(seq, prev, digest)
                before = seq
                for wanted_seq, wanted in outside.checkpoints:
                    if wanted_seq == seq:
                        outside.reached.add(seq)
                        if wanted != link[1]:
                            verdict.wrong(
                                name,
                                f"line {seq} is not the one that the checkpoint has: the chain was written anew.",
                                f"{seq} 行目がチェックポイントと違います。記録が作り直されています。",
                            )
                        else:
                            verdict.good(
                                name,
                                f"line {seq} is the one that the checkpoint has.",
                                f"{seq} 行目はチェックポイントと同じです。",
                            )
                if body is not None:
                    own = link
                    for document in _documents(body, call_id):
                        record = document
            signed = run["checkpoint"]
            if signed is None:
                unsigned = True
                verdict.unknown(
                    name,
                    "its last lines have no signature behind them yet; export it again later.",
                    "最後の行にはまだ署名がありません。後でもう一度書き出してください。",
                )
            elif link is None or (signed["seq"], signed["link"]) != link or not _is_signed(signed, str(verdict.key)):
                verdict.wrong(
                    name,
                    f"the signature behind line {before} is not the unit's over these lines.",
                    f"{before} 行目の後の署名は、この装置がこれらの行にしたものではありません。",
                )
                return None
    except (*_MISSHAPEN, Unusable):
        verdict.wrong(name, "it is not as a unit writes it.", "装置が書いた形ではありません。")
        return None
    if record is None:
        verdict.wrong(name, "no line of it holds the call.", "この通話の行がありません。")
        return None
    if outside.stamped:
        _stamped(verdict, name, own, outside)
    if unsigned:
        return record
    verdict.good(
        name,
        f"the record stands in the unit's chain (line {before}) and is signed by {str(verdict.key)[:16]}...",
        f"記録は装置の連鎖（{before} 行目まで）にあり、鍵 {str(verdict.key)[:16]}... で署名されています。",
    )
    return record


def _timestamp(
    verdict: Verdict, bundle: zipfile.ZipFile, name: str, authorities: bytes | None, outside: _Outside
) -> None:
    """Follow the lines to the one whose link an authority has stamped (RFC 3161), and check what it signed."""
    outside.stamped = True
    try:
        said = _json(bundle, name)
        seq, prev, links = int(said["first"]), str(said["prev"]), {}
        for digest in said["hashes"]:
            links[seq] = prev = link_of(seq, prev, str(digest))
            seq += 1
        if links.get(int(said["seq"])) != said["link"] or seq - 1 != int(said["seq"]):
            verdict.wrong(
                name,
                "its lines do not lead to what was stamped.",
                "証明された行につながりません。",
            )
            return
        token, own = base64.b64decode(said["token"], validate=True), str(said["authorities"]).encode("ascii")
    except (*_MISSHAPEN, Unusable):
        verdict.wrong(name, "it is not as a unit writes it.", "装置が書いた形ではありません。")
        return
    try:
        at, signer = _token(token, str(said["link"]), authorities or own)
    except ImportError:
        verdict.unknown(
            name,
            "it was not checked: install the package rfc3161-client.",
            "検査していません。rfc3161-client を入れてください。",
        )
        return
    except Exception as error:  # noqa: BLE001 - of whatever its reader stumbles over, the token is at fault
        verdict.wrong(
            name,
            f"the authority has not signed this ({type(error).__name__}: {str(error)[:100]}).",
            "認証局が署名したものではありません。",
        )
        return
    if authorities is None:
        verdict.unknown(
            name,
            f"{signer} says {at}; whether it is an authority, the bundle alone cannot show (--authority).",
            f"{signer} による日時は {at} です。信頼できる認証局かは、--authority で確かめてください。",
        )
    else:
        verdict.good(
            name,
            f"{signer} has stamped line {said['seq']} at {at}.",
            f"{signer} が {at} に {said['seq']} 行目までを証明しています。",
        )
    outside.stamps.append(_Stamp(signer, at, links))


def _token(der: bytes, link: str, authorities: bytes) -> tuple[str, str]:
    """The time, UTC, and who tells it. Raises ImportError, and whatever else for a token that does not hold."""
    from cryptography.x509 import load_der_x509_certificate, load_pem_x509_certificates
    from rfc3161_client import VerifierBuilder, decode_timestamp_response

    answer = decode_timestamp_response(der)
    builder = VerifierBuilder()
    for root in load_pem_x509_certificates(authorities):
        builder = builder.add_root_certificate(root)
    builder.build().verify_message(answer, link.encode())
    (signer,) = answer.signed_data.signer_infos
    known = map(load_der_x509_certificate, answer.signed_data.certificates)
    name = next((each.subject.rfc4514_string() for each in known if each.serial_number == signer.serial_number), "?")
    return answer.tst_info.gen_time.isoformat(timespec="seconds"), name


def _stamped(verdict: Verdict, name: str, own: tuple[int, str], outside: _Outside) -> None:
    """The call's last line, held against what was stamped."""
    seq, link = own
    for stamp in outside.stamps:
        if seq in stamp.links:
            if stamp.links[seq] == link:
                verdict.good(
                    name,
                    f"line {seq}, the call's last, was there at {stamp.at} at the latest ({stamp.name}).",
                    f"この通話の最後の行（{seq} 行目）は {stamp.at} までに書かれていました（{stamp.name}）。",
                )
            else:
                verdict.wrong(
                    name,
                    f"line {seq} is not the one that was stamped: the chain was written anew.",
                    f"{seq} 行目が証明されたものと違います。記録が作り直されています。",
                )
            return
    verdict.unknown(name, "no timestamp is behind it yet.", "日時の証明はまだありません。")


# -- a call


def _call(
    verdict: Verdict,
    bundle: zipfile.ZipFile,
    call: dict[str, Any],
    sums: dict[str, str],
    outside: _Outside,
) -> None:
    call_id = call["call_id"]
    record = _chain(verdict, bundle, call_id, outside)
    if record is None:
        return
    name = f"calls/{call_id}/record.json"
    try:
        if _json(bundle, name) != record:
            verdict.wrong(name, "it is not the record that was signed.", "署名された記録と違います。")
            return
    except Unusable:
        verdict.wrong(name, "it is missing or cannot be read.", "ないか、読めません。")
        return
    recording, sound = record["recording"], call["sound"]
    if sound is None:
        if recording and recording.get("deleted"):
            verdict.unknown(
                name,
                f"the unit has deleted the recording ({recording['deleted']['why']}).",
                f"録音は装置が削除しました（{recording['deleted']['why']}）。",
            )
        elif recording:
            verdict.unknown(
                name, "the call has a recording, which is not in this bundle.", "録音はこの束に含まれていません。"
            )
        return
    where = f"calls/{call_id}/{sound['file']}"
    if recording is None or where not in sums:
        verdict.wrong(
            where, "the record knows of no such recording, or it is missing.", "録音がないか、記録と合いません。"
        )
        return
    if sound["kind"] == "imported":
        taken = record["imported"]
        if sums[where] != taken["sha256"]:
            verdict.wrong(where, "it is not the file that was imported.", "取り込まれたファイルと違います。")
        else:
            verdict.good(
                where,
                f"it is the file that was imported on {taken['at']}, octet by octet; what it was before nobody knows.",
                f"{taken['at']} に取り込まれたファイルそのものです。それ以前のことは分かりません。",
            )
    elif sound["kind"] in ("original", "sealed"):
        if sums[where] != recording["sha256"]:
            verdict.wrong(where, "it is not the file that was recorded.", "録音されたファイルと違います。")
        else:
            verdict.good(where, "it is the file that was recorded, octet by octet.", "録音されたファイルそのものです。")
    if sound["kind"] == "sealed":
        verdict.unknown(
            where, "it is sealed: what it holds was not looked at.", "封印されているため、中の音声は見ていません。"
        )
    elif sound["kind"] != "imported":
        _sound(verdict, bundle, where, sound, recording)


def _sound(
    verdict: Verdict, bundle: zipfile.ZipFile, where: str, sound: dict[str, Any], recording: dict[str, Any]
) -> None:
    if not recording.get("root"):
        verdict.unknown(where, "the record has no hash tree of its seconds.", "記録に秒ごとの値がありません。")
        return
    rate, frames = int(recording["rate_hz"]), int(recording["frames"])
    seconds = -(-frames // rate) if 1 <= rate <= _MOST_RATE_HZ and frames >= 0 else -1
    try:
        # The hashes of the record's seconds, which the signed root is that of, are its word; the sound is held against.
        known = _json(bundle, f"{where.rsplit('/', 1)[0]}/leaves.json")
        leaves = [bytes.fromhex(leaf) for leaf in known["leaves"]]
        if len(leaves) != seconds or _root(iter(leaves)).hex() != recording["root"]:
            raise ValueError
        first, last = 0, seconds
        seed, salts = b"", None
        if sound["kind"] == "original":
            seed = _seed(bundle, where)
        else:
            salts = {int(number): bytes.fromhex(salt) for number, salt in known["salts"].items()}
            if sound["kind"] == "clip":
                first, last = int(sound["from_s"]), min(int(sound["to_s"]), seconds)
    except (*_MISSHAPEN, Unusable):
        verdict.wrong(where, "what proves its seconds is missing or damaged.", "秒ごとの証明がないか、壊れています。")
        return
    other: list[int] = []  # seconds that are not those of the record
    silenced: list[int] = []
    number = first
    try:
        for second in _seconds(bundle, where, rate):
            if number >= last:
                number += 1
                break
            salt = hmac.digest(seed, number.to_bytes(8, "big"), "sha256") if salts is None else salts.get(number)
            if salt is None:
                silenced.append(number)
            if (
                second.strip(b"\0")
                if salt is None
                else hashlib.sha256(b"\0" + salt + second).digest() != leaves[number]
            ):
                other.append(number)
            number += 1
    except NoDecoder:
        verdict.unknown(
            where,
            "its seconds were not checked: install the package soundfile or the program flac.",
            "秒ごとの検査はしていません。soundfile か flac を入れてください。",
        )
        return
    except (OSError, ValueError, RuntimeError):
        verdict.wrong(where, "its sound cannot be decoded.", "音声を読み取れません。")
        return
    if other:
        verdict.wrong(
            where,
            f"seconds {_ranges(other)} are not those that were recorded.",
            f"{_ranges(other)} 秒の音声が録音されたものと違います。",
        )
        return
    if number != last:
        verdict.wrong(where, "it is not as long as the record says.", "長さが記録と違います。")
        return
    told = f"seconds {first} to {last}" if sound["kind"] == "clip" else f"all {seconds} seconds"
    told_ja = f"{first}〜{last} 秒" if sound["kind"] == "clip" else f"全 {seconds} 秒"
    if silenced:
        told += f" but {_ranges(silenced)}, which were silenced for this bundle,"
        told_ja += f"（無音にした {_ranges(silenced)} 秒を除く）"
    verdict.good(where, f"{told} are the sound that was recorded.", f"{told_ja}が、録音された音声そのものです。")


def _ranges(numbers: list[int]) -> str:
    text, start = [], numbers[0]
    for number, following in zip(numbers, [*numbers[1:], None], strict=True):
        if following != number + 1:
            text.append(f"{start}-{number + 1}")
            start = following or 0
    return ", ".join(text)


def _root(leaves: Iterator[bytes]) -> bytes:
    """RFC 6962, section 2.1."""
    whole: list[tuple[int, bytes]] = []
    for node in leaves:
        level = 0
        while whole and whole[-1][0] == level:
            node = hashlib.sha256(b"\x01" + whole.pop()[1] + node).digest()
            level += 1
        whole.append((level, node))
    if not whole:
        return hashlib.sha256().digest()
    node = whole.pop()[1]
    while whole:
        node = hashlib.sha256(b"\x01" + whole.pop()[1] + node).digest()
    return node


# -- the sound


class NoDecoder(Exception):
    """Nothing here decodes FLAC."""


def _seed(bundle: zipfile.ZipFile, where: str) -> bytes:
    """The seed of a recording's leaves, from its Vorbis comment. Raises ValueError."""
    with bundle.open(where) as file:
        if file.read(4) != b"fLaC":
            raise ValueError("no FLAC file")
        while True:
            head = file.read(4)
            if len(head) < 4:
                raise ValueError("no Vorbis comment")
            block = file.read(int.from_bytes(head[1:], "big"))
            if head[0] & 0x7F == 4:
                found = re.search(rb"seed of its leaves: ([0-9a-f]{64})", block)
                if not found:
                    raise ValueError("no seed")
                return bytes.fromhex(found[1].decode())
            if head[0] & 0x80:
                raise ValueError("no Vorbis comment")


def _seconds(bundle: zipfile.ZipFile, where: str, rate_hz: int) -> Iterator[bytes]:
    """16-bit little-endian frames, a second at a time; the last one may be short."""
    with tempfile.TemporaryDirectory(prefix="tsuroku-verify-") as work:
        path = Path(work) / "sound.flac"
        with bundle.open(where) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target)
        with contextlib.suppress(ImportError):
            import soundfile

            try:
                with soundfile.SoundFile(path) as file:
                    if (file.samplerate, file.channels) != (rate_hz, 1):
                        raise ValueError("another rate")
                    while len(pcm := file.buffer_read(rate_hz, "int16")):
                        yield bytes(pcm)
            except soundfile.SoundFileError as error:
                raise ValueError(str(error)) from error
            return
        program = shutil.which("flac")
        if program is None:
            raise NoDecoder
        command = [program, "-dcs", "--force-raw-format", "--endian=little", "--sign=signed", str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as decoder:
            assert decoder.stdout is not None
            while data := decoder.stdout.read(2 * rate_hz):
                yield data
        if decoder.returncode:
            raise ValueError("flac gave up")


# -- the program


def read_checkpoints(text: str) -> list[tuple[int, str]]:
    """Of a file that somebody has kept: `chain` objects of state/recorder, or whole messages of it, one a line.

    Raises Unusable.
    """
    found = []
    for number, line in enumerate(filter(None, map(str.strip, text.splitlines())), 1):
        try:
            said = json.loads(line[line.index("{") :])
            chain = said.get("chain", said)
            found.append((int(chain["seq"]), str(chain["head"])))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Unusable(f"line {number} of the checkpoints holds no seq and head") from error
    if not found:
        raise Unusable("the file of checkpoints is empty")
    return found


def told(verdict: Verdict) -> Iterator[tuple[str, Finding | None, str]]:
    """Lines for people: mark, what it is of, text."""
    for each in verdict.findings:
        mark = {"good": "ok", "wrong": "!!", "unknown": "??"}[each.state]
        yield mark, each, f"{each.where}: {each.en}"
        yield "  ", each, each.ja
    for text in CANNOT:
        yield "--", None, text
    if verdict.holds:
        yield "ok", None, "Everything that can be checked holds. / 検査できることはすべて正しいと確かめられました。"
    else:
        yield "!!", None, "THIS BUNDLE DOES NOT HOLD. / この束は正しくありません。"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--key", help="the unit's public key, known from elsewhere")
    parser.add_argument("--checkpoint", type=Path, help="checkpoints of the unit that somebody has kept")
    parser.add_argument("--authority", type=Path, help="certificates of those who stamp the time, PEM")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # not every terminal can write Japanese
    try:
        if args.key and not re.fullmatch("[0-9a-f]{64}", args.key.lower()):
            raise Unusable("--key has 64 hexadecimal digits")
        checkpoints = read_checkpoints(args.checkpoint.read_text(encoding="utf-8")) if args.checkpoint else []
        authorities = args.authority.read_bytes() if args.authority else None
        verdict = verify(args.bundle, args.key and args.key.lower(), checkpoints, authorities)
    except Unusable as error:
        print(f"{args.bundle}: {error}.", file=sys.stderr)
        return 2
    except (OSError, UnicodeDecodeError) as error:
        print(f"{args.bundle}: cannot be read ({getattr(error, 'strerror', None) or error}).", file=sys.stderr)
        return 2
    if args.json:
        found = [asdict(each) for each in verdict.findings]
        print(json.dumps({"holds": verdict.holds, "key": verdict.key, "findings": found}, ensure_ascii=False))
    else:
        for mark, _, text in told(verdict):
            print(mark, text)
    return 0 if verdict.holds else 1


if __name__ == "__main__":
    sys.exit(main())
