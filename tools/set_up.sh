#!/bin/sh
# Sets up what a make target needs: set_up.sh minimal | dev | peers | browser | tracer | wheel.
# Quiet unless it fails; the whole output is in build/STEP.log.
set -eu
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
PIP=".venv/bin/python -m pip --disable-pip-version-check --no-input"
# Both names: pip of 2025 on constrains build environments by a variable of their own.
export PIP_CONSTRAINT="constraints.txt" PIP_BUILD_CONSTRAINT="constraints.txt"
APT_LINE="sudo apt-get install -y g++ python3-dev python3-venv make"

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "$1"
    shift
    for line in "$@"; do say "  $line"; done
    exit 1
}

# quietly STEP TEXT COMMAND…: says TEXT, runs COMMAND, shows its output only when it fails.
quietly() {
    step=$1
    say "$2"
    shift 2
    mkdir -p build
    if ! "$@" >"build/$step.log" 2>&1; then
        tail -n 40 "build/$step.log" >&2
        fail "This step failed; the whole output is in build/$step.log."
    fi
}

check_machine() {
    command -v "$PYTHON" >/dev/null || fail "$PYTHON was not found. Install it:" "$APT_LINE"
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail \
        "$("$PYTHON" --version) is too old: Yearling needs Python 3.11 or newer." \
        "Name a newer one: make PYTHON=python3.12 …"
    missing=""
    "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || missing="$missing venv"
    "$PYTHON" -c 'import pathlib, sys, sysconfig
sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").is_file())' ||
        missing="$missing Python.h"
    ${CXX:-g++} --version >/dev/null 2>&1 || missing="$missing g++"
    [ -z "$missing" ] || fail "This machine lacks:$missing. Install with:" "$APT_LINE"
}

make_environment() {
    # An environment that was copied or moved points to another folder: make it anew.
    if ! .venv/bin/python -c 'import pip' 2>/dev/null; then
        rm -rf .venv
        quietly venv "Making .venv …" "$PYTHON" -m venv .venv
    fi
}

# requirements GROUP: the lines of pyproject.toml, for `dependencies` or the name of an extra.
requirements() {
    .venv/bin/python -c 'import pathlib, sys, tomllib
project = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
print("\n".join(extras.get(sys.argv[1]) or project[sys.argv[1]]))' "$1" >"build/$1.txt"
}

compile_imports() {
    env -u PYTHONDONTWRITEBYTECODE PYTHONPATH=src .venv/bin/python -c \
        'import jinja2.sandbox, tokenizers, yearling.cli.chat, yearling.server.runner, yearling.serving.llm' &&
        env -u PYTHONDONTWRITEBYTECODE .venv/bin/python -m compileall -q src/yearling
}

# What needs no compiler, while the compiler runs: packages, then the model of PREFETCH.
fetch() {
    requirements dependencies
    # Without --no-compile pip byte-compiles files that are never imported, for ten seconds.
    $PIP install --quiet --no-compile --requirement build/dependencies.txt
    # What a server imports is compiled here instead, even where nothing may write bytecode later.
    compile_imports || say "Bytecode could not be written; every start takes a second longer."
    [ -z "${PREFETCH:-}" ] || env -u PIP_CONSTRAINT -u PIP_BUILD_CONSTRAINT PYTHONPATH=src \
        .venv/bin/python -c 'import sys
from yearling.models.store import pull
pull(sys.argv[1])' "$PREFETCH" || say "$PREFETCH could not be fetched; serving tries again."
}

minimal() {
    check_machine
    make_environment
    mkdir -p build
    fetch >build/fetch.log 2>&1 &
    fetching=$!
    trap 'kill $fetching 2>/dev/null || true' EXIT
    # Once the development tools are there, only what changed is compiled.
    incremental="" isolation=""
    if .venv/bin/python -c 'import cmake, nanobind, ninja, scikit_build_core' 2>/dev/null; then
        incremental="--no-build-isolation --config-settings=build-dir=build/native"
        isolation="-u PIP_BUILD_CONSTRAINT" # newer pip refuses it where nothing is isolated
    fi
    quietly install "Installing Yearling and compiling its core; about a minute …" \
        env $isolation PATH="$PWD/.venv/bin:$PATH" $PIP install --quiet --no-deps $incremental --editable .
    wait $fetching || {
        tail -n 40 build/fetch.log >&2
        fail "The packages could not be installed; the whole output is in build/fetch.log."
    }
}

dev() {
    requirements dev
    quietly install-dev "Installing what the tests need; a minute or two …" \
        $PIP install --quiet --requirement build/dev.txt
}

peers() {
    check_machine
    [ -x .venv-bench/bin/python ] ||
        quietly venv-bench "Making .venv-bench …" "$PYTHON" -m venv .venv-bench
    quietly install-peers "Installing the engines to compare with; a few minutes …" \
        env -u PIP_CONSTRAINT -u PIP_BUILD_CONSTRAINT \
        .venv-bench/bin/python -m pip --disable-pip-version-check install --quiet \
        --requirement benchmarks/serving/requirements.txt \
        --requirement benchmarks/training/requirements.txt \
        --requirement benchmarks/harness/requirements.txt
}

# system_package NAME TEXT: what only the system's own packages hold.
system_package() {
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        quietly "$1" "Installing $1 for $2 …" sh -c \
            "apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y $1"
    else
        fail "$2 need $1. Install with:" "sudo apt-get install -y $1"
    fi
}

# No function here is named as a program: `command -v` would find the function.
browser() {
    command -v chromium >/dev/null || command -v chromium-browser >/dev/null ||
        system_package chromium "the tests of the page"
}

tracer() {
    command -v strace >/dev/null || system_package strace "the tests of crashes"
}

wheel() {
    quietly wheel "Building the wheel …" $PIP wheel --quiet --no-deps --wheel-dir dist .
    say "Made $(ls -t dist/yearling-*.whl | head -n 1)."
}

case "${1:-}" in
minimal | dev | peers | browser | tracer | wheel) "$1" ;;
*) fail "usage: tools/set_up.sh minimal | dev | peers | browser | tracer | wheel" ;;
esac
