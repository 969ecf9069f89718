"""Recordings of other makers: what they tell is kept as their word, each is taken in once, nothing of them is lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from firmware.bundle.verify import verify
from firmware.cli.main import main
from firmware.core.call import Call, ClockRead
from firmware.imports import ENDINGS, NotImported, prepare
from firmware.records.store import CallReader, CallStore
from firmware.retention import Retention
from firmware.settings import ImportsSettings, RetentionSettings, SettingsError, parse
from tests.contract import check_event
from tests.proof.bundles import members, names, rebuilt
from tests.test_settings import GOOD
from tests.units import running, set_clock, settings

NOW = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
RATE = 8000


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One call as the recorder apps keep it, 6 s; in AMR 3 s of frames that nobody has spoken (no encoder is free)."""
    work = tmp_path_factory.mktemp("sounds")
    at = np.arange(6 * RATE) / RATE
    soundfile.write(work / "a.wav", 0.3 * np.sin(2 * np.pi * 440 * at) * (at % 1 < 0.6), RATE)
    for ending in ("m4a", "mp3", "ogg", "3gp", "aac", "opus", "flac"):
        more = ["-c:a", "aac"] if ending == "3gp" else ["-c:a", "libvorbis"] if ending == "ogg" else []
        command = ["ffmpeg", "-v", "error", "-i", "a.wav", *more, f"a.{ending}"]
        subprocess.run(command, cwd=work, check=True, timeout=60)
    (work / "a.amr").write_bytes(b"#!AMR\n" + (b"\x3c" + bytes(range(31))) * 150)
    return work


def named(sounds: Path, tmp_path: Path, name: str) -> Path:
    path = tmp_path / name
    shutil.copy(sounds / f"a{path.suffix}", path)
    return path


def taken(path: Path, data: Path, **more: Any) -> Call:
    return prepare(path, data, "jp", None, NOW, **more)


@pytest.mark.parametrize("ending", ["m4a", "mp3", "ogg", "3gp", "aac", "opus", "flac", "wav", "amr"])
def test_each_format_is_read_and_kept_as_it_came(sounds: Path, tmp_path: Path, ending: str) -> None:
    assert f".{ending}" in ENDINGS
    source = named(sounds, tmp_path, f"Call recording 0300001234_261126_101500.{ending}")
    call = taken(source, tmp_path / "data")
    recording = call.recording
    assert recording and call.imported and recording.levels
    kept = tmp_path / "data" / recording.path
    assert kept.read_bytes() == source.read_bytes() and kept.stat().st_mode & 0o777 == 0o600
    assert recording.sha256 == call.imported.sha256 and recording.size_bytes == kept.stat().st_size
    assert recording.duration_s == pytest.approx(3 if ending == "amr" else 6, abs=0.15)
    if ending != "amr":
        assert recording.levels.peak_dbfs == pytest.approx(-10.5, abs=1.5)
    assert (call.caller.number, call.caller.national) == ("+81300001234", "03-0000-1234")
    assert (call.imported.time_from, call.imported.number_from) == ("name", "name")
    assert call.iso(call.opened_ns) == datetime(2026, 11, 26, 10, 15).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    assert (call.outcome, call.clock.state, call.answered_ns, call.line) == ("imported", "unsynced", None, 0)
    assert Call.from_dict(json.loads(json.dumps(call.to_dict()))) == call
    assert taken(source, tmp_path / "data") == call, "done again, it is another"


