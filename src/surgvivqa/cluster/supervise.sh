# Runs one step of the job as a background process, so that this shell handles signals while it waits. SLURM warns it by
# USR1 before the time limit; it passes that on, the run saves and stops, and the job requeues itself and resumes.
# TERM (scancel, preemption) is passed on as USR1 too, but then the job does not requeue itself.
child=
warned=0
cancelled=0
interrupted=0
# shellcheck disable=SC2329 # called by the traps
on_signal() {
  warned=1
  interrupted=1
  if [[ $1 != USR1 ]]; then cancelled=1; fi
  if [[ -n $child ]]; then kill -s USR1 "$child" 2>/dev/null || true; fi
}
trap 'on_signal USR1' USR1
trap 'on_signal TERM' TERM
trap 'on_signal INT' INT

run_step() {
  local code=0 status
  if ((warned)); then finish 75; fi
  "$@" &
  child=$!
  if ((warned)); then kill -s USR1 "$child" 2>/dev/null || true; fi # it came before the child was known
  while true; do
    interrupted=0
    status=0
    wait "$child" || status=$?
    if ((status != 127)); then code=$status; fi # 127: the status was read before the signal came
    if ((!interrupted)); then break; fi
  done
  child=
  # 138 and 143: the signal ended a program that had nothing to save yet. torchrun and srun hide the code of the run.
  if ((warned && (code == 138 || code == 143 || (code != 0 && hides_code)))); then code=75; fi
  if ((code != 0)); then finish "$code"; fi
}

finish() {
  local code=$1 job restarts=${SLURM_RESTART_COUNT:-0}
  if ((code != 75 || cancelled)) || [[ -z ${SLURM_JOB_ID:-} ]]; then exit "$code"; fi
  # By its number alone, one task of an array would requeue all of them.
  job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID:-}}
  job=${job:-$SLURM_JOB_ID}
  if ((restarts >= max_requeues)); then
    echo "Stopped after saving; job $job was requeued $restarts times, the most allowed. Submit it again to go on." >&2
  elif scontrol requeue "$job"; then
    echo "Stopped after saving; requeued job $job, time $((restarts + 1)) of at most $max_requeues." >&2
  else
    echo "Stopped after saving; job $job could not be requeued. Submit it again to go on." >&2
  fi
  exit "$code"
}
