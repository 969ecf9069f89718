import dataclasses
import os
import re
import shutil
import stat
import subprocess
import typing
from pathlib import Path
from typing import Any

import pytest

from firmware.settings import Settings, parse
from hw.board import load

ROOT = Path(__file__).parent.parent
PROVISIONING = ROOT / "provisioning"
INSTALL = PROVISIONING / "install.sh"
SERVICE = PROVISIONING / "tsuroku.service"
EXAMPLE = (PROVISIONING / "settings.example.toml").read_text(encoding="utf-8")

pytestmark = pytest.mark.skipif(shutil.which("dpkg") is None, reason="the installer is for Debian")
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def install(*options: str, destdir: Path | None = None) -> str:
    environment = {**os.environ, "DESTDIR": "" if destdir is None else str(destdir)}
    done = subprocess.run([INSTALL, *options], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def paths_below(directory: Path) -> set[str]:
    return {"/" + str(path.relative_to(directory)) for path in directory.rglob("*")}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# ---- the installer


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_the_installer_is_clean_in_shellcheck() -> None:
    done = subprocess.run(["shellcheck", INSTALL], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_a_dry_run_names_every_step_and_changes_nothing(tmp_path: Path) -> None:
    named = install("--dry-run").splitlines()
    script = INSTALL.read_text(encoding="utf-8")
    steps = re.findall(
        r'^    (?:put|live) "', script[script.index("install_unit()") : script.index("remove_service()")], re.M
    )
    assert len(named) == len(steps) >= 13
    assert all(line.startswith("- ") for line in named)
    assert install("--dry-run", destdir=tmp_path).count("\n") == len(named)
    assert paths_below(tmp_path) == set()


def test_a_dry_run_of_the_removal_changes_nothing(tmp_path: Path) -> None:
    install(destdir=tmp_path)
    before = paths_below(tmp_path)
    assert "recordings" in install("--remove", "--purge", "--dry-run", destdir=tmp_path)
    assert paths_below(tmp_path) == before


def test_an_install_below_a_directory_puts_every_file(tmp_path: Path) -> None:
    install(destdir=tmp_path)
    assert (tmp_path / "opt/tsuroku/firmware/settings.py").is_file()
    assert (tmp_path / "opt/tsuroku/hw/boards/line-tap-1.toml").is_file()
    assert (tmp_path / "opt/tsuroku/requirements.txt").is_file()
    assert not [path for path in paths_below(tmp_path) if "__pycache__" in path]
    assert (tmp_path / "usr/local/bin/tsuroku").readlink() == Path("/opt/tsuroku/tsuroku")
    assert mode(tmp_path / "opt/tsuroku/tsuroku") == 0o755
    assert mode(tmp_path / "etc/tsuroku") == 0o750
    assert mode(tmp_path / "etc/tsuroku/settings.toml") == 0o640
    assert mode(tmp_path / "var/lib/tsuroku") == 0o700
    for name in ("udev/rules.d/99-tsuroku.rules", "alsa/conf.d/99-tsuroku.conf", "systemd/system/tsuroku.service"):
        assert mode(tmp_path / "etc" / name) == 0o644


def test_an_update_keeps_the_settings_and_drops_old_code(tmp_path: Path) -> None:
    install(destdir=tmp_path)
    settings = tmp_path / "etc/tsuroku/settings.toml"
    settings.write_text("mine", encoding="utf-8")
    old = tmp_path / "opt/tsuroku/firmware/old.py"
    old.touch()
    install(destdir=tmp_path)
    assert settings.read_text(encoding="utf-8") == "mine"
    assert not old.exists()


def test_removal_keeps_settings_and_calls_and_purge_does_not(tmp_path: Path) -> None:
    install(destdir=tmp_path)
    call = tmp_path / "var/lib/tsuroku/call"
    call.touch()
    install("--remove", destdir=tmp_path)
    files = {path for path in paths_below(tmp_path) if (tmp_path / path[1:]).is_file()}
    assert files == {"/etc/tsuroku/settings.toml", "/var/lib/tsuroku/call"}
    install("--remove", "--purge", destdir=tmp_path)
    assert not [path for path in paths_below(tmp_path) if "tsuroku" in path]


@pytest.mark.parametrize("options", [["--purge"], ["--help"], ["--remove", "x"]])
def test_wrong_options_show_the_usage(options: list[str]) -> None:
    done = subprocess.run([INSTALL, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Usage: install.sh")
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("program", "body", "sentence"),
    [
        ("python3", "exit 1", "Python 3.11 or newer is needed, found none: install Raspberry Pi OS 12"),
        ("python3", "case $2 in *print*) echo 3.9;; *) exit 1;; esac", "Python 3.11 or newer is needed, found 3.9:"),
        ("dpkg", "echo armhf", "This system is armhf: install the 64-bit Raspberry Pi OS."),
    ],
)
def test_a_system_that_is_too_old_is_one_sentence(tmp_path: Path, program: str, body: str, sentence: str) -> None:
    stub(tmp_path, program, body)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([INSTALL, "--dry-run"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(sentence)
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def stub(directory: Path, program: str, body: str) -> None:
    path = directory / program
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)


OVERLAY = """
set -e
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
mount --rbind /proc "$1/root/proc"
mount --rbind /dev "$1/root/dev"
chroot "$1/root" /usr/bin/python3 -c "import venv, ensurepip"
mkdir "$1/root/stage"
for part in firmware drivers hw provisioning tsuroku LICENSE; do cp -R "$2/$part" "$1/root/stage"; done
"""
# Twice, so that the second run meets all that the first one made.
LIVE = """
set -e
: >/stage/requirements.txt
mkdir /stubs
for program in apt-get systemctl udevadm; do
    printf '#!/bin/sh\\necho "$(basename "$0") $*" >>/asked\\n' >"/stubs/$program"
done
chmod +x /stubs/*
export PATH=/stubs:/usr/sbin:/usr/bin:/sbin:/bin
/stage/provisioning/install.sh >/dev/null
echo mine >/etc/tsuroku/settings.toml
/stage/provisioning/install.sh >/dev/null
stat -c '%n %a %U %G' /etc/tsuroku /etc/tsuroku/settings.toml /var/lib/tsuroku /opt/tsuroku/firmware/settings.py
id -nG tsuroku
cat /etc/tsuroku/settings.toml
ls -d /opt/tsuroku/firmware/__pycache__
/opt/tsuroku/provisioning/install.sh --remove --purge >/dev/null
ls -d /opt/tsuroku /etc/tsuroku /var/lib/tsuroku 2>/dev/null || echo gone
id -u tsuroku 2>/dev/null || echo nobody
cat /asked
"""


@pytest.mark.realtime
def test_a_real_install_on_a_throw_away_copy_of_this_system(tmp_path: Path) -> None:
    """Real user, real environment, real rights; only packages, udev and the service manager are stubs."""
    script = f'{OVERLAY}\nexec chroot "$1/root" bash -c "$3"\n'
    run = ["unshare", "--mount", "bash", "-c", script, "overlay", str(tmp_path), str(ROOT), LIVE]
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare")
    probe = subprocess.run(
        ["unshare", "--mount", "bash", "-c", OVERLAY, "probe", str(tmp_path), str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
    )
    if probe.returncode != 0:
        pytest.skip(f"this machine cannot be copied into an overlay: {probe.stderr.strip()}")
    done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[:4] == [
        "/etc/tsuroku 750 root tsuroku",
        "/etc/tsuroku/settings.toml 640 root tsuroku",
        "/var/lib/tsuroku 700 tsuroku tsuroku",
        "/opt/tsuroku/firmware/settings.py 644 root root",
    ]
    assert set(said[4].split()) == {"tsuroku", "gpio", "dialout", "audio"}
    assert said[5:9] == ["mine", "/opt/tsuroku/firmware/__pycache__", "gone", "nobody"]
    once = [
        "apt-get update -q",
        "apt-get install -q -y --no-install-recommends " + " ".join(packages("packages.txt")),
        "udevadm control --reload",
        "udevadm trigger --subsystem-match=tty --subsystem-match=sound --subsystem-match=gpio",
        "systemctl daemon-reload",
        "systemctl enable --quiet tsuroku.service tsuroku-console.service",
        "systemctl restart tsuroku.service tsuroku-console.service",
    ]
    removed = [f"systemctl disable --now --quiet {name}.service" for name in ("tsuroku", "tsuroku-console")]
    assert said[9:] == [*once, *once, *removed, "systemctl daemon-reload"]


# ---- lists of packages


def packages(name: str) -> list[str]:
    lines = (PROVISIONING / name).read_text(encoding="utf-8").splitlines()
    return [line.split("#")[0].strip() for line in lines if line.split("#")[0].strip()]


@pytest.mark.parametrize("name", ["packages.txt", "packages-dev.txt"])
def test_every_package_has_its_reason(name: str) -> None:
    for line in (PROVISIONING / name).read_text(encoding="utf-8").splitlines():
        assert re.fullmatch(r"#.*|[a-z0-9][a-z0-9.+-]+ +# \S.*", line), line
    assert packages(name) == sorted(set(packages(name)))
    assert not set(packages("packages.txt")) & set(packages("packages-dev.txt"))


# ---- the service


def service() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in SERVICE.read_text(encoding="utf-8").splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def test_the_service_refers_only_to_what_the_installer_makes(tmp_path: Path) -> None:
    install(destdir=tmp_path)
    made = paths_below(tmp_path)
    named = set(re.findall(r"(?<![\w$])/(?:opt|etc|var|usr)/[\w./-]+", SERVICE.read_text(encoding="utf-8")))
    assert "/etc/tsuroku/settings.toml" in named
    assert 'venv --clear "$opt/.venv"' in INSTALL.read_text(encoding="utf-8")
    assert named - made == {"/opt/tsuroku/.venv/bin/python"}
    text = INSTALL.read_text(encoding="utf-8")
    assert service()["User"] == service()["Group"] == ["tsuroku"]
    for group in service()["SupplementaryGroups"][0].split():
        assert group in text[text.index("make_user()") : text.index("copy_code()")]


def test_the_service_is_started_again_for_ever_and_watched() -> None:
    unit = service()
    assert unit["Type"] == ["notify"]
    assert unit["Restart"] == ["always"]
    assert unit["StartLimitIntervalSec"] == ["0"]
    assert unit["WatchdogSec"] == ["30"]
    assert parse(EXAMPLE, "example").unit.data_dir == Path(unit["ReadWritePaths"][0])
    assert "LG_WD=/run/" + unit["RuntimeDirectory"][0] in unit["Environment"]


@needs_systemd
def test_systemd_finds_nothing_wrong_with_the_service(tmp_path: Path) -> None:
    unit = tmp_path / SERVICE.name
    text = SERVICE.read_text(encoding="utf-8")
    unit.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.M), encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_systemd
def test_the_service_is_exposed_by_2_0_at_most() -> None:
    """1.5 at the time of writing (systemd 252): the network, the devices and its own groups are what it needs."""
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=20", str(SERVICE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


# ---- udev and ALSA


def test_every_udev_rule_is_a_list_of_matches_and_assignments() -> None:
    rules = (PROVISIONING / "99-tsuroku.rules").read_text(encoding="utf-8").splitlines()
    rules = [line for line in rules if line and not line.startswith("#")]
    assert len(rules) == 3
    term = r'[A-Z]+(\{\w+\})?(==|!=|\+=|=)"[^"]*"'
    for rule in rules:
        assert re.fullmatch(rf"{term}(, {term})*", rule), rule
        assert rule.startswith('ACTION!="remove"')


def test_the_example_names_the_codec_and_modem_that_udev_and_alsa_name() -> None:
    rules = (PROVISIONING / "99-tsuroku.rules").read_text(encoding="utf-8")
    alsa = (PROVISIONING / "alsa.conf").read_text(encoding="utf-8")
    codec = parse(EXAMPLE, "example").line[0].codec
    assert f'ATTR{{id}}="{codec}"' in rules
    assert f"pcm.{codec} {{" in alsa
    assert f'"hw:CARD={codec}"' in alsa
    modem = parse(uncommented(), "example").line[0].modem
    assert modem is not None
    assert f'SYMLINK+="{modem.removeprefix("/dev/")} ' in rules


@pytest.mark.skipif(shutil.which("arecord") is None, reason="alsa-utils is not installed")
def test_alsa_reads_the_configuration_and_lists_the_line_tap() -> None:
    config = Path("/usr/share/alsa/alsa.conf")
    environment = {**os.environ, "ALSA_CONFIG_PATH": f"{config}:{PROVISIONING / 'alsa.conf'}"}
    done = subprocess.run(["arecord", "-L"], env=environment, capture_output=True, text=True, check=False)
    assert "linetap\n    line tap\n" in done.stdout, done.stderr


# ---- the example of the settings


def uncommented() -> str:
    return re.sub(r"^# (?=\[+\w+\]+$|\w+ = )", "", EXAMPLE, flags=re.M)


def test_the_example_is_valid_as_it_is_shipped() -> None:
    settings = parse(EXAMPLE, "example")
    assert load(settings.unit.board).name == settings.unit.board
    assert len(settings.line) == 1
    assert settings.broker == ()


def test_the_example_is_valid_with_every_key_set() -> None:
    settings = parse(uncommented(), "example")
    assert len(settings.broker) == len(settings.webhook) == len(settings.notify) == 1


def sections() -> dict[str, Any]:
    hints = typing.get_type_hints(Settings)
    return {name: next(iter(typing.get_args(hint)), hint) for name, hint in hints.items()}


@pytest.mark.parametrize("name", sections())
def test_the_example_has_every_key_once_with_its_default_and_a_line_of_help(name: str) -> None:
    blocks = re.split(r"^\[+(\w+)\]+$", uncommented(), flags=re.M)
    rows = dict(zip(blocks[1::2], blocks[2::2], strict=True))[name].splitlines()
    keys = [row.split(" = ")[0] for row in rows if re.match(r"\w+ = ", row)]
    fields = dataclasses.fields(sections()[name])
    assert sorted(keys) == sorted(field.name for field in fields)
    set_to = getattr(parse(uncommented(), "example"), name)
    shown = set_to[0] if isinstance(set_to, tuple) else set_to
    for field in fields:
        if field.default is not dataclasses.MISSING and field.default is not None:
            assert getattr(shown, field.name) == field.default, field.name
    self_evident = {"unit", "port", "password_file", "key_file"}  # told by the line above their neighbour
    for before, row in zip(["", *rows], rows, strict=False):
        key = row.split(" = ")[0]
        if key in keys and key not in self_evident:
            assert before.startswith("# "), key


def test_the_service_may_read_whether_the_clock_is_set() -> None:
    """adjtimex(2) is in @privileged, and ProtectClock= forbids it too: without it every call would say "unsynced"."""
    lines = (PROVISIONING / "tsuroku.service").read_text().splitlines()
    filters = [line for line in lines if line.startswith("SystemCallFilter=")]
    assert filters[-1] == "SystemCallFilter=adjtimex clock_adjtime"
    assert not any(line.startswith("ProtectClock") for line in lines)
