//! What the ranks tell each other before they join a communicator, and whether it fits.

use super::library::Version;
use serde::{Deserialize, Serialize};

/// One rank.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub nccl: (u32, u32, u32),
    /// Name of the machine, for people.
    pub host: String,
    /// What NCCL tells machines apart by: `NCCL_HOSTID`, or else the name and the boot.
    pub machine: String,
    /// Bus id of the GPU, if it has one.
    pub gpu: Option<String>,
}

impl Entry {
    pub fn new(nccl: Version, gpu: Option<String>) -> Entry {
        let read = |path| std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
        let host = read("/proc/sys/kernel/hostname");
        let machine = std::env::var("NCCL_HOSTID")
            .unwrap_or_else(|_| format!("{host} {}", read("/proc/sys/kernel/random/boot_id")));
        Entry { nccl: (nccl.major, nccl.minor, nccl.patch), host, machine, gpu }
    }
}

/// Why these ranks cannot share a communicator.
pub(super) fn objection(ranks: &[Entry]) -> Option<String> {
    mixed_versions(ranks).or_else(|| shared_gpu(ranks))
}

fn mixed_versions(ranks: &[Entry]) -> Option<String> {
    let first = ranks.first()?;
    let (rank, other) = ranks.iter().enumerate().find(|(_, entry)| entry.nccl != first.nccl)?;
    let text = |(major, minor, patch)| Version { major, minor, patch }.to_string();
    Some(format!(
        "rank {rank} (host {}) has NCCL {}, rank 0 (host {}) has {}\n  hint: all ranks need the same version; look for \
         another libnccl.so.2 in LD_LIBRARY_PATH or POLYTASK_NCCL",
        other.host,
        text(other.nccl),
        first.host,
        text(first.nccl)
    ))
}

fn shared_gpu(ranks: &[Entry]) -> Option<String> {
    ranks.iter().enumerate().find_map(|(rank, entry)| {
        let gpu = entry.gpu.as_ref()?;
        let other = ranks[..rank].iter().position(|o| (&o.machine, &o.gpu) == (&entry.machine, &entry.gpu))?;
        Some(format!(
            "ranks {other} and {rank} use the same GPU (host {}, PCI bus id {gpu})\n  hint: start one process per GPU. To \
             share one on purpose, which is slow, let the ranks pass for different machines: another NCCL_HOSTID for each, \
             NCCL_SOCKET_IFNAME=lo NCCL_IB_DISABLE=1",
            entry.host
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(host: &str, gpu: Option<&str>) -> Entry {
        Entry { nccl: (2, 28, 9), host: host.into(), machine: format!("{host} boot"), gpu: gpu.map(Into::into) }
    }

    #[test]
    fn one_gpu_per_rank_and_one_version_for_all() {
        let fits = [entry("a", Some("01:00.0")), entry("a", Some("02:00.0")), entry("b", Some("01:00.0"))];
        assert_eq!(objection(&fits), None);
        assert_eq!(objection(&[entry("a", None), entry("a", None)]), None);

        let shared = [fits[0].clone(), fits[2].clone(), entry("b", Some("01:00.0"))];
        assert_eq!(
            objection(&shared).unwrap(),
            "ranks 1 and 2 use the same GPU (host b, PCI bus id 01:00.0)\n  hint: start one process per GPU. To share one \
             on purpose, which is slow, let the ranks pass for different machines: another NCCL_HOSTID for each, \
             NCCL_SOCKET_IFNAME=lo NCCL_IB_DISABLE=1"
        );
        let by_intent = [entry("a", Some("01:00.0")), Entry { machine: "second".into(), ..fits[0].clone() }];
        assert_eq!(objection(&by_intent), None);

        let mixed = [fits[0].clone(), fits[1].clone(), Entry { nccl: (2, 27, 0), ..fits[2].clone() }];
        assert_eq!(
            objection(&mixed).unwrap(),
            "rank 2 (host b) has NCCL 2.27.0, rank 0 (host a) has 2.28.9\n  hint: all ranks need the same version; look \
             for another libnccl.so.2 in LD_LIBRARY_PATH or POLYTASK_NCCL"
        );
    }
}
