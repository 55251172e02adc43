# shellcheck shell=sh
# shellcheck disable=SC2154 # `here` is the caller's
# What the bundle's `polytask` and `mpirun` share; they set `here` (the bundle's folder) and source this file.
#
# Set by users:
#   LIBTORCH          a libtorch, or the folder `torch` of a Python; default: the torch of python3
#   POLYTASK_PYTHON   another Python to look in
#   POLYTASK_MPI=system   use the MPI of this machine instead of the bundle's (Open MPI 4: libmpi.so.40)
#   LIBTORCH_BYPASS_VERSION_CHECK=1   start with another version of libtorch all the same

say() { printf 'polytask bundle: %s\n' "$*" >&2; }
stop() {
    say "$@"
    exit 2
}

# The folder `torch` of a Python, without the seconds that importing it takes.
torch_of_python() {
    "$1" -I -c 'import importlib.util as u; s = u.find_spec("torch"); print(*(s.submodule_search_locations[:1] if s else []))' \
        2>/dev/null || true
}

# find_torch: sets `torch`.
find_torch() {
    torch=${LIBTORCH:-}
    if [ -n "$torch" ]; then
        [ -e "$torch/lib/libtorch_cpu.so" ] || stop "LIBTORCH=$torch holds no libtorch: expected $torch/lib/libtorch_cpu.so"
        return
    fi
    python=${POLYTASK_PYTHON:-python3}
    command -v "$python" >/dev/null ||
        stop "there is no $python to find libtorch in; set LIBTORCH to a libtorch $wanted, or POLYTASK_PYTHON to a Python with torch $wanted"
    torch=$(torch_of_python "$python")
    if [ -z "$torch" ] || [ ! -e "$torch/lib/libtorch_cpu.so" ]; then
        stop "$python has no torch; activate the environment that has torch $wanted, set POLYTASK_PYTHON to its Python, or LIBTORCH to a libtorch $wanted"
    fi
}

# version_of FOLDER: as in 2.11.0; empty if there is no telling. A Python package has version.py, a plain libtorch build-version.
version_of() {
    cat "$1/version.py" "$1/build-version" 2>/dev/null |
        sed -n "s/^__version__.*'\([0-9][0-9.]*[0-9]\).*/\1/p; s/^\([0-9][0-9.]*[0-9]\).*/\1/p" | head -n 1
}

# libtorch's C++ interface changes with every release: another one ends in a missing symbol at best, in wrong numbers at
# worst.
check_torch() {
    found=$(version_of "$torch")
    [ "$found" != "$wanted" ] || return 0
    if [ -n "${LIBTORCH_BYPASS_VERSION_CHECK:-}" ]; then
        say "$torch is libtorch ${found:-of an unknown version}, this bundle was built for $wanted; going on, as LIBTORCH_BYPASS_VERSION_CHECK says"
    else
        stop "$torch is libtorch ${found:-of an unknown version}, but this bundle was built for $wanted;" \
            "install torch==$wanted, or set LIBTORCH to another one (LIBTORCH_BYPASS_VERSION_CHECK=1 tries this one)"
    fi
}

# use_mpi: the bundle's Open MPI, for this process and those that it starts.
use_mpi() {
    [ "${POLYTASK_MPI:-bundle}" != system ] || return 0
    PATH=$here/bin:$PATH
    LD_LIBRARY_PATH=$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    export PATH LD_LIBRARY_PATH
    export OPAL_PREFIX="$here" OPAL_SYSCONFDIR="$here/etc"
    export PMIX_PKGLIBDIR="$here/lib/pmix" PMIX_PKGDATADIR="$here/share/pmix"
    # mpirun refuses root; in a container that is the usual user.
    if [ "$(id -u)" = 0 ]; then
        export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    fi
    # Most containers forbid the one-copy transfer between processes, and Open MPI complains about it at length.
    if [ -e /.dockerenv ] || [ -e /run/.containerenv ]; then
        export OMPI_MCA_btl_vader_single_copy_mechanism="${OMPI_MCA_btl_vader_single_copy_mechanism:-none}"
    fi
    # Without a way to reach other machines mpirun gives up even where it needs none.
    if ! command -v ssh >/dev/null && ! command -v rsh >/dev/null && [ -z "${SLURM_JOB_ID:-}" ]; then
        export OMPI_MCA_plm="${OMPI_MCA_plm:-isolated}"
    fi
}

wanted=$(cat "$here/libexec/libtorch_version")
