//! Finding the library and joining: whatever is wrong is told in the same words on all ranks.

use crate::standin::{alone, alone_with, incomplete, library, with_function};
use crate::{quick, ranks};
use polytask::comm::nccl::{Library, Nccl, NcclError, NcclOptions, Version, make_deterministic};
use polytask::comm::tensors::TensorCollective;
use polytask::comm::{Collective, CommError, Solo, Threads};
use std::ffi::c_int;
use std::path::Path;
use std::time::{Duration, Instant};
use tch::Device;

/// What connecting said on each rank; the end of the run was agreed, so no rank need abort the others.
#[track_caller]
fn refused(size: usize, options: &NcclOptions) -> Vec<String> {
    refused_with(size, options, |_| ())
}

#[track_caller]
fn refused_with(size: usize, options: &NcclOptions, before: impl Fn(usize) + Sync) -> Vec<String> {
    Threads::run(size, |control| {
        before(control.world().rank);
        match Nccl::connect(&control, Device::Cpu, options) {
            Err(CommError::Launch(words)) => words,
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("rank {} was let in", control.world().rank),
        }
    })
}

fn open(path: &Path) -> NcclError {
    Library::open(Some(path)).err().unwrap()
}

#[test]
fn a_library_that_is_absent_or_no_nccl_is_told() {
    assert_eq!(
        open(Path::new("/nowhere/libnccl.so.2")).to_string(),
        "NCCL cannot be loaded: /nowhere/libnccl.so.2: cannot open shared object file: No such file or directory\n  hint: \
         the CUDA build of libtorch brings it along (Python package nvidia-nccl-cu13, or cu12); POLYTASK_NCCL may name a \
         libnccl.so.2"
    );
    let hint = "hint: it is no NCCL, or a damaged one; expected the libnccl.so.2 that libtorch came with";
    assert_eq!(open(Path::new("libm.so.6")).to_string(), format!("libm.so.6 has no `ncclGetVersion`\n  {hint}"));
    let path = incomplete();
    assert_eq!(open(&path).to_string(), format!("{} has no `ncclGetUniqueId`\n  {hint}", path.display()));
}

#[test]
fn a_library_that_is_too_old_is_told_by_its_version() {
    alone("connecting::a_library_that_is_too_old_is_told_by_its_version", "version=21304", || {
        let path = library();
        let words = format!(
            "{} is NCCL 2.13.4, expected 2.14.0 or newer\n  hint: use the libnccl.so.2 that libtorch came with",
            path.display()
        );
        assert_eq!(open(&path).to_string(), words);
        assert_eq!(refused(2, &quick()), [words.clone(), format!("rank 0: {words}")]);
    });
}

#[test]
fn the_version_and_the_place_are_known() {
    let library = Library::open(Some(&library())).unwrap();
    assert_eq!(library.version(), Version { major: 2, minor: 28, patch: 9 });
    assert_eq!(library.path(), crate::standin::library().to_str().unwrap());
}

/// With the CUDA build of libtorch this is the real library; without, a clear error.
#[test]
fn host_memory_is_for_the_stand_in_alone() {
    let error = match Nccl::connect(&Solo, Device::Cpu, &NcclOptions::default()) {
        Err(CommError::Launch(words)) => words,
        _ => panic!("expected a refusal"),
    };
    match Library::open(None) {
        Ok(library) => {
            let place = format!("NCCL exchanges tensors on GPUs, not in host memory ({})\n  hint: ", library.path());
            assert!(library.path().contains("libnccl.so.2") && error.starts_with(&place), "{error}");
        }
        Err(absent) => {
            println!("skipped: the real NCCL is not here");
            assert!(matches!(absent, NcclError::Absent(_)) && error == absent.to_string(), "{error}");
        }
    }
    let mps = Nccl::connect(&Solo, Device::Mps, &NcclOptions::default()).err().unwrap();
    assert_eq!(mps.to_string(), "NCCL exchanges tensors on GPUs, not on Mps");
}

#[test]
fn a_gpu_that_is_not_there_is_told() {
    let error = Nccl::connect(&Solo, Device::Cuda(99), &NcclOptions::default()).err().unwrap().to_string();
    let expected = ["GPU 99 was asked for, ", "cudaGetDeviceCount failed: ", "CUDA cannot be used: "];
    assert!(expected.iter().any(|start| error.starts_with(start)) && error.contains("hint: "), "{error}");
}

#[test]
fn mixed_versions_are_refused() {
    alone("connecting::mixed_versions_are_refused", "", || {
        let words = refused_with(3, &quick(), |rank| {
            let version = if rank == 1 { 22703 } else { 22809 };
            // SAFETY: its signature.
            unsafe {
                with_function("polytask_standin_set_version", |set: unsafe extern "C" fn(c_int)| set(version));
            }
        });
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        let host = host.trim();
        let expected = format!(
            "rank 1 (host {host}) has NCCL 2.27.3, rank 0 (host {host}) has 2.28.9\n  hint: all ranks need the same \
             version; look for another libnccl.so.2 in LD_LIBRARY_PATH or POLYTASK_NCCL"
        );
        assert_eq!(words, vec![expected; 3]);
    });
}

