#!/usr/bin/env bash
# Runs a real SLURM of two small nodes on this machine, for tests/integration/test_slurm_real.py and for trying
# `surgvivqa slurm` without a cluster. It needs Debian's or Ubuntu's package: apt-get install slurm-wlm. Run it as root:
#   tools/try_slurm.sh start [FOLDER]    starts munged, slurmctld and two slurmd; prints the variable to export
#   tools/try_slurm.sh stop [FOLDER]     stops them
# FOLDER (default /tmp/try-slurm) gets configuration, state and logs; nothing outside it is changed.
set -euo pipefail

action=${1:-}
folder=${2:-/tmp/try-slurm}

stop() {
  local name pid
  for name in node1 node2 slurmctld munged; do
    if [[ -f "$folder/$name.pid" ]]; then
      pid=$(<"$folder/$name.pid")
      if kill "$pid" 2>/dev/null; then
        for _ in {1..50}; do
          kill -0 "$pid" 2>/dev/null || break
          sleep 0.1
        done
      fi
      rm -f "$folder/$name.pid"
    fi
  done
}

start() {
  local name cpus
  for name in munged slurmctld slurmd; do
    if ! PATH=$PATH:/usr/sbin command -v "$name" >/dev/null; then
      echo "try_slurm.sh: $name is missing; install slurm-wlm." >&2
      exit 2
    fi
  done
  export PATH=$PATH:/usr/sbin
  mkdir -p "$folder"/{state,spool-node1,spool-node2,log}
  chmod 755 "$folder" "$folder/log"
  if [[ ! -f "$folder/munge.key" ]]; then
    (umask 077 && dd if=/dev/urandom bs=1 count=1024 of="$folder/munge.key" status=none)
  fi
  munged --force --socket="$folder/munge.socket" --key-file="$folder/munge.key" --log-file="$folder/log/munged.log" \
    --pid-file="$folder/munged.pid" --seed-file="$folder/munged.seed" --num-threads=2
  cpus=$(($(nproc) > 1 ? $(nproc) / 2 : 1))
  cat >"$folder/slurm.conf" <<CONF
ClusterName=try
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=5
CryptoType=crypto/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
ReturnToService=2
KillWait=10
MinJobAge=3600
InactiveLimit=0
Waittime=0
JobRequeue=1
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool-%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/%n.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/%n.log
SlurmctldDebug=info
SlurmdDebug=info
NodeName=node1 NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=17001 CPUs=$cpus RealMemory=2000 State=UNKNOWN
NodeName=node2 NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=17002 CPUs=$cpus RealMemory=2000 State=UNKNOWN
PartitionName=debug Nodes=node1,node2 Default=YES MaxTime=INFINITE OverSubscribe=FORCE:4 State=UP
CONF
  export SLURM_CONF=$folder/slurm.conf
  slurmctld
  slurmd -N node1
  slurmd -N node2
  for _ in {1..60}; do
    if [[ $(sinfo --noheader --format=%T 2>/dev/null | sort -u) == idle ]]; then
      echo "export SLURM_CONF=$folder/slurm.conf"
      return 0
    fi
    sleep 0.5
  done
  echo "try_slurm.sh: the nodes did not become idle; see $folder/log." >&2
  stop
  exit 1
}

case $action in
  start) start ;;
  stop) stop ;;
  *)
    echo "try_slurm.sh: give start or stop." >&2
    exit 2
    ;;
esac
