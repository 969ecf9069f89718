#!/bin/bash
# Installs Tsuroku on Raspberry Pi OS or Debian. Run again to update: settings and recordings stay as they are.
set -euo pipefail
umask 022

usage="Usage: install.sh [--dry-run]                     install or update
       install.sh --remove [--purge] [--dry-run]  remove; --purge: settings, calls and recordings too
With DESTDIR set, only files are put, below that directory: for building an image."

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source=$(dirname "$here")
root=${DESTDIR:-}
opt=/opt/tsuroku
etc=/etc/tsuroku
var=/var/lib/tsuroku
unit=/etc/systemd/system/tsuroku.service
console=/etc/systemd/system/tsuroku-console.service
rules=/etc/udev/rules.d/99-tsuroku.rules
alsa=/etc/alsa/conf.d/99-tsuroku.conf
command=/usr/local/bin/tsuroku
dry_run=
remove=
purge=

die() {
    printf '%s\n' "$1" >&2
    exit 1
}

# put SENTENCE COMMAND...: a step that writes files, below DESTDIR where that is set.
put() {
    printf -- '- %s\n' "$1"
    shift
    [[ $dry_run ]] || "$@"
}

# live SENTENCE COMMAND...: a step that changes the running system; nothing is to be changed below a DESTDIR.
live() {
    if [[ $root ]]; then
        printf -- '- %s (left out: DESTDIR is set)\n' "$1"
    else
        put "$@"
    fi
}

check_system() {
    local ID='' ID_LIKE='' id architecture version
    # shellcheck source=/dev/null
    . /etc/os-release
    id=" $ID $ID_LIKE "
    [[ $id == *" debian "* || $id == *" raspbian "* ]] ||
        die "This is $ID: install Raspberry Pi OS (64-bit) or Debian 12 or newer."
    architecture=$(dpkg --print-architecture)
    [[ $architecture == arm64 || $architecture == amd64 ]] ||
        die "This system is $architecture: install the 64-bit Raspberry Pi OS."
    version=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || version=none
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        die "Python 3.11 or newer is needed, found $version: install Raspberry Pi OS 12 (bookworm) or newer."
}

install_packages() {
    local packages
    mapfile -t packages < <(sed 's/[[:space:]]*#.*//; /^$/d' "$here/packages.txt")
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${packages[@]}"
}

make_user() {
    local group
    for group in gpio dialout audio; do
        groupadd --system --force "$group"
    done
    id -u tsuroku >/dev/null 2>&1 ||
        useradd --system --user-group --home-dir "$var" --no-create-home --shell /usr/sbin/nologin tsuroku
    usermod --append --groups gpio,dialout,audio tsuroku
}

copy_code() {
    local part
    install -d "$root$opt"
    [[ $source -ef $root$opt ]] && return # run from the installed copy
    for part in firmware drivers hw provisioning tsuroku requirements.txt LICENSE; do
        rm -rf "$root${opt:?}/$part"
        cp -R "$source/$part" "$root$opt/$part"
    done
    find "$root$opt" -path "$root$opt/.venv" -prune -o -name __pycache__ -prune -exec rm -rf {} +
}

make_venv() {
    local python=$opt/.venv/bin/python version='import sys; print(sys.version)'
    # A new Python of the system needs a new environment.
    [[ -x $python && $("$python" -c "$version") == "$(python3 -c "$version")" ]] || python3 -m venv --clear "$opt/.venv"
    "$python" -m pip install --quiet --disable-pip-version-check --requirement "$source/requirements.txt"
}

put_command() {
    install -d "$root${command%/*}"
    ln -sf "$opt/tsuroku" "$root$command"
}

put_settings() {
    install -d -m 0750 "$root$etc"
    [[ -e $root$etc/settings.toml ]] || install -m 0640 "$here/settings.example.toml" "$root$etc/settings.toml"
}

give_rights() {
    chgrp -R tsuroku "$etc" # passwords and keys that are kept there included
    chown tsuroku:tsuroku "$var"
}

reload_udev() {
    udevadm control --reload
    udevadm trigger --subsystem-match=tty --subsystem-match=sound --subsystem-match=gpio
}

start_service() {
    systemctl daemon-reload
    systemctl enable --quiet tsuroku.service tsuroku-console.service
    systemctl restart tsuroku.service tsuroku-console.service
}

install_unit() {
    check_system
    live "Install the Debian packages of packages.txt" install_packages
    live "Make the user and group tsuroku, in the groups gpio, dialout and audio" make_user
    # The service runs on meanwhile. What needs the network comes first: if that fails, nothing has changed.
    live "Make the Python environment $opt/.venv with the packages of requirements.txt" make_venv
    put "Put the program into $opt" copy_code
    live "Compile it, since the service may not write there" "$opt/.venv/bin/python" -m compileall -q "$opt" -x '/[.]venv/'
    put "Put the command $command" put_command
    put "Put $etc/settings.toml, unless there is one" put_settings
    put "Make $var for calls and recordings" install -d -m 0700 "$root$var"
    live "Let tsuroku read $etc and own $var" give_rights
    put "Put $rules" install -D -m 0644 "$here/99-tsuroku.rules" "$root$rules"
    put "Put $alsa" install -D -m 0644 "$here/alsa.conf" "$root$alsa"
    put "Put $unit" install -D -m 0644 "$here/tsuroku.service" "$root$unit"
    put "Put $console" install -D -m 0644 "$here/tsuroku-console.service" "$root$console"
    live "Name the modem and the codec that are plugged in" reload_udev
    live "Start the services tsuroku and tsuroku-console now and at every boot" start_service
    [[ $dry_run || $root ]] || printf '%s\n' "Done. Edit $etc/settings.toml, then: sudo systemctl restart tsuroku. The calls in a browser: https://$(hostname).local:8443/, set-up code: sudo -u tsuroku tsuroku console code"
}

remove_service() {
    [[ ! -e $unit ]] || systemctl disable --now --quiet tsuroku.service
    [[ ! -e $console ]] || systemctl disable --now --quiet tsuroku-console.service
}

remove_user() {
    ! id -u tsuroku >/dev/null 2>&1 || userdel tsuroku
}

remove_unit() {
    live "Stop the services for good" remove_service
    put "Remove $unit, $console, $rules and $alsa" rm -f "$root$unit" "$root$console" "$root$rules" "$root$alsa"
    live "Let the service manager forget it" systemctl daemon-reload
    put "Remove $opt and $command" rm -rf "$root$opt" "$root$command"
    if [[ $purge ]]; then
        put "Remove $etc and $var: settings, calls and recordings" rm -rf "$root$etc" "$root$var"
        live "Remove the user and group tsuroku" remove_user
    else
        printf '%s\n' "$etc and $var stay: settings, calls and recordings. --remove --purge removes them."
    fi
}

for argument in "$@"; do
    case $argument in
        --dry-run) dry_run=1 ;;
        --remove) remove=1 ;;
        --purge) purge=1 ;;
        *) die "$usage" ;;
    esac
done
[[ -z $purge || $remove ]] || die "$usage"
[[ $dry_run || $root || $EUID -eq 0 ]] || die "Run it as root: sudo $0 $*"
if [[ $remove ]]; then remove_unit; else install_unit; fi
