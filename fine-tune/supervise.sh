# shellcheck shell=bash
# Sourced by the SLURM scripts of this folder.
#
# supervise SCRIPT PYTHON PROGRAM [ARGUMENT ...] runs a Python program that saves on USR1 and then exits with 75, as one process
# or as NPROC processes under torchrun. When SLURM warns the job or the program stops itself, it requeues the job, which
# resumes; REQUEUE=0 turns that off, and a job that was cancelled (TERM, INT) is not requeued. It ends the script with the
# program's exit code.
supervise() {
  local script=$1 python=$2
  shift 2
  local launcher=()
  if (( ${NPROC:-1} > 1 )); then
    launcher=(-m torch.distributed.run --standalone --nproc-per-node "$NPROC")
  fi
  # The run is a background process, so that this shell handles signals while it waits. It forwards each as USR1, on
  # which the run saves and stops. Under torchrun the signal goes to torchrun's child processes, since torchrun does not
  # save.
  warned=0
  cancelled=0
  "$python" "${launcher[@]}" "$@" &
  child=$!
  local name
  for name in USR1 TERM INT; do
    # shellcheck disable=SC2064  # expand the name now
    trap "forward_signal $name" "$name"
  done
  local code=0
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
    # By its number alone, the last task of an array would requeue all of them.
    local job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID:-}}
    job=${job:-$SLURM_JOB_ID}
    echo "$script: saved; requeueing job $job." >&2
    scontrol requeue "$job"
  fi
  exit "$code"
}

# shellcheck disable=SC2329  # called by the traps above
forward_signal() {
  warned=1
  if [[ "$1" != USR1 ]]; then cancelled=1; fi
  if (( ${NPROC:-1} > 1 )); then
    pkill -USR1 -P "$child" || kill -TERM "$child" 2>/dev/null || true # no child process yet
  else
    kill -USR1 "$child" 2>/dev/null || true
  fi
}
