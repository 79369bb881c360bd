#!/bin/sh
# Make .venv, and install into it what requirements.lock says and this package: tools/setup.sh PYTHON (make calls it).
# A .venv that works is kept with all that is in it, so that one can put a build of torch of one's own choice there first.

python=${1:-python3}
log=build/setup.log

fail() {
    echo "setup: $*" >&2
    exit 1
}

works() {
    .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' && .venv/bin/python -m pip --version
} >/dev/null 2>&1

check_python() {
    found=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) ||
        fail "cannot run '$python': install Python 3.11 or newer, or say where it is: make PYTHON=/path/to/python"
    case $found in
        3.1[1-9] | 3.[2-9][0-9]) ;;
        *) fail "'$python' is Python $found, and 3.11 or newer is needed: make PYTHON=/path/to/python" ;;
    esac
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "'$python' cannot make a venv: on Debian or Ubuntu, apt install python$found-venv"
}

# The mark .unfinished stays until everything is installed: a set-up that was killed is started afresh.
make_venv() {
    rm -rf .venv && mkdir .venv && touch .venv/.unfinished && "$python" -m venv .venv
}

install() {
    .venv/bin/python -m pip install --disable-pip-version-check --no-input --progress-bar off "$@"
}

cd "$(dirname "$0")/.." || exit 1
{ mkdir -p build && touch "$log"; } 2>/dev/null ||
    fail "cannot write in $(pwd): get write permission, or copy the repository to a folder of yours"
: >"$log"

if [ -e .venv/.unfinished ] || ! works; then
    check_python
    # Only what this script made is removed.
    [ ! -e .venv ] || [ -e .venv/.unfinished ] || [ -e .venv/.ready ] ||
        fail "the .venv here has no pip or no Python 3.11 or newer: move it away (mv .venv old), and run make again"
    echo 'Setting up .venv (a minute or two) ...'
    make_venv >>"$log" 2>&1 || fail "could not make .venv in $(pwd); what happened is in $log"
else
    echo 'Bringing .venv up to date ...'
fi

{ install -r requirements.lock && install --no-deps --no-build-isolation -e .; } >>"$log" 2>&1 || {
    hint=$(! grep -q Retrying "$log" || echo ' (no network?)')
    error=$(grep ^ERROR "$log" | tail -n 1)
    fail "pip failed$hint; the whole story is in $log: ${error:-$(tail -n 1 "$log")}"
}
rm -f .venv/.unfinished
touch .venv/.ready
echo 'Done: .venv is ready.'
