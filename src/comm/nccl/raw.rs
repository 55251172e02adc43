//! Types, constants and functions of `nccl.h` (2.28), as they are.

use crate::cuda::function_table;
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::ptr;

/// `ncclResult_t`.
pub(super) type Code = c_int;
/// `ncclComm_t`.
pub(super) type Handle = *mut c_void;
/// `cudaStream_t`.
pub(super) type StreamHandle = *mut c_void;

/// Values of `ncclResult_t` and their names.
pub(super) const SUCCESS: Code = 0;
pub(super) const IN_PROGRESS: Code = 7;
pub(super) const NAMES: [&str; 8] = [
    "ncclSuccess",
    "ncclUnhandledCudaError",
    "ncclSystemError",
    "ncclInternalError",
    "ncclInvalidArgument",
    "ncclInvalidUsage",
    "ncclRemoteError",
    "ncclInProgress",
];

/// `ncclRedOp_t`: sums are all we need; divisions come once, after the reduction.
pub(super) const SUM: c_int = 0;

/// `ncclDataType_t`.
pub(super) const FLOAT32: c_int = 7;
pub(super) const FLOAT64: c_int = 8;
pub(super) const BFLOAT16: c_int = 9;

/// `NCCL_UNIQUE_ID_BYTES`.
pub(super) const ID_BYTES: usize = 128;

/// `ncclUniqueId`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct UniqueId(pub [u8; ID_BYTES]);

/// `ncclConfig_t` of 2.28. Older releases read the part that they know, newer ones take defaults for the rest.
#[repr(C)]
pub(super) struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
    cga_cluster_size: c_int,
    min_ctas: c_int,
    max_ctas: c_int,
    net_name: *const c_char,
    split_share: c_int,
    traffic_class: c_int,
    comm_name: *const c_char,
    collnet_enable: c_int,
    cta_policy: c_int,
    shrink_share: c_int,
    nvls_ctas: c_int,
    n_channels_per_net_peer: c_int,
    nvlink_centric_sched: c_int,
}

impl Config {
    /// `NCCL_CONFIG_INITIALIZER` with `blocking = 0`: calls return at once, and are polled.
    pub fn non_blocking() -> Config {
        const UNDEFINED: c_int = c_int::MIN;
        Config {
            size: size_of::<Config>(),
            magic: 0xcafe_beef,
            version: 22809,
            blocking: 0,
            cga_cluster_size: UNDEFINED,
            min_ctas: UNDEFINED,
            max_ctas: UNDEFINED,
            net_name: ptr::null(),
            split_share: UNDEFINED,
            traffic_class: UNDEFINED,
            comm_name: ptr::null(),
            collnet_enable: UNDEFINED,
            cta_policy: UNDEFINED,
            shrink_share: UNDEFINED,
            nvls_ctas: UNDEFINED,
            n_channels_per_net_peer: UNDEFINED,
            nvlink_centric_sched: UNDEFINED,
        }
    }
}

function_table! {
    /// Looked up first, so that a library that is too old is told by its version.
    Versioned {
        get_version = "ncclGetVersion": (*mut c_int) -> Code;
    }
}

function_table! {
    /// What a communicator needs. `ncclCommAbort` is not among it: it may hang, so a run that fails leaves without it.
    Functions {
        get_unique_id = "ncclGetUniqueId": (*mut UniqueId) -> Code;
        init_rank_config = "ncclCommInitRankConfig": (*mut Handle, c_int, UniqueId, c_int, *mut Config) -> Code;
        finalize = "ncclCommFinalize": (Handle) -> Code;
        destroy = "ncclCommDestroy": (Handle) -> Code;
        async_error = "ncclCommGetAsyncError": (Handle, *mut Code) -> Code;
        last_error = "ncclGetLastError": (Handle) -> *const c_char;
        all_reduce = "ncclAllReduce":
            (*const c_void, *mut c_void, usize, c_int, c_int, Handle, StreamHandle) -> Code;
        reduce_scatter = "ncclReduceScatter":
            (*const c_void, *mut c_void, usize, c_int, c_int, Handle, StreamHandle) -> Code;
        all_gather = "ncclAllGather": (*const c_void, *mut c_void, usize, c_int, Handle, StreamHandle) -> Code;
        broadcast = "ncclBroadcast":
            (*const c_void, *mut c_void, usize, c_int, c_int, Handle, StreamHandle) -> Code;
        group_start = "ncclGroupStart": () -> Code;
        group_end = "ncclGroupEnd": () -> Code;
    }
}

function_table! {
    /// What marks the stand-in of the tests, which moves host memory and plays the CUDA runtime too.
    Mark {
        /// What to take for the bus id of a GPU, or null.
        bus_id = "polytask_standin_bus_id": () -> *const c_char;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn the_configuration_has_the_layout_of_the_header() {
        assert_eq!(size_of::<Config>(), 80);
        assert_eq!(
            [offset_of!(Config, blocking), offset_of!(Config, net_name), offset_of!(Config, comm_name)],
            [16, 32, 48]
        );
        assert_eq!(offset_of!(Config, nvlink_centric_sched), 76);
        assert_eq!(size_of::<UniqueId>(), 128);
    }
}
