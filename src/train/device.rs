//! On which device a rank computes, and how its tensors travel to the other ranks.

use crate::comm::nccl::{Nccl, NcclOptions, Recorder};
use crate::comm::tensors::TensorCollective;
use crate::comm::watchdog::Watchdog;
use crate::comm::{Collective, agree, shares_gpus};
use crate::config::{Backend, Config};
use crate::cuda::{Cuda, CudaError};
use crate::error::{Error, Result};
use crate::ffi;
use crate::train::clock;
use crate::world::World;
use std::sync::Arc;
use std::time::Duration;
use tch::{Device, Kind, Tensor};

/// The device of this rank, ready for use, with libtorch's modes set as configured.
///
/// # Collective
/// All ranks.
///
/// # Errors
/// On all ranks: a GPU was asked for that is not there or not usable, two ranks would share one, or some ranks have a GPU and
/// others do not.
pub fn choose(config: &Config, comm: &dyn Collective) -> Result<Device> {
    let device = agree(comm, mine(&config.train.device, comm.world(), shares_gpus()))?;
    let all = comm.all_gather_bytes(&[u8::from(device.is_cuda())])?;
    if let Some(rank) = all.iter().position(|other| *other != all[0]) {
        let where_is = |cuda: &Vec<u8>| if cuda == &[1] { "a GPU" } else { "the CPU" };
        return Err(Error::Usage(format!(
            "rank {rank} would compute on {}, rank 0 on {}\n  hint: start ranks on nodes of one kind, or use \
             `train.device: cpu`; `polytask doctor` on each node tells what is missing",
            where_is(&all[rank]),
            where_is(&all[0])
        )));
    }
    if config.comm.deterministic {
        agree(comm, told(ffi::deterministic(true)))?;
    }
    if let Device::Cuda(index) = device {
        agree(comm, told(ffi::allow_tf32(config.train.tf32)))?;
        clock::time_on(agree(comm, ready(index))?, index);
    }
    Ok(device)
}

/// Makes a GPU the one of this thread, and proves that libtorch can use it.
fn ready(index: usize) -> Result<&'static Cuda> {
    let cuda = Cuda::load().map_err(usage)?;
    Tensor::f_zeros([1], (Kind::Float, Device::Cuda(index))).map(drop).map_err(|error| {
        let words = error.to_string();
        let first = words.lines().next().unwrap_or_default();
        Error::Usage(format!(
            "GPU {index} cannot be used: {first}\n  hint: `polytask doctor` and nvidia-smi look for the cause"
        ))
    })?;
    cuda.set_device(index).map_err(usage)?;
    Ok(cuda)
}

/// As [`choose`], for commands that can do without a GPU: where it is missing, all ranks take the CPU and say so.
///
/// # Collective
/// All ranks.
///
/// # Errors
/// If the ranks cannot talk to each other.
pub fn choose_or_cpu(config: &Config, comm: &dyn Collective) -> Result<Device> {
    match choose(config, comm) {
        Err(error) if !error.is_local() => {
            if comm.world().is_main() {
                tracing::warn!("on the CPU, since {error}");
            }
            Ok(Device::Cpu)
        }
        chosen => chosen,
    }
}

fn told(answer: Option<()>) -> Result<()> {
    let words = "this libtorch cannot be told how exactly to compute (`train.tf32`, `comm.deterministic`)\n  hint: polytask is \
                 made for libtorch 2.11; `polytask doctor` tells which one is used";
    answer.ok_or_else(|| Error::Usage(words.into()))
}

fn usage(error: CudaError) -> Error {
    let way_out = "`polytask doctor` looks for the cause; `--set train.device=cpu` trains without a GPU";
    let words = error.to_string();
    // One hint: what CUDA's error brings goes on in it.
    let joint = if words.contains("hint: ") { "; " } else { "\n  hint: " };
    Error::Usage(format!("{words}{joint}{way_out}"))
}

/// The device that the configuration means on this rank.
fn mine(wanted: &str, world: World, shared: bool) -> Result<Device> {
    if wanted == "cpu" || (wanted == "auto" && !ffi::has_nvidia_driver()) {
        return Ok(Device::Cpu);
    }
    match (Cuda::load().and_then(Cuda::device_count), wanted) {
        (Ok(0), "auto") => Ok(Device::Cpu),
        (Err(error), "auto") => {
            tracing::warn!("there is an NVIDIA driver, but {error}; training on the CPU");
            Ok(Device::Cpu)
        }
        (Ok(count), _) => Ok(Device::Cuda(index(wanted, world, count, shared)?)),
        (Err(error), _) => Err(usage(error)),
    }
}

