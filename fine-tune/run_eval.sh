#!/usr/bin/env bash
#SBATCH --job-name=surgvivqa-eval
#SBATCH --time=04:00:00
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --output=surgvivqa-eval-%j.log
#
# Scores a checkpoint on the test split; runs with or without SLURM, from the project's root:
#   bash fine-tune/run_eval.sh CHECKPOINT [PROMPT_MODE] [more flags of eval]
# SSGVQA_ROOT and IMAGE_ROOT, where set, win over the folders that the checkpoint remembers. Also read: PYTHON
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
mode=()  # without one, the prompt that the checkpoint was trained with
if [[ $# -gt 0 && "$1" != --* ]]; then
  mode=(--prompt-mode "$1")
  shift
fi
python=${PYTHON:-python3}
if [[ -z "${PYTHON:-}" && -x "$root/.venv/bin/python" ]]; then
  python=$root/.venv/bin/python
fi
exec "$python" "$root/fine-tune/eval_finetuned.py" --checkpoint "$checkpoint" "${mode[@]}" "$@"
