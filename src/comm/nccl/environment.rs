//! Variables that NCCL reads, once per process, before its first call.

use super::error::NcclError;
use std::ffi::OsString;

/// With these the same ranks give the same bits in every run. The order in which rings and trees add is then fixed by the
/// message and the topology; what is left out are sums made in the switch (NVLS), which were seen to differ between runs,
/// and the protocols among which NCCL chooses by its own measurements.
/// cuBLAS, for its part, wants a workspace of a fixed size.
pub const DETERMINISTIC: [(&str, &str); 4] = [
    ("NCCL_ALGO", "Ring"),
    ("NCCL_PROTO", "Simple"),
    ("NCCL_NVLS_ENABLE", "0"),
    ("CUBLAS_WORKSPACE_CONFIG", ":4096:8"),
];

/// Sets [`DETERMINISTIC`] for this process. What the user has set stays, with a warning.
///
/// Call it first thing in `main`: variables can be changed safely only while no other thread reads them, so with threads
/// running this only looks whether they are set.
///
/// # Errors
/// [`NcclError::Setup`] if a variable is missing and threads are running.
pub fn make_deterministic() -> Result<(), NcclError> {
    let missing = review(|name| std::env::var_os(name));
    if missing.is_empty() {
        return Ok(());
    }
    if threads() != Some(1) {
        let settings: Vec<String> = missing.iter().map(|(name, value)| format!("{name}={value}")).collect();
        return Err(NcclError::Setup(format!(
            "NCCL was to be made deterministic, but the environment lacks {} and can no longer be changed\n  hint: set it \
             where the job is started (mpirun: -x NAME=value)",
            settings.join(" ")
        )));
    }
    for (name, value) in missing {
        // SAFETY: this is the only thread of the process, as the kernel has just said.
        unsafe { std::env::set_var(name, value) };
    }
    Ok(())
}

/// The settings that are missing; warns of those that differ.
fn review(variable: impl Fn(&str) -> Option<OsString>) -> Vec<(&'static str, &'static str)> {
    let mut missing = Vec::new();
    for (name, value) in DETERMINISTIC {
        match variable(name) {
            None => missing.push((name, value)),
            Some(own) if own == value => {}
            Some(own) => tracing::warn!(
                "{name}={} is set and stays: runs may differ in the last bits\n  hint: deterministic runs use {name}={value}",
                own.display()
            ),
        }
    }
    missing
}

fn threads() -> Option<usize> {
    Some(std::fs::read_dir("/proc/self/task").ok()?.count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_user_left_open_is_set() {
        let own = |name: &str| (name == "NCCL_ALGO").then(|| OsString::from("Tree"));
        assert_eq!(review(own), DETERMINISTIC[1..]);
        assert_eq!(review(|_| Some(OsString::from("0"))), []);
        assert_eq!(review(|_| None), DETERMINISTIC);
    }
}
