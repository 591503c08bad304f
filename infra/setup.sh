#!/usr/bin/env bash
# Builds .venv, the environment of every task: `make setup`.
#
# uv installs the versions of constraints.txt; pip, which is slower, is the fallback. PYTHON holds
# the interpreters to try, in order; EXTRAS more extras of pyproject.toml, like ",spark".
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PY=.venv/bin/python
UV=.venv/bin/uv
TORCH_CPU=https://download.pytorch.org/whl/cpu
SUITABLE='import ensurepip, sys; sys.exit(sys.version_info < (3, 11))'
# Only what these import is compiled: all 39,000 files take longer than their installation. One
# process per line, because compiling takes the time.
FIRST_IMPORTS=(
    'feast, lightgbm, mlflow.models, torch'
    'evidently.presets, prefect.server.api.server'
)

make_environment() {
    local python
    for python in ${PYTHON:-python3}; do
        if "$python" -c "$SUITABLE" >/dev/null 2>&1; then
            echo "set-up: $("$python" --version) in .venv"
            "$python" -m venv --clear .venv
            return
        fi
    done
    {
        echo "set-up needs Python 3.11 or newer with its venv module. Found:"
        for python in ${PYTHON:-python3}; do
            echo "  $python: $("$python" --version 2>&1 | head -n 1)"
        done
        echo "Install one, or name it: make setup PYTHON=/path/to/python3.12"
    } >&2
    exit 1
}

# pip_setting NAME: the value that pip would use; its environment variables come before its files.
pip_setting() {
    local section value
    for section in :env: install global; do
        value=$(sed -n "s/^$section\.$1=.\(.*\).\$/\1/p" <<<"$PIP_CONFIG" | sed 's/\\n/ /g')
        if [ -n "$value" ]; then
            echo "$value"
            return
        fi
    done
}

# pass_on PIP_NAME UV_VARIABLE SEPARATOR: unless the variable is set already.
pass_on() {
    local words
    read -ra words <<<"$(pip_setting "$1")"
    if [ ${#words[@]} -gt 0 ] && [ -z "${!2:-}" ]; then
        export "$2=$(IFS=$3 && echo "${words[*]}")"
    fi
}

# uv reads neither pip's configuration nor PIP_*: pip's indexes and certificates are passed on to it.
configure_uv() {
    local PIP_CONFIG
    PIP_CONFIG=$($PY -m pip config list)
    pass_on index-url UV_DEFAULT_INDEX ' '
    pass_on extra-index-url UV_INDEX ' '
    pass_on find-links UV_FIND_LINKS ,
    pass_on trusted-host UV_INSECURE_HOST ' '
    pass_on cert SSL_CERT_FILE ' '
    # pip takes a version from whichever index has it; uv by default only from the first.
    export UV_INDEX_STRATEGY="${UV_INDEX_STRATEGY:-unsafe-best-match}"
}

# install ARGUMENT...: the same arguments for uv and for pip.
install() {
    if [ -x $UV ] && $UV pip install --python $PY --constraint constraints.txt "$@"; then
        return
    fi
    echo "set-up: without uv, some minutes the first time"
    $PY -m pip install --no-compile --constraint constraints.txt "$@"
}

# A Linux machine without an NVIDIA GPU takes torch from PyTorch's CPU index if that responds within
# 3 seconds (0.2 GB instead of several of CUDA); otherwise torch comes from the configured indexes.
install_torch_for_cpu() {
    local responds="import signal, urllib.request; signal.alarm(3); urllib.request.urlopen('$TORCH_CPU/torch/')"
    if [ "$(uname -s)" != Linux ] || command -v nvidia-smi >/dev/null; then
        return
    fi
    if $PY -c "$responds" >/dev/null 2>&1; then
        echo "set-up: torch for CPU from $TORCH_CPU"
        UV_INDEX='' install --no-deps --index-url "$TORCH_CPU" torch ||
            echo "set-up: torch comes from the configured indexes"
    fi
}

import_once() {
    local modules jobs=()
    for modules in "${FIRST_IMPORTS[@]}"; do
        $PY -W ignore -c "import $modules" &
        jobs+=($!)
    done
    for job in "${jobs[@]}"; do
        wait "$job"
    done
}

compile=
if ! $PY -m pip --version >/dev/null 2>&1; then
    make_environment
    compile=1
fi
$PY -m pip install --quiet --no-compile --constraint constraints.txt uv ||
    echo "set-up: uv cannot be installed, pip installs everything"
configure_uv
install_torch_for_cpu
install --editable ".[pipelines,stack,dev${EXTRAS:-}]"
if [ -n "$compile" ]; then
    echo "set-up: first import"
    import_once
fi