def test_tags_tell_what_the_name_does_not(sounds: Path, tmp_path: Path) -> None:
    def tagged(name: str, **tags: str) -> Call:
        path = tmp_path / name
        more = [word for key, value in tags.items() for word in ("-metadata", f"{key}={value}")]
        command = ["ffmpeg", "-v", "error", "-y", "-i", str(sounds / "a.wav"), *more, str(path)]
        subprocess.run(command, check=True, timeout=60)
        os.utime(path, (1_780_000_000, 1_780_000_000))
        return taken(path, tmp_path / "data")

    call = tagged("x.mp3", title="2026-11-25 09-00-00 (phone) A (03 0000 5678) ↗")
    assert call.imported and (call.imported.time_from, call.imported.number_from) == ("tags", "tags")
    assert call.dialled and (call.direction, call.dialled.number) == ("outgoing", "+81300005678")
    call = tagged("y.m4a", creation_time="2026-11-24T01:02:03Z")
    assert call.imported and (call.imported.time_from, call.iso(0)) == ("tags", "2026-11-24T01:02:03.000Z")
    call = tagged("z.m4a", date="2026")
    assert call.imported and (call.imported.time_from, call.imported.number_from) == ("file", None)
    assert call.clock.wall_ns == 1_780_000_000 * 10**9 and call.caller.number is None and call.direction is None
    call = tagged("1732673700.m4a")  # fits no numbering plan
    assert call.caller.raw is None and call.imported and call.imported.number_from is None


