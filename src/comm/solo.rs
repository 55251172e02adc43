//! A world of one: every sum is already there.

use super::{Collective, CommError};
use crate::world::World;

/// The collective of a single rank.
#[derive(Debug, Clone, Copy, Default)]
pub struct Solo;

type Result<T> = std::result::Result<T, CommError>;

impl Collective for Solo {
    fn world(&self) -> World {
        World::SOLO
    }
    fn barrier(&self) -> Result<()> {
        Ok(())
    }
    fn all_reduce_f64(&self, _: &mut [f64]) -> Result<()> {
        Ok(())
    }
    fn all_reduce_f32(&self, _: &mut [f32]) -> Result<()> {
        Ok(())
    }
    fn reduce_scatter_f32(&self, send: &[f32], recv: &mut [f32]) -> Result<()> {
        recv.copy_from_slice(send);
        Ok(())
    }
    fn reduce_scatter_f64(&self, send: &[f64], recv: &mut [f64]) -> Result<()> {
        recv.copy_from_slice(send);
        Ok(())
    }
    fn all_gather_f32(&self, _: &mut [f32]) -> Result<()> {
        Ok(())
    }
    fn all_gather_f64(&self, _: &mut [f64]) -> Result<()> {
        Ok(())
    }
    fn broadcast(&self, _: &mut Vec<u8>) -> Result<()> {
        Ok(())
    }
    fn broadcast_f64(&self, _: &mut [f64]) -> Result<()> {
        Ok(())
    }
    fn all_gather_bytes(&self, data: &[u8]) -> Result<Vec<Vec<u8>>> {
        Ok(vec![data.to_vec()])
    }
    #[allow(clippy::disallowed_methods)] // no other rank, nothing to flush: this is the abort itself
    fn abort(&self, code: u8) -> ! {
        std::process::exit(code.into())
    }
    fn bytes_sent(&self) -> u64 {
        0
    }
}
