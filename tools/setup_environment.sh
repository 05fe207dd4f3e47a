#!/usr/bin/env bash
# Makes or updates an environment with PyTorch and this package: tools/setup_environment.sh FOLDER (called by make setup).
#
# Variables: PYTHON the interpreter; TORCH what to install as PyTorch; TORCH_INDEX address of the index to take it from;
# LOCKED=1 installs the versions of requirements.lock; EXTRAS the extras to install (dev).
#
# PyTorch comes first, so that nothing else chooses its build. Without TORCH and TORCH_INDEX the build follows from the
# machine: one for CUDA where nvidia-smi finds a GPU, otherwise one for the CPU if the index has it.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$1
PYTHON=${PYTHON:-python3}
extras=${EXTRAS:-dev}
version=2.13.0 # of PyTorch, in which the tests ran

request="$("$PYTHON" --version) ${TORCH:-} ${TORCH_INDEX:-} ${LOCKED:-} $extras $(cat pyproject.toml requirements.lock | cksum)"
if [ -f "$folder/.ready" ] && [ "$(cat "$folder/.ready")" = "$request" ]; then
  exit 0
fi
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "$PYTHON is not Python 3.11 or later; give one with make setup PYTHON=..." >&2
  exit 2
}

made=$(grep -o '^Python [0-9.]*' "$folder/.ready" 2> /dev/null || true)
if [ -n "$made" ] && [ "$made" != "$("$PYTHON" --version)" ]; then
  echo "$folder has $made, and $PYTHON is $("$PYTHON" --version); remove $folder to make it anew." >&2
  exit 2
fi
[ -x "$folder/bin/python" ] || "$PYTHON" -m venv "$folder"
if command -v uv > /dev/null; then
  install() { uv pip install --quiet --python "$folder/bin/python" "$@"; }
  build() { echo "--torch-backend=$1"; } # uv knows the indices of PyTorch's builds
else
  # Not compiled: Python does that for the modules that are imported, and these are few.
  install() { "$folder/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check "$@"; }
  build() { :; }
fi
locked=()
[ -z "${LOCKED:-}" ] || locked=(--constraint requirements.lock)

if nvidia-smi > /dev/null 2>&1; then
  kind=auto
  found="nvidia-smi finds a GPU"
else
  kind=cpu
  found="nvidia-smi finds no GPU"
fi
# "+cpu" is how PyTorch's index names that build; the main index has one build for each system, without a suffix.
plain=("torch==$version" "torch==$version+cpu")
[ "$kind" = auto ] || plain=("torch==$version+cpu" "torch==$version")
if [ -n "${TORCH_INDEX:-}" ]; then
  install --index-url "$TORCH_INDEX" "${TORCH:-torch==$version}"
elif [ -n "${TORCH:-}" ]; then
  install "$TORCH"
elif [ -n "$(build $kind)" ] && install "$(build $kind)" "torch==$version" 2> /dev/null; then
  :
else
  # Only where the index has no such build: after a time-out the other build would be wrong.
  if ! message=$(install "${plain[0]}" 2>&1); then
    case $message in
      *"No matching distribution"* | *"No solution found"*) install "${plain[1]}" ;;
      *) echo "$message" >&2 && exit 1 ;;
    esac
  fi
fi
install ${locked[@]+"${locked[@]}"} --editable ".[$extras]"
"$folder/bin/python" - "$found" << 'PY'
import sys
import torch

build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU"
print(f"PyTorch {torch.__version__} for {build} ({sys.argv[1]}). Another: make setup TORCH=... TORCH_INDEX=...")
PY
echo "$request" > "$folder/.ready"
