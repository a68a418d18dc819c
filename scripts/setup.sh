#!/usr/bin/env bash
# Make the environment FOLDER (where it is missing) and install Striate in it, editable.
# usage: setup.sh [--oldest] FOLDER EXTRAS      EXTRAS: comma-separated, or ""
set -euo pipefail
cd "$(dirname "$0")/.."

oldest=
if [ "${1:-}" = --oldest ]; then oldest=1; shift; fi
folder=$1
extras=${2:+[$2]}

fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# A candidate may be a pyenv shim with no Python behind it: run it, do not just look for it.
fits() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 15))' 2>/dev/null; }
can_venv() { "$1" -c 'import venv, ensurepip' 2>/dev/null; }

find_python() {
    local candidate seen='' unfit=''
    if [ -n "${PYTHON:-}" ]; then
        "$PYTHON" -c '' 2>/dev/null || fail "PYTHON=$PYTHON does not run"
        fits "$PYTHON" || fail "PYTHON=$PYTHON is $("$PYTHON" -V 2>&1); Striate needs Python 3.10 to 3.14"
        can_venv "$PYTHON" || fail "PYTHON=$PYTHON has no venv module; on Debian and Ubuntu: apt-get install python3-venv"
        echo "$PYTHON"
        return
    fi
    for candidate in python3 python3.14 python3.13 python3.12 python3.11 python3.10 /usr/bin/python3; do
        "$candidate" -c '' 2>/dev/null || continue
        seen="$seen $candidate ($("$candidate" -V 2>&1))"
        fits "$candidate" || continue
        if can_venv "$candidate"; then echo "$candidate"; return; fi
        unfit=$candidate
    done
    [ -z "$unfit" ] || fail "$unfit has no venv module; on Debian and Ubuntu: apt-get install python3-venv"
    fail "no Python 3.10 to 3.14 found${seen:+ (found:$seen)}; install one, or name it: make PYTHON=/path/to/python3 ..."
}

if ! "$folder/bin/python" -c '' 2>/dev/null || ! "$folder/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    echo "setup: making $folder with $("$python" -V 2>&1)"
    "$python" -m venv --clear "$folder"
fi

constraints=()
if [ -n "$oldest" ]; then
    "$folder/bin/python" scripts/oldest.py >"$folder/oldest.txt"
    constraints=(-c "$folder/oldest.txt")
fi

echo "setup: installing striate$extras in $folder (the first time takes a minute or two)"
log=$folder/pip.log
if ! "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
    "${constraints[@]}" --editable ".$extras" >"$log" 2>&1; then
    cat "$log" >&2
    fail "pip could not install striate$extras (its output is above and in $log)"
fi