/// The GPU of this rank among `count` visible ones. `shared`: several ranks on one GPU are meant.
fn index(wanted: &str, world: World, count: usize, shared: bool) -> Result<usize> {
    let World { local_rank, local_size, .. } = world;
    if let Some(number) = wanted.strip_prefix("cuda:").and_then(|n| n.parse::<usize>().ok()) {
        return match number {
            n if n >= count => Err(Error::Usage(format!(
                "`train.device` is `{wanted}`, but {count} GPUs are visible, 0 to {}\n  hint: look at CUDA_VISIBLE_DEVICES and \
                 nvidia-smi",
                count.saturating_sub(1)
            ))),
            _ if local_size > 1 && !shared => Err(Error::Usage(format!(
                "`train.device: {wanted}` would put {local_size} ranks of this node on one GPU\n  hint: `train.device: cuda` \
                 gives every rank a GPU of its own"
            ))),
            n => Ok(n),
        };
    }
    match count {
        0 => Err(Error::Usage(
            "`train.device` is `cuda`, but no GPU is visible\n  hint: look at nvidia-smi and CUDA_VISIBLE_DEVICES, or use \
             `train.device: cpu`"
                .into(),
        )),
        // Launchers may bind one GPU to each rank; whether it is another one is seen when the ranks connect.
        1 => Ok(0),
        _ if local_rank < count => Ok(local_rank),
        _ if shared => Ok(local_rank % count),
        _ => Err(Error::Usage(format!(
            "{local_size} ranks on this node, but {count} GPUs are visible to local rank {local_rank}\n  hint: start at most \
             {count} ranks per node (mpirun --map-by ppr:{count}:node, srun --ntasks-per-node={count}), or use \
             `train.device: cpu`"
        ))),
    }
}

/// `cpu`, or `cuda:0` with the product's name.
pub fn name(device: Device) -> String {
    let Device::Cuda(index) = device else { return "cpu".into() };
    let product = Cuda::load().and_then(|cuda| cuda.device_name(index));
    product.map_or_else(|_| format!("cuda:{index}"), |product| format!("cuda:{index} ({product})"))
}

/// Memory in use on a device in MiB, by whomever; `None` on a CPU.
pub fn memory_mib(device: Device) -> Option<f64> {
    let Device::Cuda(index) = device else { return None };
    let (free, total) = Cuda::load().and_then(|cuda| cuda.memory(index)).ok()?;
    Some((total - free) as f64 / f64::from(1 << 20))
}

/// How tensors on this device travel between ranks; `None`: alone, or by the ordinary collective.
///
/// # Collective
/// All ranks.
///
/// # Errors
/// On all ranks: NCCL is missing, its versions differ, or the ranks cannot connect in time.
pub fn exchange(config: &Config, device: Device, comm: &dyn Collective) -> Result<Option<Box<dyn TensorCollective>>> {
    let over_nccl = device.is_cuda() || config.comm.backend == Backend::Nccl;
    if comm.world().size == 1 || !over_nccl {
        return Ok(None);
    }
    let seconds = |n: u64| if n == 0 { Duration::from_secs(u64::from(u32::MAX)) } else { Duration::from_secs(n) };
    let options = NcclOptions {
        init_deadline: seconds(config.comm.init_timeout),
        // The watchdog comes first: it knows who waits for whom.
        deadline: seconds(config.comm.timeout) + Duration::from_secs(60),
        recorder: comm.watchdog().map(|watchdog| Arc::new(watchdog.clone()) as Arc<dyn Recorder + Send + Sync>),
        deterministic: config.comm.deterministic,
        ..NcclOptions::default()
    };
    Ok(Some(Box::new(Nccl::connect(comm, device, &options)?)))
}

impl Recorder for Watchdog {
    fn begin_async(
        &self,
        plane: &'static str,
        op: &'static str,
        bytes: usize,
        poll: Box<dyn Fn() -> Result<bool, String> + Send>,
    ) {
        Watchdog::begin_async(self, plane, op, bytes as u64, poll);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(local_rank: usize, local_size: usize) -> World {
        World { rank: local_rank, size: local_size, local_rank, local_size }
    }

    #[test]
    fn every_rank_has_a_gpu_of_its_own() {
        assert_eq!(index("cuda", at(2, 4), 4, false).unwrap(), 2);
        assert_eq!(index("auto", at(3, 4), 8, false).unwrap(), 3);
        // One visible GPU: the launcher has bound it.
        assert_eq!(index("cuda", at(3, 4), 1, false).unwrap(), 0);
        assert_eq!(index("cuda:1", at(0, 1), 2, false).unwrap(), 1);
        // By intent, several on one.
        assert_eq!(index("cuda", at(3, 4), 2, true).unwrap(), 1);
        assert_eq!(index("cuda:1", at(3, 4), 2, true).unwrap(), 1);
        for (wanted, world, count, why) in [
            ("cuda", at(4, 5), 4, "5 ranks on this node, but 4 GPUs are visible to local rank 4"),
            ("cuda", at(0, 1), 0, "no GPU is visible"),
            ("cuda:2", at(0, 1), 2, "2 GPUs are visible, 0 to 1"),
            ("cuda:0", at(0, 2), 2, "would put 2 ranks of this node on one GPU"),
        ] {
            let message = index(wanted, world, count, false).unwrap_err().to_string();
            assert!(message.contains(why) && message.contains("hint: "), "{message}");
        }
    }

    #[test]
    fn without_a_driver_there_is_the_cpu() {
        assert_eq!(mine("cpu", World::SOLO, false).unwrap(), Device::Cpu);
        if !ffi::has_nvidia_driver() {
            assert_eq!(mine("auto", World::SOLO, false).unwrap(), Device::Cpu);
            let message = mine("cuda", World::SOLO, false).unwrap_err().to_string();
            assert!(message.contains("`polytask doctor` looks for the cause"), "{message}");
            assert_eq!(message.matches("hint: ").count(), 1, "{message}");
        }
    }
}
