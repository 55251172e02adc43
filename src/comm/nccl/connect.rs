//! Joining: the ranks agree on every stage, so that all come through or all fail with the same words.

use super::checked::Comm;
use super::communicator::Nccl;
use super::environment::make_deterministic;
use super::error::NcclError;
use super::library::Library;
use super::queue::Queue;
use super::raw::UniqueId;
use super::roster::{Entry, objection};
use super::{NcclOptions, raw};
use crate::comm::{Collective, CommError};
use crate::cuda::Cuda;
use tch::{Device, Kind, Tensor};

/// What a rank has found before it talks to the others.
struct Prepared {
    library: &'static Library,
    queue: Queue,
    entry: Entry,
}

/// What one rank says of a stage: something, or why not.
#[derive(serde::Serialize, serde::Deserialize)]
enum Word<T> {
    Fine(T),
    Failed { words: String, timed_out: bool },
}

impl Nccl {
    /// Joins all ranks of `control` in a communicator whose tensors live on `device`. Every stage is agreed upon over
    /// `control`, which is not needed afterwards.
    ///
    /// `Device::Cpu` is allowed with the stand-in library of the tests alone.
    ///
    /// # Collective
    /// All ranks. It returns when all have joined, or fails on all.
    ///
    /// # Errors
    /// [`CommError::Launch`] on all ranks, with the words of the rank where it began: the library is absent, too old or
    /// different, a GPU cannot be used or is shared, or the communicator did not come about within
    /// [`NcclOptions::init_deadline`]. [`CommError::Failed`] if `control` fails.
    pub fn connect(control: &dyn Collective, device: Device, options: &NcclOptions) -> Result<Nccl, CommError> {
        let world = control.world();
        let prepared = prepare(device, options);
        let entries = agree(control, prepared.as_ref().map(|found| found.entry.clone()))?;
        if let Some(objection) = objection(&entries) {
            return Err(CommError::Launch(objection));
        }
        let Prepared { library, queue, .. } = prepared.map_err(|error| CommError::Launch(error.to_string()))?;
        let id = share_id(control, library)?;
        let comm = Comm::join(library, id, world, options.init_deadline);
        if let Err(error) = &comm {
            // The others may wait for this rank until their deadline: say it now.
            tracing::warn!("rank {} cannot join the NCCL communicator: {error}", world.rank);
        }
        agree(control, comm.as_ref().map(|_| ()))?;
        let comm = comm.map_err(|error| CommError::Launch(error.to_string()))?;
        Ok(Nccl::new(world, device, comm, queue, options))
    }
}

fn prepare(device: Device, options: &NcclOptions) -> Result<Prepared, NcclError> {
    if options.deterministic {
        make_deterministic()?;
    }
    if std::env::var_os("NCCL_COMM_BLOCKING").is_some_and(|value| value == "1") {
        tracing::warn!("NCCL_COMM_BLOCKING=1 makes NCCL wait in its calls: a rank that hangs there cannot say so");
    }
    match device {
        Device::Cuda(index) => on_gpu(index, options),
        Device::Cpu => on_host(options),
        other => Err(NcclError::Setup(format!("NCCL exchanges tensors on GPUs, not on {other:?}"))),
    }
}

fn on_gpu(index: usize, options: &NcclOptions) -> Result<Prepared, NcclError> {
    let cuda = Cuda::load()?; // first: it brings libtorch's NCCL into memory
    let count = cuda.device_count()?;
    if index >= count {
        return Err(NcclError::Setup(format!(
            "GPU {index} was asked for, {count} are visible\n  hint: start at most one process per GPU; look at \
             CUDA_VISIBLE_DEVICES"
        )));
    }
    // libtorch makes its context before anybody else needs one.
    Tensor::f_zeros([1], (Kind::Float, Device::Cuda(index)))
        .map(drop)
        .map_err(|error| NcclError::Setup(format!("GPU {index} cannot be used: {error}")))?;
    cuda.set_device(index)?;
    let library = Library::open(options.library.as_deref())?;
    let entry = Entry::new(library.version(), Some(cuda.pci_bus_id(index)?));
    Ok(Prepared { library, queue: Queue::new(cuda, index, false)?, entry })
}

fn on_host(options: &NcclOptions) -> Result<Prepared, NcclError> {
    let library = Library::open(options.library.as_deref())?;
    let Some(stand_in) = &library.stand_in else {
        return Err(NcclError::Setup(format!(
            "NCCL exchanges tensors on GPUs, not in host memory ({})\n  hint: ranks without GPUs exchange over MPI",
            library.path()
        )));
    };
    stand_in.cuda.set_device(0)?;
    let entry = Entry::new(library.version(), stand_in.bus_id.clone());
    Ok(Prepared { library, queue: Queue::new(stand_in.cuda, 0, true)?, entry })
}

/// Rank 0 makes the id of the communicator.
fn share_id(control: &dyn Collective, library: &Library) -> Result<UniqueId, CommError> {
    let made = if control.world().is_main() { library.unique_id() } else { Ok(UniqueId([0; raw::ID_BYTES])) };
    agree(control, made.as_ref().map(|_| ()))?;
    let mut bytes = made.map_or_else(|_| Vec::new(), |id| id.0.to_vec());
    control.broadcast(&mut bytes)?;
    let found = bytes.len();
    let id = bytes.try_into().map_err(|_| CommError::Failed {
        op: "broadcast",
        reason: format!("the id of the NCCL communicator has {found} bytes, expected {}", raw::ID_BYTES),
    })?;
    Ok(UniqueId(id))
}

/// What all ranks say, or the failure where it began: that of the lowest rank, time-outs last, since they follow from
/// the failure of another rank.
fn agree<T>(control: &dyn Collective, mine: Result<T, &NcclError>) -> Result<Vec<T>, CommError>
where
    T: serde::Serialize + serde::de::DeserializeOwned,
{
    let mine = mine.map_or_else(
        |error| Word::Failed { words: error.to_string(), timed_out: matches!(error, NcclError::TimedOut { .. }) },
        Word::Fine,
    );
    let garbled = |reason: serde_json::Error| CommError::Failed { op: "all_gather_bytes", reason: reason.to_string() };
    let bytes = control.all_gather_bytes(&serde_json::to_vec(&mine).map_err(garbled)?)?;
    let words: Vec<Word<T>> =
        bytes.iter().map(|word| serde_json::from_slice(word)).collect::<Result<_, _>>().map_err(garbled)?;
    let mut failures: Vec<(bool, usize, &str)> = Vec::new();
    for (rank, word) in words.iter().enumerate() {
        if let Word::Failed { words, timed_out } = word {
            failures.push((*timed_out, rank, words));
        }
    }
    match failures.iter().min() {
        None => {
            Ok(words.into_iter().filter_map(|word| if let Word::Fine(it) = word { Some(it) } else { None }).collect())
        }
        Some((_, rank, words)) if *rank == control.world().rank => Err(CommError::Launch((*words).to_owned())),
        Some((_, rank, words)) => Err(CommError::Launch(format!("rank {rank}: {words}"))),
    }
}
