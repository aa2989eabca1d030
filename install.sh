#!/usr/bin/env bash
# Makes a virtual environment with the pinned requirements (constraints.txt) and this checkout, editable.
# usage: PYTHON=python3 VENV=.venv TORCH_BACKEND=cu126 ./install.sh '.[test]'
#
# torch comes in builds. A machine with an NVIDIA driver gets the CUDA build, any other the CPU build:
# from the wheels that PIP_FIND_LINKS names, if it is set, else from where uv's --torch-backend=auto finds it, and if
# that place cannot be reached, whatever build the package index has (the CUDA build runs on a CPU, too).
# TORCH_BACKEND names the build (cu126, cpu, ...: see uv's --torch-backend) for nodes that are not like this machine, such as those
# behind a login node without a driver. It takes the place of another build that is there already.
set -euo pipefail
python=${PYTHON:-python3} venv=${VENV:-.venv} what=${1:-.}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "error: $("$python" --version): wanted Python 3.11 or newer. Try: make PYTHON=python3.12 pretrain" >&2
    exit 1
}
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$(grep '^uv==' constraints.txt)"

# Bytecode now, once: where Python may not write it later (a read-only image, PYTHONDONTWRITEBYTECODE), every rank and worker
# would compile torch and DeepSpeed anew, which takes longer than importing them.
install() { "$venv/bin/uv" pip install --compile-bytecode --python "$venv/bin/python" --constraint constraints.txt "$@" --editable "$what"; }

if [ -n "${TORCH_BACKEND:-}" ]; then
    # uv takes any build of the right version for the one it was asked for.
    install --torch-backend="$TORCH_BACKEND" --reinstall-package torch --reinstall-package torchvision
elif [ -n "${PIP_FIND_LINKS:-}" ] && ! command -v nvidia-smi >/dev/null; then
    install --find-links "$PIP_FIND_LINKS"
else
    install --torch-backend=auto || install
fi
