//! How ranks exchange tensors that live where the model lives.
//!
//! [`Collective`] moves numbers in host memory and decides together; this moves the large rows, in place, on a queue of its
//! own: nothing here waits on the host for a device.
//!
//! * [`OnHost`]: tensors in host memory through the ordinary collective, at once. For tests of everything above it.
//! * `nccl`: tensors on GPUs.

use super::{Collective, CommError, Number};
use crate::ffi::{self, TorchReal};
use crate::world::World;
use tch::{Device, Kind, Tensor};

type Result<T> = std::result::Result<T, CommError>;

/// A place in the queue of exchanges.
pub trait Milestone {
    /// Computation enqueued from now on waits for all exchanges enqueued before the milestone. Those who wait need not be
    /// able to fail: an exchange that fails is told by every later call of the [`TensorCollective`] too.
    ///
    /// # Errors
    /// If the device refuses, or an exchange has failed already.
    fn join(&self) -> Result<()>;
}

/// Exchange of contiguous one-dimensional tensors, in place.
///
/// Exchanges are enqueued, in the order of the calls, on a queue beside that of the computation. [`Self::fork`] and
/// [`Self::join`], or [`Milestone::join`], order the two; between them, a tensor that is being exchanged must not be read, written or freed.
///
/// # Collective
/// Every exchange is called by all ranks, in the same order, with the same lengths and kinds. Sums have the same bits on all
/// ranks that receive them.
pub trait TensorCollective {
    /// This rank's place.
    fn world(&self) -> World;

    /// Exchanges enqueued from now on wait for all computation enqueued so far.
    ///
    /// # Errors
    /// If the device refuses.
    fn fork(&self) -> Result<()>;

    /// Computation enqueued from now on waits for all exchanges enqueued so far.
    ///
    /// # Errors
    /// If the device refuses, or an exchange has failed already.
    fn join(&self) -> Result<()>;

    /// The end of the exchanges enqueued so far, to be waited for later: a [`Self::join`] for these alone.
    ///
    /// # Errors
    /// If the device refuses, or an exchange has failed already.
    fn milestone(&self) -> Result<Box<dyn Milestone>>;

    /// Sums over ranks.
    ///
    /// # Errors
    /// If the exchange cannot be enqueued.
    fn all_reduce(&self, data: &Tensor) -> Result<()>;

    /// Sums over ranks; block `rank` of `W` equal blocks of `data` becomes the sum, the other blocks are undefined
    /// afterwards.
    ///
    /// # Errors
    /// As [`Self::all_reduce`].
    fn reduce_scatter(&self, data: &Tensor) -> Result<()>;

    /// Rank `r`'s block `r` of `data` goes to all ranks.
    ///
    /// # Errors
    /// As [`Self::all_reduce`].
    fn all_gather(&self, data: &Tensor) -> Result<()>;

    /// Rank 0's values replace those of all ranks.
    ///
    /// # Errors
    /// As [`Self::all_reduce`].
    fn broadcast(&self, data: &Tensor) -> Result<()>;

    /// Runs `body`, whose exchanges may be launched together when it ends.
    ///
    /// # Errors
    /// Those of `body`, or of the launch.
    fn grouped(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<()>;

    /// Milliseconds that the queue of exchanges has been busy so far, waits for other ranks included; `None` if nobody
    /// knows. What of it the computation has waited for, it has waited for in [`Self::join`] and [`Milestone::join`].
    fn busy_ms(&self) -> Option<f64> {
        None
    }

    /// Bytes this rank has sent so far, by the formulas of [`Collective::bytes_sent`].
    fn bytes_sent(&self) -> u64;
}

/// Tensors in host memory, exchanged at once by the ordinary collective.
pub struct OnHost<'a>(pub &'a dyn Collective);

