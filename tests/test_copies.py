"""Copies off the unit by the real rclone, to its own WebDAV and SFTP servers and to another disk, and back."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest

from drivers.virtual import scenario as story
from firmware.cli.main import main
from firmware.copies import Copier, CopyError, State, read_state
from firmware.copies import run as copy
from firmware.records.store import CallReader
from firmware.settings import CopiesSettings, SettingsError, parse
from firmware.simulate import results, stepped
from tests.test_settings import GOOD
from tests.units import running, settings

DAY = """title Three calls
number display
1.0 call from 03-0000-1234
+7 lift
+0.5 shop says greeting
+5 hang up
40.0 call from 03-0000-5678
+7 lift
+0.5 shop says order
+5 hang up
70 call from 03-0000-9012
+8 lift
+4 hang up
end 99
"""


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("day")
    stepped(story.parse(DAY, work / "day.txt"), work / "data")
    return work / "data"


@pytest.fixture
def shop(day: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(day, tmp_path / "shop"))


class Server:
    """rclone serve: a share that a unit can reach."""

    def __init__(self, kind: str, work: Path) -> None:
        self.kind, self.folder, self.config = kind, work / "share", work / "rclone.conf"
        self.folder.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        hidden = subprocess.run(["rclone", "obscure", "secret"], check=True, capture_output=True, text=True).stdout
        where = {
            "webdav": f"url = http://127.0.0.1:{self.port}\nvendor = other\nuser = unit\npass = {hidden}",
            "sftp": f"host = 127.0.0.1\nport = {self.port}\nuser = unit\npass = {hidden}\nshell_type = none",
        }[kind]
        self.config.write_text(f"[nas]\ntype = {kind}\n{where}\n")
        self.settings = CopiesSettings(remote="nas:tsuroku", config_file=self.config)
        self.start()

    def start(self) -> None:
        own = ["--addr", f"127.0.0.1:{self.port}", "--user", "unit", "--pass", "secret", "--config", os.devnull]
        # Files that it still holds in memory would be none that have come back.
        self.process = subprocess.Popen(
            ["rclone", "serve", self.kind, str(self.folder), *own], stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert time.monotonic() < end and self.process.poll() is None
                time.sleep(0.05)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)


@contextmanager
def serving(kind: str, work: Path) -> Iterator[Server]:
    server = Server(kind, work)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def other_disk() -> Iterator[Path]:
    """A folder on another file system than the unit's."""
    path = Path("/dev/shm") / f"tsuroku-copies-{os.getpid()}"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    yield path
    shutil.rmtree(path, ignore_errors=True)


def copied(chosen: CopiesSettings, shop: Path) -> State:
    return copy(chosen, shop, shop / "store", time.time())


def settings_file(work: Path, data: Path, chosen: CopiesSettings) -> Path:
    path = work / f"{data.name}.toml"
    more = f'config_file = "{chosen.config_file}"\n' if chosen.config_file else ""
    path.write_text(
        f'[unit]\nsite = "shop"\nunit = "unit-1"\ndata_dir = "{data}"\n[[line]]\nnumber = 1\ncodec = "x"\n'
        f'[copies]\nremote = "{chosen.remote}"\n{more}'
    )
    return path


