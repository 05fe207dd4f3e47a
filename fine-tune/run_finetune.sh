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
for name in SSGVQA_ROOT IMAGE_ROOT; do
  if [[ -z "${!name:-}" ]]; then
    echo "run_finetune.sh: $name is not set; set it to the folder of the data." >&2
    exit 2
  fi
done
python=${PYTHON:-python3}
if [[ -z "${PYTHON:-}" && -x "$root/.venv/bin/python" ]]; then
  python=$root/.venv/bin/python
fi
precision=${PRECISION:-fp16}
flags=(
  --ssgvqa-root "$SSGVQA_ROOT"
  --image-root "$IMAGE_ROOT"
  --max-steps "${MAX_STEPS:-30000}"
  --batch-size "${BATCH_SIZE:-8}"
  --lr "${LR:-5e-4}"
  --prompt-mode "${PROMPT_MODE:-simple}"
  --checkpoint-dir "${CKPT_DIR:-$root/fine-tune/ckpt}"
)
if [[ "$precision" != fp32 ]]; then flags+=("--$precision"); fi
if [[ -n "${SPLITS_DIR:-}" ]]; then flags+=(--splits-dir "$SPLITS_DIR"); fi
launcher=()
if (( ${NPROC:-1} > 1 )); then
  launcher=(-m torch.distributed.run --standalone --nproc-per-node "$NPROC")
fi
# The run is a background process, so that this shell handles signals while it waits. It forwards each as USR1, on which
# the run saves and stops. Under torchrun the signal goes to torchrun's child processes, since torchrun does not save.
warned=0
cancelled=0
"$python" "${launcher[@]}" "$root/fine-tune/train_ssgvqa.py" "${flags[@]}" "$@" &
child=$!
# shellcheck disable=SC2329  # called by the traps below
forward_signal() {
  warned=1
  if [[ "$1" != USR1 ]]; then cancelled=1; fi
  if (( ${NPROC:-1} > 1 )); then
    pkill -USR1 -P "$child" || kill -TERM "$child" 2>/dev/null || true # no child process yet
  else
    kill -USR1 "$child" 2>/dev/null || true
  fi
}
for name in USR1 TERM INT; do
  # shellcheck disable=SC2064  # expand the name now
  trap "forward_signal $name" "$name"
done
code=0
wait "$child" || code=$?
while kill -0 "$child" 2>/dev/null; do # a signal interrupted the wait, not the run
  code=0
  wait "$child" || code=$?
done
# 138 and 143: the signal (USR1, TERM) ended Python while it was starting, so there is nothing to save.
# torchrun exits with 1 if its processes exit with 75.
if (( warned && (code == 138 || code == 143) )); then code=75; fi
if (( warned && code != 0 && ${NPROC:-1} > 1 )); then code=75; fi
if (( code == 75 && ! cancelled )) && [[ -n "${SLURM_JOB_ID:-}" && "${REQUEUE:-1}" != 0 ]]; then
  echo "run_finetune.sh: saved; requeueing job $SLURM_JOB_ID." >&2
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
