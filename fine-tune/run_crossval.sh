#!/usr/bin/env bash
#SBATCH --job-name=surgvivqa-crossval
#SBATCH --array=1-5
#SBATCH --time=12:00:00
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --output=surgvivqa-crossval-%A-%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@300
#
# Cross-validates with the published recipe's settings: one task of a job array per fold, or all folds one after another
# without SLURM. Run it from the repository's root:
#   SSGVQA_ROOT=/data/ssg-qa IMAGE_ROOT=/data/CholecT45/data sbatch fine-tune/run_crossval.sh [more flags of crossval]
# The task that is done last writes the results over all videos. To be sure of them, submit a last step that finds all
# folds done and writes them again (task 0 is no fold):
#   job=$(sbatch --parsable fine-tune/run_crossval.sh)
#   sbatch --dependency="afterok:$job" --array=0 fine-tune/run_crossval.sh
# Another number of folds: --array=1-N on the command line of sbatch, and FOLDS.
# More environment variables: FOLDS (file of the folds) CACHE (folder of the feature cache, shared by all tasks) MAX_STEPS
# BATCH_SIZE LR PRECISION (fp16, bf16, fp32) PROMPT_MODE CKPT_DIR PYTHON NPROC (processes on this machine, one per GPU).
# Signals and requeueing are those of run_finetune.sh: a task that is stopped saves and requeues itself, and resumes its
# fold. REQUEUE=0 turns that off.
set -euo pipefail

# SLURM runs a copy of this file, so the repository is where sbatch was called.
if [[ -n "${SLURM_SUBMIT_DIR:-}" ]]; then
  root=$SLURM_SUBMIT_DIR
else
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
fi
if [[ ! -f "$root/fine-tune/crossval_ssgvqa.py" ]]; then
  echo "run_crossval.sh: $root is not the repository's root; call sbatch from there." >&2
  exit 2
fi
# shellcheck source=/dev/null
source "$root/fine-tune/recipe.sh"
python=
flags=()
read_recipe run_crossval.sh "$root" "$root/fine-tune/crossval" # sets both
if [[ -n "${FOLDS:-}" ]]; then flags+=(--folds "$FOLDS"); fi
if [[ -n "${CACHE:-}" ]]; then flags+=(--cache "$CACHE"); fi
if (( ${SLURM_ARRAY_TASK_ID:-0} > 0 )); then flags+=(--fold "$SLURM_ARRAY_TASK_ID"); fi
# shellcheck source=/dev/null
source "$root/fine-tune/supervise.sh"
supervise run_crossval.sh "$python" "$root/fine-tune/crossval_ssgvqa.py" "${flags[@]}" "$@"
