"""Sealed recordings from end to end: the owner's keys, a unit that seals, and who can listen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import soundfile

from drivers.virtual import scenario as story
from firmware.cli.main import main
from firmware.settings import RecordingSettings
from firmware.simulate import results, stepped

DAY = """title A sealed call
number display
1.0 call from 03-0000-1234
+7 lift
+0.5 shop says greeting
+9 hang up
end 22
"""
WORDS = "four words are enough"


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str]:
    code = main([str(each) for each in argv])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


@pytest.fixture
def keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    (tmp_path / "words").write_text(WORDS + "\n")
    code, said = run(capsys, "keys", "make", tmp_path / "keys", "--passphrase-file", tmp_path / "words")
    assert code == 0 and "誰にも元に戻せません" in said and "Nobody can bring it back" in said
    return tmp_path / "keys"


def sealed_day(tmp_path: Path, public: Path) -> tuple[Path, dict[str, object]]:
    stepped(story.parse(DAY, tmp_path / "day.txt"), tmp_path / "data", recording=RecordingSettings(seal_to=public))
    (call,) = results(tmp_path / "data")[0]
    return tmp_path / "data", dict(call)


def test_keys_are_private_and_never_overwritten(keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    private = keys / "owner-key.pem"
    assert private.stat().st_mode & 0o777 == 0o600 and b"ENCRYPTED PRIVATE KEY" in private.read_bytes()
    before = private.read_bytes()
    code, said = run(capsys, "keys", "make", keys, "--passphrase-file", tmp_path / "words")
    assert code == 2 and "is there already" in said and private.read_bytes() == before
    assert run(capsys, "keys", "make", tmp_path / "other")[0] == 2, "nobody can be asked here"
    (tmp_path / "words").write_text("\n")
    assert "is empty" in run(capsys, "keys", "make", tmp_path / "other", "--passphrase-file", tmp_path / "words")[1]


def test_only_the_private_key_opens_what_a_unit_has_recorded(
    keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, call = sealed_day(tmp_path, keys / "owner-public.pem")
    recording = call["recording"]
    assert isinstance(recording, dict) and recording["path"].endswith(".flac.sealed") and call["outcome"] == "answered"
    plain, _ = stepped_plain(tmp_path)
    sealed = (data / recording["path"]).read_bytes()
    assert b"fLaC" not in sealed
    code, said = run(capsys, "calls", "show", call["call_id"], "--data", data)
    assert code == 0 and "It is sealed" in said
    code, said = run(capsys, "calls", "play", call["call_id"], "--data", data)
    assert code == 2 and "is sealed; give the owner's private key with --key owner-key.pem." in said
    key = ("--key", keys / "owner-key.pem", "--passphrase-file", tmp_path / "words")
    out = tmp_path / "out"
    code, said = run(capsys, "calls", "export", call["call_id"], "--data", data, "--out", out, *key)
    assert code == 0
    exported = next(out.glob("*.flac"))
    pcm, rate = soundfile.read(exported, dtype="int16")
    assert (pcm == plain).all() and rate == 8000 and json.loads(next(out.glob("*.json")).read_text())["call_id"]
    code, said = run(capsys, "calls", "show", call["call_id"], "--data", data, *key)
    assert code == 0 and "▇▇▇" in said
    (tmp_path / "words").write_text("another sentence")
    code, said = run(capsys, "calls", "show", call["call_id"], "--data", data, *key)
    assert code == 2 and "is no private key of an owner, or the passphrase is wrong." in said


def stepped_plain(tmp_path: Path) -> tuple[object, int]:
    """The same day at a unit that does not seal."""
    stepped(story.parse(DAY, tmp_path / "day.txt"), tmp_path / "plain")
    (call,) = results(tmp_path / "plain")[0]
    return soundfile.read(tmp_path / "plain" / call["recording"]["path"], dtype="int16")  # type: ignore[no-any-return]


def test_a_key_that_is_of_no_use_stops_no_recording_and_is_told(tmp_path: Path, keys: Path) -> None:
    for public in (tmp_path / "none.pem", keys / "owner-key.pem"):
        data, call = sealed_day(tmp_path, public)
        recording = call["recording"]
        assert isinstance(recording, dict) and recording["path"].endswith(".flac")
        said = json.loads((data / "health.json").read_text())["seal/1"]
        assert f"seal_to {public} cannot be used" in said and "recordings are not sealed" in said
        for path in sorted(data.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
