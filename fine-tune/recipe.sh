# shellcheck shell=bash
# Sourced by the SLURM scripts of this folder.
#
# read_recipe SCRIPT ROOT RUN_FOLDER sets python, and flags: the published recipe's settings with those of the environment
# (SSGVQA_ROOT IMAGE_ROOT MAX_STEPS BATCH_SIZE LR PRECISION PROMPT_MODE CKPT_DIR PYTHON). It ends the script with 2 where a
# data folder is not given.
# shellcheck disable=SC2034 # the script that sources this file reads python and flags
read_recipe() {
  local script=$1 root=$2 folder=$3 name
  for name in SSGVQA_ROOT IMAGE_ROOT; do
    if [[ -z "${!name:-}" ]]; then
      echo "$script: $name is not set; set it to the folder of the data." >&2
      exit 2
    fi
  done
  python=${PYTHON:-python3}
  if [[ -z "${PYTHON:-}" && -x "$root/.venv/bin/python" ]]; then
    python=$root/.venv/bin/python
  fi
  flags=(
    --ssgvqa-root "$SSGVQA_ROOT"
    --image-root "$IMAGE_ROOT"
    --max-steps "${MAX_STEPS:-30000}"
    --batch-size "${BATCH_SIZE:-8}"
    --lr "${LR:-5e-4}"
    --prompt-mode "${PROMPT_MODE:-simple}"
    --checkpoint-dir "${CKPT_DIR:-$folder}"
  )
  if [[ "${PRECISION:-fp16}" != fp32 ]]; then flags+=("--${PRECISION:-fp16}"); fi
}