impl OnHost<'_> {
    fn of_kind(
        &self,
        op: &'static str,
        data: &Tensor,
        f32s: impl FnOnce(&mut [f32]) -> Result<()>,
        f64s: impl FnOnce(&mut [f64]) -> Result<()>,
    ) -> Result<()> {
        if data.device() != Device::Cpu {
            let reason = format!("a tensor on {:?} needs an exchange between devices (NCCL)", data.device());
            return Err(CommError::Failed { op, reason });
        }
        let mut data = data.shallow_clone();
        match data.kind() {
            Kind::Float => f32s(ffi::numbers_mut(&mut data)),
            Kind::Double => f64s(ffi::numbers_mut(&mut data)),
            // Sums of halves are made as a device makes them: each rank's numbers rounded before, the sum after.
            Kind::BFloat16 => {
                let mut wide = data.to_kind(Kind::Float);
                f32s(ffi::numbers_mut(&mut wide))?;
                tch::no_grad(|| data.copy_(&wide));
                Ok(())
            }
            kind => Err(CommError::Failed { op, reason: format!("tensors of {kind:?} cannot be exchanged") }),
        }
    }
}

/// Where exchanges are done at once, there is nothing to wait for.
struct Done;

impl Milestone for Done {
    fn join(&self) -> Result<()> {
        Ok(())
    }
}

/// Block `rank` of the sum over ranks, in place.
fn scatter<F: TorchReal + Number>(comm: &dyn Collective, data: &mut [F]) -> Result<()> {
    let world = comm.world();
    let len = data.len() / world.size;
    let mut block = vec![F::default(); len];
    F::reduce_scatter(comm, data, &mut block)?;
    data[world.rank * len..(world.rank + 1) * len].copy_from_slice(&block);
    Ok(())
}

/// Rank 0's bytes on all ranks.
fn spread<F: bytemuck::Pod>(comm: &dyn Collective, data: &mut [F]) -> Result<()> {
    let mut bytes = bytemuck::cast_slice(data).to_vec();
    comm.broadcast(&mut bytes)?;
    bytemuck::cast_slice_mut::<F, u8>(data).copy_from_slice(&bytes);
    Ok(())
}

impl TensorCollective for OnHost<'_> {
    fn world(&self) -> World {
        self.0.world()
    }
    fn fork(&self) -> Result<()> {
        Ok(())
    }
    fn join(&self) -> Result<()> {
        Ok(())
    }
    fn milestone(&self) -> Result<Box<dyn Milestone>> {
        Ok(Box::new(Done))
    }
    fn all_reduce(&self, data: &Tensor) -> Result<()> {
        self.of_kind("all_reduce", data, |x| f32::all_reduce(self.0, x), |x| f64::all_reduce(self.0, x))
    }
    fn reduce_scatter(&self, data: &Tensor) -> Result<()> {
        self.of_kind("reduce_scatter", data, |x| scatter(self.0, x), |x| scatter(self.0, x))
    }
    fn all_gather(&self, data: &Tensor) -> Result<()> {
        self.of_kind("all_gather", data, |x| f32::all_gather(self.0, x), |x| f64::all_gather(self.0, x))
    }
    fn broadcast(&self, data: &Tensor) -> Result<()> {
        self.of_kind("broadcast", data, |x| spread(self.0, x), |x| spread(self.0, x))
    }
    fn grouped(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        body()
    }
    fn bytes_sent(&self) -> u64 {
        self.0.bytes_sent()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::Threads;

    #[test]
    fn tensors_of_every_kind_are_exchanged_in_place() {
        for kind in [Kind::Float, Kind::Double, Kind::BFloat16] {
            let all = Threads::run(3, |comm| {
                let tensors = OnHost(&comm);
                let mine = || {
                    Tensor::from_slice(&[1.0, 2.0, 4.0, 8.0, 16.0, 32.0]).to_kind(kind)
                        * (comm.world().rank as f64 + 1.0)
                };
                let (sum, scattered, first) = (mine(), mine(), mine());
                tensors.all_reduce(&sum).unwrap();
                tensors.reduce_scatter(&scattered).unwrap();
                tensors.all_gather(&scattered).unwrap();
                tensors.broadcast(&first).unwrap();
                [sum, scattered, first].map(|t| Vec::<f64>::try_from(t.to_kind(Kind::Double)).unwrap())
            });
            for [sum, scattered, first] in all {
                assert_eq!(sum, [6.0, 12.0, 24.0, 48.0, 96.0, 192.0]);
                assert_eq!(scattered, sum);
                assert_eq!(first, [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]);
            }
        }
        let error = OnHost(&crate::comm::Solo).all_reduce(&Tensor::from_slice(&[1i64])).unwrap_err();
        assert_eq!(error.to_string(), "all_reduce failed: tensors of Int64 cannot be exchanged");
    }
}
