"""Bundles that were changed, 1,000 of each kind: found, and named; 1,000 untouched ones raise no alarm."""

from __future__ import annotations

import hashlib
import io
import json
import random
import secrets
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import soundfile

from drivers.virtual import scenario as story
from firmware.bundle import verify as checker
from firmware.bundle.export import _Bundle
from firmware.bundle.verify import Unusable, verify
from firmware.cli.main import main
from firmware.records.evidence import Signer
from firmware.settings import RecordingSettings
from firmware.simulate import results, stepped
from tests.proof.report import Report

TRIES = 1000
_WORDS = "a sealed shop"
_DAY = """title Calls of every kind
number display
1.0 call from 03-0000-1234
+7 lift
+0.5 shop says greeting
+9 hang up
40.0 call from 03-0000-5678
+7 lift
+0.5 lose audio 2
+2.5 shop says order
+9 hang up
80 lift
+2 dial 03-0000-9012
+5 far answers
+1 far says order
+12 hang up
120 call from 03-0000-3456
+20 give up
150 call from 03-0000-7890
+7 lift
+0.5 shop says greeting
+5 power cut
+8 hang up
end 190
"""

Held = dict[str, bytes]


class Shop:
    """A unit's calls, plain and sealed, and bundles of them. Without progress bars, since it makes a thousand."""

    def __init__(self, work: Path) -> None:
        self.work = work
        (work / "words").write_text(_WORDS)
        self.keys = work / "keys"
        self.run("keys", "make", self.keys, "--passphrase-file", work / "words")
        self.calls: dict[Path, list[str]] = {}
        for name, key in (("plain", None), ("sealed", self.keys / "owner-public.pem")):
            stepped(story.parse(_DAY, work / "day.txt"), work / name, recording=RecordingSettings(seal_to=key))
            self.calls[work / name] = [call["call_id"] for call in results(work / name)[0]]
        self.bundle = self.export(work / "plain", self.calls[work / "plain"])

    def run(self, *argv: object) -> str:
        said = io.StringIO()
        with redirect_stdout(said), redirect_stderr(said):
            code = main([str(each) for each in argv])
        assert code == 0, said.getvalue()
        return said.getvalue()

    def export(self, data: Path, calls: list[str], *options: object) -> Path:
        out = self.work / f"{secrets.token_hex(8)}.zip"
        self.run("export", *calls, "--data", data, "--out", out, *options)
        return out

    def any_bundle(self, dice: random.Random) -> Path:
        """Of some calls, whole or in part, with or without the sealed sound opened."""
        data = dice.choice(list(self.calls))
        options: list[object] = []
        if data.name == "sealed" and dice.random() < 0.7:
            options = ["--key", self.keys / "owner-key.pem", "--passphrase-file", self.work / "words"]
        opened = data.name == "plain" or bool(options)
        calls = dice.sample(self.calls[data], dice.randint(1, len(self.calls[data])))
        kind = dice.choice(["whole", "copy", "clip", "silence"])
        if opened and kind == "copy":
            options += ["--copy", dice.choice(["mp3", "opus"])]
        elif opened and kind in ("clip", "silence"):
            calls = [dice.choice([each for each in self.calls[data] if each != self.calls[data][3]])]
            begin = dice.randrange(4)
            options += [f"--{kind}", f"{begin}-{begin + dice.randint(1, 3)}"]
        return self.export(data, calls, *options)


def members(path: Path) -> Held:
    with zipfile.ZipFile(path) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def rebuilt(path: Path, held: Held, *, listed: bool = True) -> Path:
    """A bundle of these members, its manifest made to fit them: what somebody does who knows how it is built."""
    path.unlink(missing_ok=True)
    made = _Bundle(path)
    for name, data in held.items():
        if name != "manifest.json":
            made.add(name, data)
    manifest = json.loads(held["manifest.json"])
    if not listed:
        made.members = manifest["members"]
    made.close({name: value for name, value in manifest.items() if name != "members"})
    return path


