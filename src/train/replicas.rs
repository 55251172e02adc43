//! Proof at run time that all ranks hold the same parameters.

use crate::comm::Collective;
use crate::error::{Error, Result};
use crate::ffi;
use crate::model::{Entry, Params};
use tch::{Device, Kind, Tensor};

/// Compares a checksum of every parameter over all ranks.
///
/// # Collective
/// All ranks.
///
/// # Errors
/// [`Error::Guard`] on all ranks if any differs from rank 0: names the rank and the first tensor.
pub fn check_replicas(params: &Params, step: u64, comm: &dyn Collective) -> Result<()> {
    if comm.world().size == 1 {
        return Ok(());
    }
    let sums = checksums(params);
    let all = comm.all_gather_bytes(bytemuck::cast_slice(&sums))?;
    let Some(rank) = all.iter().position(|other| *other != all[0]) else { return Ok(()) };
    let first = all[rank].chunks_exact(8).zip(all[0].chunks_exact(8)).position(|(a, b)| a != b).unwrap_or_default();
    Err(Error::Guard(format!(
        "step {step}: the parameters of rank {rank} are not those of rank 0, first in `{}`\n  hint: a rank computed or \
         received something else (memory or network error, mixed builds); the last checkpoint is good, run again to \
         continue from it",
        params.entries.get(first).map_or("?", |e| e.name.as_str())
    )))
}

/// A number per parameter that changes with any of its bits.
fn checksums(params: &Params) -> Vec<u64> {
    if params.flat.device() == Device::Cpu {
        let size = params.flat.kind().elt_size_in_bytes();
        let bytes = ffi::bytes(&params.flat);
        let hash = |e: &Entry| crc32fast::hash(&bytes[e.range.start * size..e.range.end * size]).into();
        return params.entries.iter().map(hash).collect();
    }
    // On a device: the bits as integers, added up there. One flipped bit always shows.
    let bits = params.flat.view_dtype(match params.flat.kind() {
        Kind::Double => Kind::Int64,
        Kind::BFloat16 => Kind::Int16,
        _ => Kind::Int,
    });
    let sum = |e: &Entry| bits.narrow(0, e.range.start as i64, e.range.len() as i64).sum(Kind::Int64);
    let sums = Tensor::stack(&params.entries.iter().map(sum).collect::<Vec<_>>(), 0);
    Vec::<i64>::try_from(sums.to_device(Device::Cpu)).unwrap_or_default().into_iter().map(|x| x as u64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::Threads;
    use crate::model::{Init, ParamBuilder};

    #[test]
    fn one_flipped_bit_is_found_and_named() {
        let check = |flipped: Option<usize>| {
            Threads::run(3, |comm| {
                let mut b = ParamBuilder::new(Kind::Float, Device::Cpu, 1, vec![None, None]);
                for name in ["encoder.a", "encoder.b", "encoder.c"] {
                    let _ = b.param(name, &[20], Init::Normal(1.0));
                }
                let mut params = b.finish(3);
                if comm.world().rank == 2
                    && let Some(index) = flipped
                {
                    let flat = ffi::numbers_mut::<f32>(&mut params.flat);
                    flat[index] = f32::from_bits(flat[index].to_bits() ^ 1);
                }
                check_replicas(&params, 7, &comm).map_err(|e| e.to_string())
            })
        };
        assert!(check(None).iter().all(Result::is_ok));
        // "encoder.b" starts at 32, the next multiple of 16.
        for result in check(Some(40)) {
            let message = result.unwrap_err();
            assert!(
                message.starts_with("step 7: the parameters of rank 2 are not those of rank 0, first in `encoder.b`")
            );
        }
    }
}
