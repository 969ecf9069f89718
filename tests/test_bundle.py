"""Bundles: whole ones never raise an alarm; whatever is changed is found, and named, by the program that goes along."""

from __future__ import annotations

import hashlib
import io
import json
import random
import secrets
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from drivers.virtual import scenario as story
from firmware.bundle import verify as checker
from firmware.bundle.verify import Unusable, verify
from firmware.cli.main import main
from firmware.records.evidence import Signer
from firmware.simulate import results, stepped
from tests.proof import bundles
from tests.proof.bundles import members, names, rebuilt

DAY = """title Two calls
number display
1.0 call from 03-0000-1234
+7 lift
+0.5 shop says greeting
+9 hang up
40.0 call from 03-0000-5678
+7 lift
+0.5 shop says order
+9 hang up
70 call from 03-0000-9012
end 99
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A unit's folder, and its calls: two answered ones and a missed one."""
    work = tmp_path_factory.mktemp("shop")
    stepped(story.parse(DAY, work / "day.txt"), work / "data")
    return work / "data", [call["call_id"] for call in results(work / "data")[0]]


def run(*argv: object) -> int:
    return main([str(each) for each in argv])


@pytest.fixture(scope="module")
def bundle(shop: tuple[Path, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    data, calls = shop
    out = tmp_path_factory.mktemp("bundle") / "both.zip"
    assert run("export", *calls[:2], "--data", data, "--out", out) == 0
    return out


def key_of(bundle: Path) -> str:
    with zipfile.ZipFile(bundle) as opened:
        return str(json.loads(opened.read("manifest.json"))["public_key"])


def wrongs(path: Path, key: str | None = None, **more: Any) -> list[str]:
    return [f"{each.where}: {each.en}" for each in verify(path, key, **more).findings if each.state == "wrong"]


def test_whole_bundles_hold_and_say_what_they_prove(shop: tuple[Path, list[str]], tmp_path: Path) -> None:
    data, calls = shop
    ways: list[tuple[str, list[object], str]] = [
        ("one", [calls[0], "--copy", "mp3"], "all 14 seconds are the sound that was recorded."),
        ("missed", [calls[2]], "the record stands in the unit's chain"),
        ("silenced", [calls[0], "--silence", "3-5", "--silence", "9-10"], "but 3-5, 9-10, which were silenced"),
        ("clip", [calls[1], "--clip", "4-9", "--note", "how to greet"], "seconds 4 to 9 are the sound"),
    ]
    for name, arguments, says in ways:
        out = tmp_path / f"{name}.zip"
        assert run("export", *arguments, "--data", data, "--out", out) == 0
        verdict = verify(out, key_of(out))
        assert verdict.holds, verdict.findings
        assert any(says in each.en for each in verdict.findings), (name, verdict.findings)
        with zipfile.ZipFile(out) as opened:
            texts = b"".join(
                opened.read(member) for member in opened.namelist() if not member.endswith((".pdf", ".py"))
            )
            assert all(opened.read(each).startswith(b"%PDF-") for each in opened.namelist() if each.endswith(".pdf"))
        others = {"0300001234", "0300005678", "0300009012"} - {
            results(data)[0][calls.index(str(arguments[0]))]["caller"]["raw"]
        }
        assert not [number for number in others if number.encode() in texts], "another caller's number goes along"


def test_a_copy_as_wav_has_every_frame_of_the_original(shop: tuple[Path, list[str]], tmp_path: Path) -> None:
    data, calls = shop
    out = tmp_path / "wav.zip"
    assert run("export", calls[0], "--copy", "wav", "--data", data, "--out", out) == 0
    with zipfile.ZipFile(out) as opened:
        found = {
            Path(name).suffix: opened.read(name) for name in opened.namelist() if Path(name).stem in ("sound", "copy")
        }
    original, copied = (soundfile.read(io.BytesIO(found[suffix]), dtype="int16") for suffix in (".flac", ".wav"))
    assert copied[1] == original[1] and np.array_equal(copied[0], original[0])


def test_a_silenced_stretch_is_silent_and_its_salts_stay_behind(shop: tuple[Path, list[str]], tmp_path: Path) -> None:
    data, calls = shop
    out = tmp_path / "silenced.zip"
    assert run("export", calls[0], "--data", data, "--out", out, "--silence", "6-8") == 0
    with zipfile.ZipFile(out) as opened:
        name = next(each for each in opened.namelist() if each.endswith("redacted.flac"))
        pcm, rate = soundfile.read(io.BytesIO(opened.read(name)), dtype="int16")
        proof = json.loads(opened.read(name.replace("redacted.flac", "leaves.json")))
        whole = b"".join(opened.read(each) for each in opened.namelist())
    original = results(data)[0][0]["recording"]
    seed = str(soundfile.SoundFile(data / original["path"]).comment)[-64:]
    before, _ = soundfile.read(data / original["path"], dtype="int16")
    assert len(pcm) == len(before) and not pcm[6 * rate : 8 * rate].any() and before[6 * rate : 8 * rate].any()
    assert (pcm[: 6 * rate] == before[: 6 * rate]).all() and (pcm[8 * rate :] == before[8 * rate :]).all()
    assert len(proof["leaves"]) == -(-len(pcm) // rate) and not {"6", "7"} & set(proof["salts"])
    assert seed.encode() not in whole


def test_the_program_that_goes_along_runs_by_itself(bundle: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(bundle) as opened:
        (tmp_path / "check.py").write_bytes(opened.read("verify.py"))
    command = [sys.executable, "-I", str(tmp_path / "check.py"), str(bundle)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0 and "Everything that can be checked holds." in done.stdout
    assert "録音されたファイルそのものです" in done.stdout and "What this cannot show" in done.stdout
    shutil.copy(bundle, tmp_path / "changed.zip")
    data = bytearray((tmp_path / "changed.zip").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "changed.zip").write_bytes(data)
    again = [*command[:-1], "changed.zip", "--json"]
    done = subprocess.run(again, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 1 and json.loads(done.stdout)["holds"] is False


def test_without_soundfile_the_flac_program_is_asked_and_without_both_it_says_so(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    assert verify(bundle, key_of(bundle)).holds
    assert [each.en for each in verify(bundle).findings if "seconds are the sound" in each.en]
    monkeypatch.setattr(shutil, "which", lambda name: None)
    verdict = verify(bundle)
    assert verdict.holds and [each for each in verdict.findings if "install the package soundfile" in each.en]


# -- what is changed is found


def test_a_rebuilt_bundle_is_the_same(bundle: Path, tmp_path: Path) -> None:
    held = members(bundle)
    assert rebuilt(tmp_path / "b.zip", held).read_bytes() == bundle.read_bytes()


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> bundles.Shop:
    """Calls of every kind, plain and sealed."""
    return bundles.Shop(tmp_path_factory.mktemp("many"))


@pytest.mark.parametrize("kind", bundles.CHANGES)
def test_a_change_by_chance_is_found_and_named(many: bundles.Shop, kind: str) -> None:
    bundles.changed(many, kind, str(secrets.randbelow(1_000_000)), bundles.TRIES // 10, lambda part: None)


def test_untouched_bundles_of_every_kind_raise_no_alarm(many: bundles.Shop) -> None:
    bundles.untouched(many, str(secrets.randbelow(1_000_000)), bundles.TRIES // 10, lambda part: None)


def test_whatever_a_bundle_holds_the_program_does_not_crash(many: bundles.Shop) -> None:
    bundles.hostile(many, str(secrets.randbelow(1_000_000)), bundles.TRIES // 5, lambda part: None)


def test_every_cut_is_found_and_whatever_is_put_behind(bundle: Path, tmp_path: Path) -> None:
    dice = random.Random(1)
    data = bundle.read_bytes()
    for size in [0, 1, 21, *(dice.randrange(len(data)) for _ in range(40)), len(data) - 1]:
        (tmp_path / "cut.zip").write_bytes(data[:size])
        with pytest.raises(Unusable):
            verify(tmp_path / "cut.zip")
    for more in (b"\0", data[-22:], b"PK\5\6" + bytes(18)):
        (tmp_path / "more.zip").write_bytes(data + more)
        try:
            assert wrongs(tmp_path / "more.zip")
        except Unusable:
            pass


def test_two_recordings_that_changed_places_are_named(bundle: Path, tmp_path: Path) -> None:
    held = members(bundle)
    one, other = names(held, "/sound.flac")
    held[one], held[other] = held[other], held[one]
    said = wrongs(rebuilt(tmp_path / "b.zip", held))
    assert [each for each in said if each.startswith(one)] and [each for each in said if each.startswith(other)]


def test_an_edited_record_is_named(bundle: Path, tmp_path: Path) -> None:
    for old, new in ((b'"rings":1', b'"rings":2'), (b"0300001234", b"0300001235"), (b'"answered"', b'"missed"')):
        held = members(bundle)
        name = next(each for each in names(held, "record.json") if old in held[each])
        held[name] = held[name].replace(old, new)
        assert wrongs(rebuilt(tmp_path / "b.zip", held)) == [f"{name}: it is not the record that was signed."]


def test_an_edited_line_a_missing_one_and_another_order_are_named(bundle: Path, tmp_path: Path) -> None:
    held = members(bundle)
    name = names(held, "chain.json")[0]
    chain = json.loads(held[name])
    lines = chain["runs"][0]["lines"]

    def said(change: str) -> list[str]:
        again = json.loads(json.dumps(chain))
        runs = again["runs"]
        match change:
            case "edited":
                body = runs[-1]["lines"][0]["body"]
                runs[-1]["lines"][0]["body"] = body.replace("answered", "answerer", 1)
            case "edited together with the record":
                for run in runs:
                    for line in run["lines"]:
                        line["body"] = line["body"] and line["body"].replace("0300001234", "0300001235")
                record = name.replace("chain", "record")
                edited = held | {record: held[record].replace(b"0300001234", b"0300001235")}
                return wrongs(rebuilt(tmp_path / "b.zip", edited | {name: json.dumps(again).encode()}))
            case "taken out":
                del runs[0]["lines"][len(lines) // 2]
            case "another order":
                runs[0]["lines"][0], runs[0]["lines"][1] = runs[0]["lines"][1], runs[0]["lines"][0]
            case "runs in another order":
                again["runs"] = runs[::-1]
            case "without its signature":
                runs[0]["checkpoint"]["signature"] = "00" * 64
            case "with another link":
                runs[0]["lines"][0]["prev"] = "0" * 64
        return wrongs(rebuilt(tmp_path / "b.zip", held | {name: json.dumps(again).encode()}))

    for change in (
        "edited",
        "edited together with the record",
        "taken out",
        "another order",
        "without its signature",
        "with another link",
        *(["runs in another order"] if len(chain["runs"]) > 1 else []),
    ):
        found = said(change)
        assert found and all(each.startswith(name) for each in found), (change, found)


def test_a_call_or_a_file_that_was_taken_out_is_named(bundle: Path, tmp_path: Path) -> None:
    held = members(bundle)
    for name in [each for each in held if each != "manifest.json"]:
        left = {each: data for each, data in held.items() if each != name}
        assert f"{name}: it is missing." in wrongs(rebuilt(tmp_path / "b.zip", left, listed=False))
    call = names(held, "chain.json")[0].split("/")[1]
    manifest = json.loads(held["manifest.json"])
    without = {each: data for each, data in held.items() if call not in each}
    assert [each for each in wrongs(rebuilt(tmp_path / "b.zip", without)) if call in each], "the list of calls knows it"
    manifest["calls"] = [each for each in manifest["calls"] if each["call_id"] != call]
    held["manifest.json"] = json.dumps(manifest).encode()
    said = wrongs(rebuilt(tmp_path / "b.zip", held))
    assert len(said) == 6 and all(
        f"calls/{call}/" in each and "no call that the manifest names" in each for each in said
    )


def test_a_chain_that_was_signed_anew_is_told_by_the_key_and_by_a_checkpoint(bundle: Path, tmp_path: Path) -> None:
    held, key = members(bundle), key_of(bundle)
    foreign = Signer(tmp_path / "foreign.pem")
    call = next(each["call_id"] for each in json.loads(held["manifest.json"])["calls"])
    name, record = f"calls/{call}/chain.json", f"calls/{call}/record.json"
    chain, link, first = json.loads(held[name]), None, None
    for run in chain["runs"]:
        for line in run["lines"]:
            line["prev"] = link if link else line["prev"]
            if line["body"] is not None:
                line["body"] = line["body"].replace("0300001234", "0300001235")
                line["hash"] = hashlib.sha256(line["body"].encode()).hexdigest()
            link = checker.link_of(line["seq"], line["prev"], line["hash"])
            first = first or (line["seq"], link)
        old = run["checkpoint"]
        run["checkpoint"] = foreign.checkpoint(old["store_id"], old["seq"], str(link), old["calls"], old["at"])
        link = None
    manifest = json.loads(held["manifest.json"]) | {"public_key": foreign.public_key}
    manifest["calls"] = [each for each in manifest["calls"] if each["call_id"] == call]
    forged = {each: data for each, data in held.items() if "calls/" not in each or call in each} | {
        name: json.dumps(chain).encode(),
        record: held[record].replace(b"0300001234", b"0300001235"),
        "manifest.json": json.dumps(manifest).encode(),
    }
    path = rebuilt(tmp_path / "forged.zip", forged)
    assert wrongs(path) == [], "by itself it holds: that is what `cannot` says"
    assert any("not the one given" in each for each in wrongs(path, key))
    original = json.loads(held[name])["runs"][-1]["lines"][0]
    kept = [(original["seq"], checker.link_of(original["seq"], original["prev"], original["hash"]))]
    assert any("the chain was written anew" in each for each in wrongs(path, checkpoints=kept))
    assert wrongs(bundle, key, checkpoints=kept) == []


def test_sound_that_was_changed_and_fitted_in_is_found_by_its_seconds(
    shop: tuple[Path, list[str]], tmp_path: Path
) -> None:
    data, calls = shop
    out = tmp_path / "s.zip"
    assert run("export", calls[0], "--data", data, "--out", out, "--silence", "3-5") == 0
    held = members(out)
    name = names(held, "redacted.flac")[0]
    pcm, rate = soundfile.read(io.BytesIO(held[name]), dtype="int16")
    for change in ("one sample", "sound in the silence", "shorter", "longer"):
        other = pcm.copy()
        match change:
            case "one sample":
                other[rate * 7 + 5] += 1
            case "sound in the silence":
                other[rate * 3 + 5] = 1
            case "shorter":
                other = other[:-rate]
            case _:
                other = np.concatenate([other, other[:rate]])
        made = io.BytesIO()
        soundfile.write(made, other, rate, "PCM_16", format="FLAC")
        said = wrongs(rebuilt(tmp_path / "b.zip", held | {name: made.getvalue()}))
        assert said and all(each.startswith(name) for each in said), (change, said)


# -- what is no bundle


def hostile(**changes: Any) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", changes.get("compression", zipfile.ZIP_STORED)) as opened:
        opened.writestr("manifest.json", changes.get("manifest", b"{}"))
        for name in changes.get("names", ()):
            opened.writestr(name, b"x")
    return made.getvalue()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "this is no zip file, or it was cut short"),
        (b"PK\3\4" + bytes(500), "this is no zip file, or it was cut short"),
        (hostile(names=["../../etc/passwd"]), "it has a member '../../etc/passwd', which no unit writes"),
        (hostile(names=["/etc/passwd"]), "it has a member '/etc/passwd', which no unit writes"),
        (hostile(names=["calls/x\n/sound.flac"]), "which no unit writes"),
        (hostile(compression=zipfile.ZIP_DEFLATED, manifest=bytes(9_000_000)), "is compressed or encrypted"),
        (hostile(), "its manifest.json is not as a unit writes it"),
        (hostile(manifest=b"[" * 100_000), "its manifest.json is missing or cannot be read"),
        (hostile(manifest=b'{"tsuroku_bundle": 2}'), "it is of format 2; this program reads 1"),
        (hostile(manifest=b'{"tsuroku_bundle": 1, "calls": [5], "members": {}}'), "is not as a unit writes it"),
    ],
)
def test_what_is_no_bundle_is_one_sentence(data: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(data)
    with pytest.raises(Unusable) as error:
        verify(path)
    assert says in str(error.value) and "\n" not in str(error.value).replace("\\n", "")
    assert checker.main([str(path)]) == 2


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(tmp_path / "x.zip", "w") as opened:
        opened.writestr("manifest.json", "{}")
        opened.writestr("manifest.json", "{}")
    with pytest.raises(Unusable, match="two of one name"):
        verify(tmp_path / "x.zip")


def test_what_the_command_line_cannot_do_is_told(
    shop: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, calls = shop
    out = tmp_path / "o.zip"
    cases: list[tuple[list[object], str]] = [
        ([calls[0], "--silence", "5"], "--silence '5': give whole seconds of the recording, as 12-20."),
        ([calls[0], "--silence", "5-500"], "has seconds 0 to 14; give a part of these."),
        ([calls[0], calls[1], "--clip", "1-2"], "are seconds of one call; give that call alone."),
        ([calls[2], "--clip", "1-2"], "has no recording to take a part of."),
        ([calls[0], "--note", "x"], "--note goes with --clip."),
        (["nobody"], "no call has an id that ends in 'nobody'"),
    ]
    for arguments, says in cases:
        assert run("export", *arguments, "--data", data, "--out", out) == 2
        assert says in capsys.readouterr().err and not out.exists()
    out.write_text("mine")
    assert run("export", calls[0], "--data", data, "--out", out) == 2 and out.read_text() == "mine"
    assert "is there already" in capsys.readouterr().err
    assert run("verify", tmp_path / "none.zip") == 2
