# shellcheck shell=bash disable=SC2034
# What the scripts share; source it from bash. Sets PATH, `root`, `cache`, `venv`, and how Open MPI runs here.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${POLYTASK_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/polytask}
venv=$cache/venv

# A shell opened before Rust was installed does not know cargo yet.
if ! command -v cargo >/dev/null && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
    PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
fi

# mpirun refuses root; in a container that is the usual user.
if [ "$(id -u)" = 0 ]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
# Most containers forbid the one-copy transfer between processes, and Open MPI complains about it at length.
if [ -e /.dockerenv ] || [ -e /run/.containerenv ]; then
    export OMPI_MCA_btl_vader_single_copy_mechanism="${OMPI_MCA_btl_vader_single_copy_mechanism:-none}"
fi

# die MESSAGE...: one line per argument, exit 1.
die() {
    printf '%s\n' "$@" >&2
    exit 1
}