def names(held: Held, end: str) -> list[str]:
    return sorted(name for name in held if name.endswith(end))


def scalars(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where in a JSON value there is no list and no object."""
    if isinstance(value, dict | list):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        return [found for key, each in parts for found in scalars(each, (*at, key))]
    return [at]


def put(value: Any, at: tuple[Any, ...], new: Any) -> None:
    for key in at[:-1]:
        value = value[key]
    value[at[-1]] = new


def taken(value: Any, at: tuple[Any, ...]) -> Any:
    for key in at:
        value = value[key]
    return value


def _other(value: Any, dice: random.Random) -> Any:
    """Something else of the same kind, which is harder to notice than another kind."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int | float):
        return value + dice.choice((-1, 1, 1000))
    at = dice.randrange(len(value) + 1)
    return value[:at] + dice.choice("0aZ") + value[at + 1 :] if value[at : at + 1] not in "0aZ" else value + "1"


# -- changes: each makes a bundle at a path, and says whose name the program must tell (any one of them)


def flip(bundle: Path, held: Held, path: Path, dice: random.Random) -> set[str]:
    data = bytearray(bundle.read_bytes())
    at = dice.randrange(len(data))
    data[at] ^= 1 << dice.randrange(8)
    path.write_bytes(data)
    with zipfile.ZipFile(bundle) as opened:
        for info in opened.infolist():
            begin = info.header_offset + 30 + len(info.filename)
            if begin <= at < begin + info.file_size:
                return {info.filename}
    return {"container"}


def cut(bundle: Path, held: Held, path: Path, dice: random.Random) -> set[str]:
    data = bundle.read_bytes()
    path.write_bytes(data[: dice.randrange(len(data))])
    return set()  # no zip file any more


def swap(bundle: Path, held: Held, path: Path, dice: random.Random) -> set[str]:
    kind = dice.choice(["sound.flac", "record.json", "chain.json", "leaves.json"])
    one, other = dice.sample(names(held, f"/{kind}"), 2)
    rebuilt(path, held | {one: held[other], other: held[one]}, listed=dice.random() < 0.5)
    return {_sound_of(one), _sound_of(other)} if kind == "leaves.json" else {one, other}


def take_out(bundle: Path, held: Held, path: Path, dice: random.Random) -> set[str]:
    call = dice.choice(names(held, "/record.json")).split("/")[1]
    rebuilt(path, {name: data for name, data in held.items() if call not in name}, listed=dice.random() < 0.5)
    return {name for name in held if call in name}


def reorder(bundle: Path, held: Held, path: Path, dice: random.Random) -> set[str]:
    """Lines of a call's chain, or whole runs of them."""
    name = dice.choice(names(held, "/chain.json"))
    chain = json.loads(held[name])
    run = dice.choice([run for run in chain["runs"] if len(run["lines"]) > 1])
    moved = chain["runs"] if len(chain["runs"]) > 1 and dice.random() < 0.5 else run["lines"]
    one, other = dice.sample(range(len(moved)), 2)
    moved[one], moved[other] = moved[other], moved[one]
    rebuilt(path, held | {name: _json(chain)})
    return {name}


def edit_record(bundle: Path, held: Held, path: Path, dice: random.Random) -> set[str]:
    """One value of a record; half of the times in the chain's line as well."""
    record = dice.choice(names(held, "/record.json"))
    chain = record.replace("record.json", "chain.json")
    document = json.loads(held[record])
    at = dice.choice(scalars(document))
    put(document, at, _other(taken(document, at), dice))
    if dice.random() < 0.5:
        rebuilt(path, held | {record: _json(document)})
        return {record}
    lines = json.loads(held[chain])
    own = [line for run in lines["runs"] for line in run["lines"] if line["body"] is not None]
    line = dice.choice(own)
    at_byte = dice.randrange(len(line["body"]))
    line["body"] = line["body"][:at_byte] + _other(line["body"][at_byte], dice) + line["body"][at_byte + 1 :]
    rebuilt(path, held | {record: _json(document), chain: _json(lines)})
    return {chain}


def edit_sound(bundle: Path, held: Held, path: Path, dice: random.Random) -> set[str]:
    """One frame, written anew as a FLAC file with the same comment: as long, and it plays."""
    name = dice.choice(names(held, "/sound.flac"))
    with soundfile.SoundFile(io.BytesIO(held[name])) as file:
        comment, rate, pcm = file.comment, file.samplerate, bytearray(file.buffer_read(dtype="int16"))
    at = dice.randrange(len(pcm))
    pcm[at] ^= 1 << dice.randrange(8)
    made = io.BytesIO()
    with soundfile.SoundFile(made, "w", rate, 1, "PCM_16", format="FLAC") as file:
        file.comment = comment
        file.buffer_write(bytes(pcm), "int16")
    rebuilt(path, held | {name: made.getvalue()})
    return {f"{name}: seconds {at // 2 // rate}-{at // 2 // rate + 1} "}


def sign_anew(bundle: Path, held: Held, path: Path, dice: random.Random) -> set[str]:
    """A call's chain, made anew by somebody with a key of his own. The bundle holds; its key is not the unit's."""
    with tempfile.TemporaryDirectory() as work:
        foreign = Signer(Path(work) / "key.pem")
        manifest = json.loads(held["manifest.json"])
        call = dice.choice(manifest["calls"])
        name, record = f"calls/{call['call_id']}/chain.json", f"calls/{call['call_id']}/record.json"
        chain = json.loads(held[name])
        rings = json.loads(held[record])["rings"]
        for run in chain["runs"]:
            link = None
            for line in run["lines"]:
                line["prev"] = link or line["prev"]
                if line["body"] is not None:
                    line["body"] = line["body"].replace(f'"rings":{rings},', '"rings":77,')
                    line["hash"] = hashlib.sha256(line["body"].encode()).hexdigest()
                link = checker.link_of(line["seq"], line["prev"], line["hash"])
            old = run["checkpoint"]
            run["checkpoint"] = foreign.checkpoint(old["store_id"], old["seq"], str(link), old["calls"], old["at"])
    manifest |= {"public_key": foreign.public_key, "calls": [call]}
    kept = {each: data for each, data in held.items() if "calls/" not in each or call["call_id"] in each}
    edited = held[record].replace(f'"rings":{rings},'.encode(), b'"rings":77,')
    rebuilt(path, kept | {name: _json(chain), record: edited, "manifest.json": _json(manifest)})
    return {"manifest.json: it was made by a unit whose key is"}


CHANGES: Mapping[str, Callable[[Path, Held, Path, random.Random], set[str]]] = {
    "a flipped bit": flip,
    "cut off": cut,
    "two files swapped": swap,
    "a call taken out": take_out,
    "lines re-ordered": reorder,
    "a record edited": edit_record,
    "a frame of sound edited": edit_sound,
    "signed anew with a foreign key": sign_anew,
}


def changed(shop: Shop, kind: str, seed: str, tries: int, progress: Callable[[float], None]) -> None:
    """Raises AssertionError for a change that is not found, or not named."""
    dice, held, path = random.Random(f"{seed} {kind}"), members(shop.bundle), shop.work / "changed.zip"
    key = json.loads(held["manifest.json"])["public_key"]
    for number in range(tries):
        named = CHANGES[kind](shop.bundle, held, path, dice)
        try:
            wrong = [f"{each.where}: {each.en}" for each in verify(path, key).findings if each.state == "wrong"]
        except Unusable:
            wrong = []
            assert kind in ("a flipped bit", "cut off"), f"{kind}, seed {seed}, try {number}: {named} made it unusable"
            if kind == "a flipped bit":
                assert named <= {"container", "manifest.json"}, f"seed {seed}, try {number}: {named} made it unusable"
        else:
            assert kind != "cut off", f"seed {seed}, try {number}: a bundle that was cut is read"
            assert any(each.startswith(tuple(named)) for each in wrong), (
                f"{kind}, seed {seed}, try {number}: {named} were changed, and it says {wrong}"
            )


def untouched(shop: Shop, seed: str, tries: int, progress: Callable[[float], None]) -> None:
    """Raises AssertionError for an alarm. Each fifth is a bundle of its own; the others are checked again."""
    dice = random.Random(seed)
    made: list[Path] = []
    for number in range(tries):
        if number % 5 == 0:
            made.append(shop.any_bundle(dice))
        verdict = verify(dice.choice(made))
        assert verdict.holds and not any("no signature" in each.en for each in verdict.findings), (
            f"seed {seed}, try {number}: {[each for each in verdict.findings if each.state != 'good']}"
        )
        progress(number / tries)


def hostile(shop: Shop, seed: str, tries: int, progress: Callable[[float], None]) -> None:
    """Any value of any JSON member replaced by anything, its hashes made to fit: a verdict or a sentence, no crash."""
    dice, held, path = random.Random(seed), members(shop.bundle), shop.work / "hostile.zip"
    anything: tuple[Any, ...] = (
        None,
        True,
        0,
        -1,
        1 << 70,
        1e308,
        "",
        "x",
        "0" * 64,
        [],
        {},
        [[]],
        {"a": 1},
        float("nan"),
    )
    for _ in range(tries):
        name = dice.choice([each for each in held if each.endswith(".json")])
        document = json.loads(held[name])
        at = dice.choice(scalars(document))
        at = at[: dice.randint(1, len(at))]
        put(document, at, dice.choice(anything))
        made = held | {name: json.dumps(document).encode()}
        if dice.random() < 0.5 and name.endswith("record.json"):  # as somebody with a key of his own would sign it
            made |= _resigned(made, name, document)
        try:
            verify(rebuilt(path, made))
        except Unusable:
            pass


def _resigned(held: Held, record: str, document: Any) -> Held:
    with tempfile.TemporaryDirectory() as work:
        foreign = Signer(Path(work) / "key.pem")
        name, text = record.replace("record.json", "chain.json"), json.dumps(document)
        head = json.dumps({"do": [["calls", 1, len(text)]]})
        body = f"{head}\t{text}"
        digest = hashlib.sha256(body.encode()).hexdigest()
        link = checker.link_of(1, "0" * 64, digest)
        signed = foreign.checkpoint("x", 1, link, 1, "2026-01-01T00:00:00Z")
        line = {"seq": 1, "prev": "0" * 64, "hash": digest, "body": body}
        manifest = json.loads(held["manifest.json"])
        manifest |= {"public_key": foreign.public_key}
        return {
            name: _json({"runs": [{"lines": [line], "checkpoint": signed}]}),
            "manifest.json": _json(manifest),
        }


def _sound_of(name: str) -> str:
    return name.replace("leaves.json", "sound.flac")


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def prove(report: Report) -> None:
    seed = str(secrets.randbelow(1_000_000))
    report.figure("seed", seed)
    with tempfile.TemporaryDirectory(prefix="tsuroku-") as work:
        shop = Shop(Path(work))
        steps = len(CHANGES) + 2
        for number, kind in enumerate(CHANGES):
            changed(shop, kind, seed, TRIES, lambda part: None)
            report.figure(kind, f"{TRIES:,} of {TRIES:,} found and named")
            report.progress((number + 1) / steps)
        hostile(shop, seed, TRIES, lambda part: None)
        report.figure("any value replaced by anything", f"{TRIES:,} bundles: a verdict or a sentence, no crash")
        untouched(shop, seed, TRIES, lambda part: report.progress((steps - 1 + part) / steps))
        report.figure("untouched", f"{TRIES:,} checks of {TRIES // 5} bundles of plain, cut, sealed calls: no alarm")
