#!/bin/bash
# Makes this checkout ready to run and test: Debian packages that are missing, and the Python environment .venv.
# Called by make; does nothing that is done already. Lists of more packages may be given.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

wanted=$(sed 's/[[:space:]]*#.*//; /^$/d' provisioning/packages.txt provisioning/packages-dev.txt "$@")
missing=$(for package in $wanted; do
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || echo "$package"
done)
if [[ $missing ]]; then
    sudo=
    if [[ $EUID -ne 0 ]]; then
        command -v sudo >/dev/null || { echo "Run it as root, or install sudo: these packages are missing:" "$missing" >&2; exit 1; }
        sudo=sudo
    fi
    echo "Installing Debian packages:" "${missing//$'\n'/ }"
    $sudo apt-get update -qq
    # shellcheck disable=SC2086  # a list of words
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing >/dev/null
fi

version='import sys; print(sys.version)'
if [[ ! -x .venv/bin/python || $(.venv/bin/python -c "$version") != "$(python3 -c "$version")" ]]; then
    echo "Making the Python environment .venv"
    python3 -m venv --clear .venv
fi
echo "Installing the packages of requirements-dev.txt"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements-dev.txt
