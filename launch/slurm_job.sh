# shellcheck shell=bash
# What the job scripts for SLURM share; they source it. Nothing here is to be edited for a machine.
#
# A job that runs `polytask train`
#   - tells it when the job ends, so that it stops in time, with a checkpoint;
#   - passes it USR1, by which SLURM (--signal) or you (scancel --signal=USR1 --batch JOB) ask it to stop; USR2 does as well;
#   - queues itself again when it ends with code 75 ("not done, the same command continues"), unless that looks futile, and
#     when it was asked to stop before any process listened;
#   - ends with the code of the program otherwise.

max_restarts=${MAX_RESTARTS:-100} # a run that needs more has gone wrong, or needs longer jobs
listening_s=${LISTENING_S:-10}     # after which every process surely listens to USR1; sooner, the signal would kill it

# From now on the signals are ours, and do not end this script.
job="" job_began=$SECONDS asked=false cancelled=false caught=0
trap 'asked=true caught=$((caught + 1)); job_pass_on' USR1 USR2
# scancel, or SLURM's own preemption: the job ends, and whether it comes back is not for us to say. The processes of srun
# have the signal too.
trap 'cancelled=true caught=$((caught + 1))' TERM

job_pass_on() {
    [ -n "$job" ] || return 0
    while [ $((SECONDS - job_began)) -lt "$listening_s" ]; do sleep 1; done
    kill -USR1 "$job" 2>/dev/null || true
}

# job_begin CONFIG [--sweep FILE] [options of polytask train]: sets `train`, the command without its launcher.
job_begin() {
    local config=${1:?"usage: sbatch launch/slurm.sbatch CONFIG [--sweep FILE] [options of polytask train]"}
    shift
    restarts=${SLURM_RESTART_COUNT:-0}
    [ -x "$polytask" ] || job_stop "$polytask is missing: build it (scripts/setup, cargo build --release), or set POLYTASK"

    # libtorch takes all cores of the node in every process, unless it is told otherwise.
    export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
    # The end of the job in seconds since 1970. Newer versions of SLURM tell it by themselves, others are asked.
    POLYTASK_END_TIME=${SLURM_JOB_END_TIME:-$(SLURM_TIME_FORMAT=%s squeue -h -j "${SLURM_JOB_ID:-0}" -o %e 2>/dev/null || true)}
    [[ $POLYTASK_END_TIME =~ ^[0-9]+$ ]] || POLYTASK_END_TIME= # a job without a limit
    export POLYTASK_END_TIME

    # The run directory hangs on the name of the run and not on the number of the job: a job that starts again, and a new
    # one with the same configuration, continue from the last checkpoint.
    train=("$polytask" train "$config")
    if [ "${1:-}" = --sweep ]; then
        job_sweep "${2:?--sweep needs a file}"
        shift 2
    elif [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
        job_stop "all jobs of an array would write into the same folder: give --sweep FILE, with a line for each, right after the configuration"
    fi
    train+=("$@")
}

# job_sweep FILE: adds line SLURM_ARRAY_TASK_ID of FILE, whose words are values for --set, and a run name of its own.
job_sweep() {
    local n=${SLURM_ARRAY_TASK_ID:?"--sweep needs an array: sbatch --array=1-$(grep -c . "$1") ..."} words word
    read -ra words < <(sed -n "${n}p" "$1") || true
    [ ${#words[@]} -gt 0 ] || job_stop "$1 has no line $n"
    train+=(--set "run.name=${SLURM_JOB_NAME:-sweep}-$n")
    for word in "${words[@]}"; do train+=(--set "$word"); done
}

# job_run LAUNCHER...: runs the program under the launcher, to the end of this script.
job_run() {
    local status before handled
    before=$(job_checkpoint)
    echo "$(date -Is) job ${SLURM_JOB_ID:-?}, start $restarts on ${SLURM_JOB_NODELIST:-?}: $*"
    job_began=$SECONDS
    "$@" &
    job=$!
    ! $asked || job_pass_on
    while true; do # a trapped signal ends `wait` early, with the signal's code; asked again, it has that of the job
        handled=$caught status=0
        wait "$job" || status=$?
        [ "$handled" != "$caught" ] || break
    done
    echo "$(date -Is) job ${SLURM_JOB_ID:-?}, start $restarts: exit code $status after $((SECONDS - job_began)) s, $(job_checkpoint)"
    case $status in
    75) job_requeue "$before" ;;
    138 | 140) # USR1 or USR2 straight to processes that did not listen yet: they die of it, and no step could be gained
        echo "job ${SLURM_JOB_ID:-?}: asked to stop before the program listened" >&2
        job_requeue "" ;;
    *) exit "$status" ;;
    esac
}

# job_requeue CHECKPOINT: back into the queue under the same number, to start two minutes later at the earliest. Not after
# scancel or too many starts, nor while CHECKPOINT, unless it is empty, is still the latest one.
job_requeue() {
    local before=$1
    ! $cancelled || job_end 75 "cancelled: not queued again"
    [ "$restarts" -lt "$max_restarts" ] || job_end 75 "started $restarts times again already (MAX_RESTARTS): not queued again"
    [ -z "$before" ] || [ "$before" != "$(job_checkpoint)" ] ||
        job_end 75 "no step was gained since the last start: not queued again; is --time too short for a step and a checkpoint?"
    scontrol requeue "${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-${SLURM_JOB_ID:?}}"
    exit 0
}

# The latest checkpoint of the run, by the log of this job; empty while there is none.
job_checkpoint() {
    local log dir
    log=$(readlink "/proc/$$/fd/1")
    [ -f "$log" ] || return 0
    dir=$(sed -n 's/^writing to //p' "$log" | tail -n 1)
    cat "${dir:-.}/checkpoints/latest" 2>/dev/null || true
}

# job_end CODE WORDS...
job_end() {
    echo "job ${SLURM_JOB_ID:-?}: ${*:2}" >&2
    exit "$1"
}

job_stop() { job_end 2 "$@"; }
