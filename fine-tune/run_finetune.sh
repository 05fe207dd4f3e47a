#!/usr/bin/env bash
#SBATCH --job-name=surgvivqa
#SBATCH --time=12:00:00
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --output=surgvivqa-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@300
#
# Fine-tunes with the published recipe's settings, with or without SLURM. Run it from the repository's root:
#   SSGVQA_ROOT=/data/ssg-qa IMAGE_ROOT=/data/CholecT45/data sbatch fine-tune/run_finetune.sh [more flags of train]
# More environment variables: MAX_STEPS BATCH_SIZE LR PRECISION (fp16, bf16, fp32) PROMPT_MODE CKPT_DIR SPLITS_DIR
# PYTHON NPROC (processes on this machine, one per GPU; default 1; see docs/several-processes.md).
# SLURM sends USR1 five minutes before the time limit. The run then saves a checkpoint and exits with 75, and this
# script requeues the job, which resumes; REQUEUE=0 turns that off. TERM also saves: scancel sends it, and so does
# preemption, after which SLURM requeues the job itself.
set -euo pipefail

# SLURM runs a copy of this file, so the repository is where sbatch was called.
if [[ -n "${SLURM_SUBMIT_DIR:-}" ]]; then
  root=$SLURM_SUBMIT_DIR
else
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
fi
if [[ ! -f "$root/fine-tune/train_ssgvqa.py" ]]; then
  echo "run_finetune.sh: $root is not the repository's root; call sbatch from there." >&2
  exit 2
fi
# shellcheck source=/dev/null
source "$root/fine-tune/recipe.sh"
python=
flags=()
read_recipe run_finetune.sh "$root" "$root/fine-tune/ckpt" # sets both
if [[ -n "${SPLITS_DIR:-}" ]]; then flags+=(--splits-dir "$SPLITS_DIR"); fi
# shellcheck source=/dev/null
source "$root/fine-tune/supervise.sh"
supervise run_finetune.sh "$python" "$root/fine-tune/train_ssgvqa.py" "${flags[@]}" "$@"
