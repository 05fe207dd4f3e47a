#!/usr/bin/env bash
#SBATCH --job-name=surgvivqa-eval
#SBATCH --time=04:00:00
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --output=surgvivqa-eval-%j.log
#
# Evaluates a checkpoint on the test split, with or without SLURM. Run it from the repository's root:
#   bash fine-tune/run_eval.sh CHECKPOINT [PROMPT_MODE] [more flags of eval]
# Environment variables: SSGVQA_ROOT and IMAGE_ROOT override the data folders that the checkpoint records; PYTHON.
set -euo pipefail

if [[ -n "${SLURM_SUBMIT_DIR:-}" ]]; then
  root=$SLURM_SUBMIT_DIR
else
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
fi
if [[ $# -lt 1 ]]; then
  echo "run_eval.sh: give a checkpoint: run_eval.sh CHECKPOINT [simple|choices]" >&2
  exit 2
fi
checkpoint=$1
shift
mode=()  # default: the prompt mode of the checkpoint
if [[ $# -gt 0 && "$1" != --* ]]; then
  mode=(--prompt-mode "$1")
  shift
fi
python=${PYTHON:-python3}
if [[ -z "${PYTHON:-}" && -x "$root/.venv/bin/python" ]]; then
  python=$root/.venv/bin/python
fi
exec "$python" "$root/fine-tune/eval_finetuned.py" --checkpoint "$checkpoint" "${mode[@]}" "$@"
