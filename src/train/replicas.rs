//! Proof at run time that all ranks hold the same parameters.

use super::persist::Stored;
use crate::comm::Collective;
use crate::error::{Error, Result};
use crate::ffi;
use crate::model::Params;

/// Compares a checksum of every parameter over all ranks.
///
/// # Collective
/// All ranks.
///
/// # Errors
/// [`Error::Guard`] on all ranks if any differs from rank 0: names the rank and the first tensor.
pub fn check_replicas<F: Stored>(params: &Params, step: u64, comm: &dyn Collective) -> Result<()> {
    if comm.world().size == 1 {
        return Ok(());
    }
    let flat = ffi::numbers::<F>(&params.flat);
    let sums: Vec<u32> =
        params.entries.iter().map(|e| crc32fast::hash(bytemuck::cast_slice(&flat[e.range.clone()]))).collect();
    let all = comm.all_gather_bytes(bytemuck::cast_slice(&sums))?;
    let Some(rank) = all.iter().position(|other| *other != all[0]) else { return Ok(()) };
    let first = all[rank].chunks_exact(4).zip(all[0].chunks_exact(4)).position(|(a, b)| a != b).unwrap_or_default();
    Err(Error::Guard(format!(
        "step {step}: the parameters of rank {rank} are not those of rank 0, first in `{}`\n  hint: a rank computed or \
         received something else (memory or network error, mixed builds); the last checkpoint is good, run again to \
         continue from it",
        params.entries.get(first).map_or("?", |e| e.name.as_str())
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::Threads;
    use crate::model::{Init, ParamBuilder};
    use tch::{Device, Kind};

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
                check_replicas::<f32>(&params, 7, &comm).map_err(|e| e.to_string())
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
