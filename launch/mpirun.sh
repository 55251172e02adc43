#!/usr/bin/env bash
# Starts polytask under mpirun: one process per GPU, or per CPU slot. Copy it and change what your machine needs.
#
#   launch/mpirun.sh -n 2 train configs/tox21.yaml            2 processes on this machine
#   HOSTS=node1:8,node2:8 launch/mpirun.sh -n 16 train ...    8 on each of two machines that share this folder
#
# USR1, USR2, TERM or Ctrl-C: all ranks finish their step, write a checkpoint and leave with code 75; the same command
# continues from there. A second Ctrl-C or TERM ends the job at once. The exit code is that of the job:
#   0 done, 2 usage or configuration, 3 data, 4 stopped by a guard (loss not finite, ...), 70 a bug, 75 run again.
# -n comes first; without it there is one process. NCCL_*, UCX_*, POLYTASK_*, RUST_LOG and the like go along to other hosts.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

ranks=1
if [ "${1:-}" = -n ]; then
    ranks=${2:?"-n needs the number of processes"}
    shift 2
fi
[ $# -gt 0 ] || { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" && exit 2; }

polytask=${POLYTASK:-$root/target/release/polytask} # set POLYTASK to run another build
[ -x "$polytask" ] || { echo "$polytask is missing: run cargo build --release" >&2 && exit 2; }

# Hosts, and how many processes each takes. Without HOSTS: those of the SLURM job around this, or this machine.
if [ -z "${HOSTS:-}" ] && [ -n "${SLURM_JOB_ID:-}" ]; then
    place=() # mpirun asks SLURM by itself
    n_hosts=${SLURM_JOB_NUM_NODES:-1}
else
    place=(--host "${HOSTS:-localhost:$ranks}")
    n_hosts=$(tr ',' '\n' <<<"${place[1]}" | grep -c .)
fi
ranks_per_host=$(((ranks + n_hosts - 1) / n_hosts))

# libtorch takes every core in every process unless told otherwise, and then they fight. Count the cores this shell may
# use (cgroups and taskset included), and share them out.
cores=$(nproc)
threads=${OMP_NUM_THREADS:-$((cores / ranks_per_host > 0 ? cores / ranks_per_host : 1))}

options=(
    -n "$ranks" "${place[@]}"
    --bind-to none # threads of one process may use several cores: leave binding to the system
    -x "OMP_NUM_THREADS=$threads" -x PATH -x LD_LIBRARY_PATH
)
[ "$ranks_per_host" -le "$cores" ] || options+=(--oversubscribe)
[ "$(id -u)" != 0 ] || options+=(--allow-run-as-root) # containers
# Containers forbid the one-copy transfer between processes; Open MPI complains at length when it finds out by itself.
if [ -e /.dockerenv ] || [ -e /run/.containerenv ]; then
    options+=(--mca btl_vader_single_copy_mechanism none)
fi
# NCCL_*, UCX_* and CUDA_VISIBLE_DEVICES of this shell reach processes on other hosts only by -x.
while IFS= read -r name; do
    options+=(-x "$name")
done < <(compgen -e | grep -E '^(NCCL_|UCX_|POLYTASK_|CUDA_VISIBLE_DEVICES$|RUST_LOG$|RUST_BACKTRACE$)')
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}

# mpirun hands USR1 to the ranks at once; TERM and INT it turns into a kill within two seconds. So the first request to
# stop goes on as USR1, the second as it came; and mpirun has a process group of its own (set -m), where the Ctrl-C of
# the terminal does not reach it.
set -m
mpirun "${options[@]}" "$polytask" "$@" </dev/null &
job=$!
set +m
asked=false
stop() {
    signalled=true
    if [ "$1" != USR1 ] && $asked; then
        kill "-$1" "$job" 2>/dev/null || true
    else
        asked=true
        kill -USR1 "$job" 2>/dev/null || true
    fi
}
trap 'stop USR1' USR1 USR2
trap 'stop TERM' TERM INT HUP

status=0
while true; do # a trapped signal ends `wait` early, with the signal's code instead of the job's
    signalled=false
    status=0
    wait "$job" || status=$?
    $signalled || exit "$status"
done
