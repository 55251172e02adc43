//! Proof at run time that all ranks hold the same parameters.

use crate::comm::Collective;
use crate::config::did_you_mean;
use crate::error::{Error, Result};
use crate::fault;
use crate::ffi;
use crate::model::{Entry, Params};
use tch::{Device, Kind, Tensor};

/// Compares a checksum of every parameter over all ranks. With three ranks or more, those who differ from most of the others
/// are named.
///
/// # Collective
/// All ranks.
///
/// # Errors
/// [`Error::Guard`] on all ranks if they differ: names the rank and the first tensor.
pub fn check_replicas(params: &Params, step: u64, comm: &dyn Collective) -> Result<()> {
    if comm.world().size == 1 {
        return Ok(());
    }
    let sums = checksums(params);
    let all = comm.all_gather_bytes(bytemuck::cast_slice(&sums))?;
    let Some(odd) = odd_ones(&all) else { return Ok(()) };
    let (rank, like) = (odd.ranks[0], &all[odd.like]);
    let first = all[rank].chunks_exact(8).zip(like.chunks_exact(8)).position(|(a, b)| a != b).unwrap_or_default();
    let ranks: Vec<String> = odd.ranks.iter().map(usize::to_string).collect();
    let (s, ranks) = (if ranks.len() == 1 { "" } else { "s" }, ranks.join(", "));
    let others = if odd.most { "of the other ranks".into() } else { format!("of rank {}", odd.like) };
    Err(Error::Guard(format!(
        "step {step}: the parameters of rank{s} {ranks} are not those {others}, first in `{}`\n  hint: a rank computed, \
         received or remembers something else (memory or network error, mixed builds); run again to continue from the last \
         checkpoint, before which the ranks were compared",
        params.entries.get(first).map_or("?", |e| e.name.as_str())
    )))
}

/// Ranks that are unlike the others.
struct Odd {
    ranks: Vec<usize>,
    /// A rank that they are unlike.
    like: usize,
    /// Whether that is how most ranks are.
    most: bool,
}

/// `None`: all are alike. Where no more than half of them are, those who are unlike rank 0.
fn odd_ones(all: &[Vec<u8>]) -> Option<Odd> {
    let alike = |rank: &usize| all.iter().filter(|other| **other == all[*rank]).count();
    let majority = (0..all.len()).find(|rank| 2 * alike(rank) > all.len());
    let like = majority.unwrap_or(0);
    let ranks: Vec<usize> = (0..all.len()).filter(|&rank| all[rank] != all[like]).collect();
    (!ranks.is_empty()).then_some(Odd { ranks, like, most: majority.is_some() })
}

/// Refuses names that no parameter has.
///
/// # Errors
/// [`Error::Usage`] with the nearest name.
pub(super) fn are_there<'n>(params: &Params, mut names: impl Iterator<Item = &'n str>) -> Result<()> {
    let known: Vec<&str> = params.entries.iter().map(|e| e.name.as_str()).collect();
    match names.find(|name| !known.contains(name)) {
        None => Ok(()),
        Some(name) => Err(Error::Usage(format!(
            "{}: no parameter is called `{name}`{}",
            fault::VARIABLE,
            did_you_mean(name, &known).replace("\nhint", "\n  hint")
        ))),
    }
}

/// Changes one bit in the first number of each of these parameters, by far more than an update could hide: for tests.
pub(super) fn flip<'n>(params: &Params, names: impl Iterator<Item = &'n str>) {
    for name in names {
        let Some(entry) = params.entries.iter().find(|e| e.name == name) else { continue };
        // The third bit of the mantissa.
        let (bits, bit) = match params.kind() {
            Kind::Double => (Kind::Int64, 1i64 << 49),
            Kind::BFloat16 => (Kind::Int16, 1 << 4),
            _ => (Kind::Int, 1 << 20),
        };
        let number = params.flat().narrow(0, entry.range.start as i64, 1).view_dtype(bits);
        let flipped = number.bitwise_xor(bit);
        tch::no_grad(|| number.shallow_clone().copy_(&flipped));
    }
}

/// A number per parameter that changes with any of its bits.
fn checksums(params: &Params) -> Vec<u64> {
    if params.device() == Device::Cpu {
        let size = params.kind().elt_size_in_bytes();
        let bytes = ffi::bytes(params.flat());
        let hash = |e: &Entry| crc32fast::hash(&bytes[e.range.start * size..e.range.end * size]).into();
        return params.entries.iter().map(hash).collect();
    }
    // On a device: the bits as integers, added up there. One flipped bit always shows.
    let bits = params.flat().view_dtype(match params.kind() {
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

    fn model(kind: Kind) -> Params {
        let mut b = ParamBuilder::new(kind, Device::Cpu, 1, vec![None, None]);
        for name in ["encoder.a", "encoder.b", "encoder.c"] {
            let _ = b.param(name, &[20], Init::Normal(1.0));
        }
        b.finish(3)
    }

    #[test]
    fn the_odd_ones_are_those_unlike_most_or_else_unlike_rank_0() {
        let odd = |sums: &[u8]| {
            let all: Vec<Vec<u8>> = sums.iter().map(|sum| vec![*sum]).collect();
            odd_ones(&all).map(|odd| (odd.ranks, odd.like, odd.most))
        };
        assert_eq!(odd(&[7, 7, 7]), None);
        assert_eq!(odd(&[7, 7, 1]), Some((vec![2], 0, true)));
        assert_eq!(odd(&[1, 7, 7]), Some((vec![0], 1, true)));
        assert_eq!(odd(&[7, 1, 7, 2, 7]), Some((vec![1, 3], 0, true)));
        assert_eq!(odd(&[7, 1]), Some((vec![1], 0, false)), "two cannot tell who is right");
        assert_eq!(odd(&[1, 7, 7, 1]), Some((vec![1, 2], 0, false)));
    }

    #[test]
    fn a_flipped_bit_is_in_the_named_parameter_of_any_kind_and_nowhere_else() {
        for kind in [Kind::Float, Kind::Double, Kind::BFloat16] {
            let params = model(kind);
            let before = checksums(&params);
            flip(&params, ["encoder.b"].into_iter());
            let changed: Vec<bool> = checksums(&params).iter().zip(&before).map(|(a, b)| a != b).collect();
            assert_eq!(changed, [false, true, false], "{kind:?}");
            assert!(bool::try_from(params.flat().isfinite().all()).unwrap());
            flip(&params, ["encoder.b"].into_iter());
            assert_eq!(checksums(&params), before);
        }
    }

    #[test]
    fn a_parameter_that_is_not_there_is_refused_with_the_nearest_name() {
        let params = model(Kind::Float);
        assert!(are_there(&params, ["encoder.c", "encoder.a"].into_iter()).is_ok());
        let error = are_there(&params, ["encoder.a", "encodr.c"].into_iter()).unwrap_err();
        let words = "POLYTASK_FAULT: no parameter is called `encodr.c`\n  hint: did you mean `encoder.c`?";
        assert_eq!((error.to_string().as_str(), error.exit_code()), (words, 2));
    }

    #[test]
    fn one_flipped_bit_is_found_and_named() {
        let check = |flipped: Option<usize>| {
            Threads::run(3, |comm| {
                let mut params = model(Kind::Float);
                if comm.world().rank == 2
                    && let Some(index) = flipped
                {
                    let flat = ffi::numbers_mut::<f32>(params.flat_mut());
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
                message.starts_with(
                    "step 7: the parameters of rank 2 are not those of the other ranks, first in `encoder.b`"
                ),
                "{message}"
            );
        }
    }
}