def test_what_is_no_recording_is_refused_and_leaves_nothing(sounds: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    bad = {
        "notes.txt": (b"hello", "is no kind of sound"),
        "empty.m4a": (b"", "no sound"),
        "list.mp3": (b"#EXTM3U\nfile:/etc/hostname\n", "no sound"),
        "list.m4a": (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:1/a\n", "no sound"),
        "noise.mp3": (bytes(range(256)) * 40, "damaged"),
        "cut.m4a": ((sounds / "a.m4a").read_bytes()[:8000], "damaged"),
        "bad.flac": ((sounds / "a.flac").read_bytes()[:-2000] + bytes(2000), "damaged"),
    }
    for name, (content, says) in bad.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(NotImported, match=says):
            taken(tmp_path / name, data)
    assert not list(data.rglob("*.*"))


def test_odd_names_are_only_names(sounds: Path, shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["-y.mp3", "a\nb 0300001234_261126_101500.mp3", 'it\'s "q" %s {x}.mp3', os.fsdecode(b"\xff\xfe.mp3")]
    for number, name in enumerate(names):
        sound = (sounds / "a.mp3").read_bytes()
        (tmp_path / name).write_bytes(sound[:-number] if number else sound)
    os.mkfifo(tmp_path / "pipe.mp3")
    (tmp_path / "folder.mp3").mkdir()
    given = [tmp_path / name for name in [*names, "pipe.mp3", "folder.mp3"]]
    assert run("import", "--data", shop, "--json", "--", *given) == 1
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["refused"] is None for each in told] == [True] * len(names) + [False, False]
    assert run("store", "verify", "--data", shop) == 0


def test_without_ffmpeg_one_sentence_says_so(sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotImported, match="install the package ffmpeg"):
        taken(sounds / "a.mp3", tmp_path / "data")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A unit's folder with a store that has nothing in it."""
    data = tmp_path / "shop"
    data.mkdir()
    CallStore(data / "store", "/t", boot_id="b", read_clock=set_clock, key=data / "unit-key.pem").close()
    return data


def run(*argv: object) -> int:
    return main([str(each) for each in argv])


def test_the_command_takes_each_in_once(
    sounds: Path, shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = named(sounds, tmp_path, "Call recording 0300001234_261126_101500.m4a")
    (tmp_path / "no.mp3").write_bytes(b"no")
    assert run("import", first, tmp_path / "no.mp3", "--data", shop) == 1
    said = capsys.readouterr()
    assert "03-0000-1234" in said.out and "no.mp3: is damaged" in said.err
    assert run("import", first, "--data", shop, "--json") == 1
    assert json.loads(capsys.readouterr().out)["refused"] == "is there already."
    with_reader = CallReader(shop / "store")
    (call,) = with_reader.calls()
    (event,) = with_reader.events(("call",))
    with_reader.close()
    assert event["type"] == "call.imported" and "Call recording" not in json.dumps(event)
    check_event(event)
    assert run("calls", "show", call["call_id"], "--data", shop) == 0
    assert "time from its name, number from its name" in " ".join(capsys.readouterr().out.split())
    assert run("store", "verify", "--data", shop) == 0


def test_what_was_erased_does_not_come_back(
    sounds: Path, shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = named(sounds, tmp_path, "Call recording 0300001234_261126_101500.m4a")
    assert run("import", first, "--data", shop) == 0
    assert run("store", "erase", "03-0000-1234", "--yes", "--data", shop, "--reason", "asked") in (0, 1)
    assert not list((shop / "recordings").rglob("*.m4a"))
    assert run("import", first, "--data", shop) == 1 and "was erased" in capsys.readouterr().err
    assert not list((shop / "recordings").rglob("*.m4a"))


@pytest.mark.parametrize("sealed", [False, True])
def test_a_bundle_of_it_holds_and_a_changed_file_is_found(
    sounds: Path, shop: Path, tmp_path: Path, sealed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    source = named(sounds, tmp_path, "Call recording 0300001234_261126_101500.m4a")
    options: list[object] = []
    if sealed:
        (tmp_path / "words").write_text("a sealed shop")
        assert run("keys", "make", tmp_path / "keys", "--passphrase-file", tmp_path / "words") == 0
        (tmp_path / "unit.toml").write_text(
            f'[unit]\nsite = "shop"\nunit = "unit-1"\ndata_dir = "{shop}"\n[[line]]\nnumber = 1\ncodec = "x"\n'
            f'[recording]\nseal_to = "{tmp_path}/keys/owner-public.pem"\n'
        )
        assert run("import", source, "--settings", tmp_path / "unit.toml") == 0
        assert not list((shop / "recordings").rglob("*.m4a"))
        options = ["--key", tmp_path / "keys" / "owner-key.pem", "--passphrase-file", tmp_path / "words"]
    else:
        assert run("import", source, "--data", shop) == 0
    reader = CallReader(shop / "store")
    (call,) = reader.calls()
    reader.close()
    capsys.readouterr()
    assert run("calls", "show", call["call_id"], "--data", shop, *options) == 0
    assert set("▁▂▃▄▅▆▇█") & set(capsys.readouterr().out)
    out = tmp_path / "bundle.zip"
    assert run("export", call["call_id"], "--data", shop, "--out", out, "--copy", "mp3", *options) == 0
    verdict = verify(out)
    assert verdict.holds and any("the file that was imported on" in each.en for each in verdict.findings)
    held = members(out)
    (name,) = names(held, "sound.m4a")
    assert held[name] == source.read_bytes()
    changed = rebuilt(tmp_path / "changed.zip", held | {name: held[name][:-1] + b"x"})
    assert "is not the file that was imported" in "".join(each.en for each in verify(changed).findings)
    clip = ["--out", tmp_path / "no.zip", "--clip", "1-3"]
    assert run("export", call["call_id"], "--data", shop, *clip, *options) == 2
    assert "was imported: no part of it could be proved" in capsys.readouterr().err
    if sealed:
        assert run("export", call["call_id"], "--data", shop, "--out", tmp_path / "closed.zip") == 0
        assert verify(tmp_path / "closed.zip").holds


def test_the_watched_folder_is_emptied_into_the_unit(sounds: Path, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    chosen = settings(tmp_path / "data", imports=ImportsSettings(folder=inbox))
    with running(chosen) as unit:
        taker = unit.unit.inbox
        assert taker
        name = "Call recording 0300001234_261126_101500.m4a"
        (inbox / name).write_bytes((sounds / "a.m4a").read_bytes()[:5000])

        def look() -> None:
            taker._next_ns = 0
            unit.unit._housekeeping()

        unit.do(look)
        shutil.copy(sounds / "a.m4a", inbox / name)  # it was on its way
        (inbox / "no.mp3").write_bytes(b"no")
        (inbox / ".hidden.mp3").write_bytes(b"no")
        (inbox / "link.mp3").symlink_to(sounds / "a.mp3")
        end = time.monotonic() + 30
        while {each.name for each in inbox.iterdir()} != {".hidden.mp3", "link.mp3", "not-imported"}:
            assert time.monotonic() < end, list(inbox.iterdir())
            unit.do(look)
            time.sleep(0.05)
        assert [each.name for each in (inbox / "not-imported").iterdir()] == ["no.mp3"]
        (call,) = list(unit.unit.store.calls())
        assert call["recording"]["frames"] and call["imported"]["file"] == name
        shutil.copy(sounds / "a.m4a", inbox / "the same.m4a")
        while (inbox / "the same.m4a").exists():
            assert time.monotonic() < end + 30
            unit.do(look)
            time.sleep(0.05)
        assert len(list(unit.unit.store.calls())) == 1
    assert len(list((tmp_path / "data/recordings/imported").iterdir())) == 1


def test_a_folder_that_nothing_can_be_taken_from_stops_nothing(
    sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    for name in ("a.mp3", "no.mp3"):
        shutil.copy(sounds / "a.mp3", inbox / name)
    (inbox / "no.mp3").write_bytes(b"no")

    def denied(work: Any) -> Any:
        def fails(self: Path, *given: Any, **more: Any) -> Any:
            if inbox in (self.parent, self):
                raise PermissionError(13, "Permission denied")
            return work(self, *given, **more)

        return fails

    with running(settings(tmp_path / "data", imports=ImportsSettings(folder=inbox))) as unit:
        taker = unit.unit.inbox
        assert taker

        def look() -> None:
            taker._next_ns = 0
            unit.unit._housekeeping()

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", denied(Path.unlink))
            patch.setattr(Path, "mkdir", denied(Path.mkdir))
            end = time.monotonic() + 30
            while len(taker._stuck) < 2:
                assert time.monotonic() < end
                unit.do(look)
                time.sleep(0.05)
        assert len(list(unit.unit.store.calls())) == 1


def test_cut_off_anywhere_it_is_taken_in_once(
    sounds: Path, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy is there and the call is not; half a copy is there."""
    source = named(sounds, tmp_path, "Call recording 0300001234_261126_101500.m4a")

    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", fails)
        with pytest.raises(OSError, match="No space"):
            taken(source, shop)
    assert not list((shop / "recordings/imported").iterdir())
    (shop / "recordings/imported" / f".{taken(source, tmp_path / 'other').call_id}.m4a.part").write_bytes(b"half")
    taken(source, shop)
    assert run("import", source, "--data", shop) == 0
    reader = CallReader(shop / "store")
    assert len(list(reader.calls())) == 1
    reader.close()
    assert [each.suffix for each in (shop / "recordings/imported").iterdir()] == [".m4a"]


def test_an_old_call_is_as_old_as_it_has_been_here(sounds: Path, shop: Path, tmp_path: Path) -> None:
    source = named(sounds, tmp_path, "Call recording 0300001234_160101_101500.m4a")
    key = shop / "unit-key.pem"
    store = CallStore(shop / "store", "/t", sinks=(), boot_id="b", read_clock=set_clock, key=key)
    call = prepare(source, shop, "jp", None, datetime.now(UTC))
    assert store.take_in(call) is None
    retention = Retention(RetentionSettings(keep_days=30), shop, store)
    for _ in range(3):
        retention.tick()
    kept = store.get(call.call_id)
    assert kept and kept.recording and kept.recording.deleted is None
    later = lambda: ClockRead(mono_ns=time.monotonic_ns(), wall_ns=time.time_ns() + 31 * 86_400 * 10**9, state="ntp")  # noqa: E731
    store.read_clock = later  # type: ignore[method-assign]
    Retention(RetentionSettings(keep_days=30), shop, store).tick()
    kept = store.get(call.call_id)
    assert kept and kept.recording and kept.recording.deleted
    assert not list((shop / "recordings").rglob("*.m4a"))
    store.close()


def test_the_folder_is_none_of_the_units_own() -> None:
    with pytest.raises(SettingsError, match=r"\[imports\] folder lies in data_dir"):
        parse(f'{GOOD}\n[imports]\nfolder = "/var/lib/tsuroku/inbox"\n', "unit.toml")