#[test]
fn a_shared_gpu_is_refused() {
    alone("connecting::a_shared_gpu_is_refused", "bus=0000:65:00.0", || {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        let expected = format!(
            "ranks 0 and 1 use the same GPU (host {}, PCI bus id 0000:65:00.0)\n  hint: start one process per GPU. To share \
             one on purpose, which is slow, let the ranks pass for different machines: another NCCL_HOSTID for each, \
             NCCL_SOCKET_IFNAME=lo NCCL_IB_DISABLE=1",
            host.trim()
        );
        assert_eq!(refused(2, &quick()), vec![expected; 2]);
        ranks(1, &quick(), |nccl, _| assert_eq!(nccl.world().size, 1));
    });
}

#[test]
fn an_id_that_cannot_be_made_fails_all() {
    alone("connecting::an_id_that_cannot_be_made_fails_all", "id_error=2", || {
        let words = "ncclGetUniqueId: ncclSystemError: no network\n  hint: a system call within NCCL failed; \
                     NCCL_DEBUG=INFO says which. NCCL_SOCKET_IFNAME chooses the network; containers need room in /dev/shm";
        assert_eq!(refused(2, &quick()), [words.to_owned(), format!("rank 0: {words}")]);
    });
}

/// The others never get through, and blame the rank where it began.
#[test]
fn a_rank_that_cannot_join_fails_all() {
    alone("connecting::a_rank_that_cannot_join_fails_all", "init_error=3:1", || {
        let options = NcclOptions { init_deadline: Duration::from_millis(200), ..quick() };
        let words = "ncclCommInitRankConfig: ncclInternalError: no route to host\n  hint: NCCL_DEBUG=WARN says more";
        let blamed = format!("rank 1: {words}");
        assert_eq!(refused(3, &options), [blamed.as_str(), words, &blamed]);
    });
}

#[test]
fn a_rank_that_never_comes_fails_all_at_the_deadline() {
    alone("connecting::a_rank_that_never_comes_fails_all_at_the_deadline", "hang=init@1:1", || {
        let options = NcclOptions { init_deadline: Duration::from_millis(500), ..quick() };
        let start = Instant::now();
        let words = "ncclCommInitRankConfig was still in progress after 0.5 s\n  hint: a rank did not come, or the ranks \
                     cannot reach each other: NCCL_SOCKET_IFNAME chooses the network, NCCL_DEBUG=INFO tells how far each \
                     one got";
        assert_eq!(refused(2, &options), [words.to_owned(), format!("rank 0: {words}")]);
        assert!(start.elapsed() < Duration::from_secs(10));
    });
}

const DETERMINISTIC: NcclOptionsOf = || NcclOptions { deterministic: true, ..quick() };
type NcclOptionsOf = fn() -> NcclOptions;

/// Ranks are threads here, so it is too late to set anything.
#[test]
fn settings_that_come_too_late_are_refused() {
    let test = "connecting::settings_that_come_too_late_are_refused";
    alone_with(test, "", &[("NCCL_PROTO", "LL128")], || {
        let words = "NCCL was to be made deterministic, but the environment lacks NCCL_ALGO=Ring NCCL_NVLS_ENABLE=0 \
                     CUBLAS_WORKSPACE_CONFIG=:4096:8 and can no longer be changed\n  hint: set it where the job is started (mpirun: -x NAME=value)";
        assert_eq!(refused(2, &DETERMINISTIC()), [words.to_owned(), format!("rank 0: {words}")]);
    });
}

/// As first thing in `main`: a forked process has one thread.
#[test]
fn settings_are_made_while_there_is_one_thread() {
    let test = "connecting::settings_are_made_while_there_is_one_thread";
    alone_with(test, "", &[("NCCL_PROTO", "LL128")], || {
        // SAFETY: the other threads wait for this one and hold no locks; the child ends without running anything of theirs.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let made = make_deterministic().is_ok();
            let set =
                ["NCCL_ALGO", "NCCL_PROTO", "NCCL_NVLS_ENABLE"].map(|name| std::env::var(name).unwrap_or_default());
            let right = made && set == ["Ring", "LL128", "0"];
            // SAFETY: ends this process at once.
            unsafe { libc::_exit(if right { 0 } else { 1 }) };
        }
        let mut status = -1;
        // SAFETY: `status` is writable.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(status, 0);
    });
}

#[test]
fn settings_of_the_user_are_kept() {
    let own = [
        ("NCCL_ALGO", "Tree"),
        ("NCCL_PROTO", "Simple"),
        ("NCCL_NVLS_ENABLE", "0"),
        ("CUBLAS_WORKSPACE_CONFIG", ":16:8"),
    ];
    alone_with("connecting::settings_of_the_user_are_kept", "", &own, || {
        ranks(2, &DETERMINISTIC(), |_, _| assert_eq!(std::env::var("NCCL_ALGO").unwrap(), "Tree"));
    });
}