@pytest.mark.parametrize("kind", ["webdav", "sftp"])
def test_all_goes_to_a_server_and_comes_back(
    kind: str, shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(kind, tmp_path) as server:
        ours = settings_file(tmp_path, shop, server.settings)
        assert main(["copies", "run", "--settings", str(ours)]) == 0
        assert "3 recordings" in capsys.readouterr().out
        sounds = {path.relative_to(shop) for path in (shop / "recordings").rglob("*.flac")}
        there = {path.relative_to(server.folder / "tsuroku") for path in server.folder.rglob("*.flac")}
        assert len(sounds) == 3 and there == sounds
        assert main(["copies", "status", "--json", "--settings", str(ours)]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["wrong"] is None and told["good"] and told["recordings"] == 3
        new = tmp_path / "new"
        theirs = settings_file(tmp_path, new, server.settings)
        assert main(["copies", "restore", "--settings", str(theirs)]) == 0
        assert "3 recordings are as recorded" in capsys.readouterr().out
    assert results(new)[0] == results(shop)[0]
    assert main(["store", "verify", "--data", str(new), "--key", key_of(shop)]) == 0


def key_of(data: Path) -> str:
    reader = CallReader(data / "store")
    try:
        return str((reader.storage.doc("meta", 1) or {})["public_key"])
    finally:
        reader.close()


def test_a_server_that_goes_and_comes_back(shop: Path, tmp_path: Path) -> None:
    with serving("webdav", tmp_path) as server:
        server.stop()
        state = copied(server.settings, shop)
        assert state.wrong and "nas:tsuroku" in state.wrong and state.number == 0 and state.good_s is None
        server.start()
        state = copied(server.settings, shop)
        assert (state.wrong, state.recordings) == (None, 3)
        again = copied(server.settings, shop)
        assert again.recordings == 3, "copied twice"
        elsewhere = CopiesSettings(remote="nas:other", config_file=server.config)
        assert copied(elsewhere, shop).recordings == 3, "another place has nothing yet"


def test_what_does_not_come_back_as_it_was_is_no_copy(shop: Path, other_disk: Path) -> None:
    """A file of the same name, size and time, and other sound: rclone takes it for the same."""
    sound = next((shop / "recordings").rglob("*.flac"))
    bad = other_disk / sound.relative_to(shop)
    bad.parent.mkdir(parents=True)
    data = bytearray(sound.read_bytes())
    data[-1] ^= 1
    bad.write_bytes(data)
    times = sound.stat().st_atime_ns, sound.stat().st_mtime_ns
    os.utime(bad, ns=times)
    chosen = CopiesSettings(remote=str(other_disk))
    state = copied(chosen, shop)
    assert state.wrong and "not what was recorded" in state.wrong and state.number == 0
    assert copied(chosen, shop).wrong is None
    assert bad.read_bytes() == sound.read_bytes()


def test_what_was_erased_is_erased_there_too(shop: Path, other_disk: Path) -> None:
    chosen = CopiesSettings(remote=str(other_disk))
    assert copied(chosen, shop).wrong is None
    before = len(list(other_disk.rglob("*.flac")))
    assert main(["store", "erase", "03-0000-1234", "--yes", "--data", str(shop), "--reason", "asked"]) in (0, 1)
    assert copied(chosen, shop).wrong is None
    assert len(list(other_disk.rglob("*.flac"))) == before - 1
    assert not [path for path in other_disk.rglob("*.log") if b"0300001234" in path.read_bytes()]


def test_a_disk_that_is_not_there_is_no_place(shop: Path, tmp_path: Path) -> None:
    state = copied(CopiesSettings(remote=str(tmp_path / "usb")), shop)
    assert state.wrong and "lies on the unit's own disk" in state.wrong
    state = copied(CopiesSettings(remote="/none/usb"), shop)
    assert state.wrong and "is the disk plugged in" in state.wrong


def test_without_rclone_one_sentence_says_so(
    shop: Path, other_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nice").symlink_to(str(shutil.which("nice")))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    state = copied(CopiesSettings(remote=str(other_disk)), shop)
    assert state.wrong and "install the package rclone" in state.wrong


def test_two_at_once_are_one(shop: Path, other_disk: Path) -> None:
    (shop / "copies").mkdir()
    with (shop / "copies" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(CopyError, match="already"):
            copied(CopiesSettings(remote=str(other_disk)), shop)


def test_a_damaged_state_begins_anew(shop: Path, other_disk: Path) -> None:
    chosen = CopiesSettings(remote=str(other_disk))
    copied(chosen, shop)
    (shop / "copies" / "state.json").write_text('{"remote": ')
    assert read_state(shop) is None
    assert copied(chosen, shop).recordings == 3


def test_killed_anywhere_it_goes_on(shop: Path, other_disk: Path, tmp_path: Path) -> None:
    """As a call does it, over and over, a little later each time, until once it comes through."""
    chosen = CopiesSettings(remote=str(other_disk))
    file = settings_file(tmp_path, shop, chosen)
    command = [sys.executable, "-m", "firmware", "copies", "run", "--settings", str(file)]
    for number in range(40):
        process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
        try:
            if process.wait(0.3 + number * 0.15) == 0:
                break
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    else:
        pytest.fail("it never came through")
    assert copied(chosen, shop).wrong is None
    for sound in (shop / "recordings").rglob("*.flac"):
        assert (other_disk / sound.relative_to(shop)).read_bytes() == sound.read_bytes()


# -- when


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def ended(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def test_none_during_a_call_and_none_outside_of_its_hours(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    command = ["sh", "-c", f"echo x >> {ran}; sleep 60 & wait"]
    chosen = CopiesSettings(remote=str(tmp_path), window="22:00-06:00")
    copier = Copier(chosen, tmp_path, command, lambda wrong: None)
    noon, night = datetime(2026, 11, 27, 12).astimezone(), datetime(2026, 11, 27, 23).astimezone()
    ns = time.monotonic_ns()
    copier.tick(noon, ns, busy=False)
    copier.tick(night, ns, busy=True)
    assert copier._process is None
    copier.tick(night, ns, busy=False)
    assert copier._process
    until(ran.exists)
    group = copier._process.pid
    copier.tick(night, ns, busy=False)
    assert copier._process
    copier.tick(night, ns, busy=True)  # somebody calls
    assert copier._process is None
    until(lambda: ended(group))
    copier.tick(night, ns, busy=False)
    assert copier._process is None, "it begins again in the next breath"
    copier.tick(night, ns + 40_000_000_000, busy=False)
    assert copier._process
    copier.tick(noon, ns, busy=False)
    assert copier._process is None, "it goes on behind its hours"


def test_days_without_a_copy_are_told(shop: Path, tmp_path: Path) -> None:
    told: list[str | None] = []
    chosen = CopiesSettings(remote="/none/usb")
    state = copied(chosen, shop)
    copier = Copier(chosen, shop, ["true"], told.append)

    def passes(days: float) -> None:
        now = datetime.fromtimestamp(state.begun_s + days * 86_400).astimezone()
        copier._next_ns = 0
        copier.tick(now, 1, busy=False)
        assert copier._process
        copier._process.wait()
        copier.tick(now, 1, busy=True)

    passes(2.9)
    assert told == []
    passes(3.1)
    assert told[-1] and "is the disk plugged in" in told[-1]


def test_the_unit_copies_by_itself(day: Path, other_disk: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(day, tmp_path / "data"))
    chosen = CopiesSettings(remote=str(other_disk))
    command = [sys.executable, "-m", "firmware", "copies", "run"]
    command += ["--settings", str(settings_file(tmp_path, data, chosen))]
    with running(settings(data, copies=chosen), copy_by=command) as unit:
        until(lambda: bool((state := read_state(data)) and state.good_s))
        until(lambda: unit.unit._health.get("copies/1", "") is None)
    assert len(list(other_disk.rglob("*.flac"))) == 3


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ('remote = "nas"', "neither a remote of rclone"),
        ('remote = "nas:a"', "needs config_file"),
        ('remote = "/mnt/usb"\nwindow = "late"', "no stretch of the day"),
    ],
)
def test_settings_that_lead_nowhere_are_refused(section: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        parse(f"{GOOD}\n[copies]\n{section}\n", "unit.toml")
