//! This rank's share of a checkpoint that all ranks write, and its parts of the states from whatever files hold them.

use super::Learner;
use super::persist::{self, About, File, Gathered, Place, Stored};
use crate::checkpoint::{Archive, CheckpointError, Piece, Share};
use crate::comm::{Collective, CommError};
use crate::world::World;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

/// A copy of what this rank writes, not cut into tensors yet.
pub struct Cut<F> {
    world: World,
    /// File, prefix of the names in it, this rank's shard.
    shards: Vec<(File, String, Vec<F>)>,
    parts: Vec<Part>,
    /// On rank 0: what is not cut.
    rest: Option<Gathered<F>>,
}

/// What lies in a rank's shard of one parameter.
struct Part {
    place: Place,
    /// Place of the first value in the flattened parameter.
    start: usize,
    /// Place in the shard; empty where the rank has nothing of it.
    local: Range<usize>,
}

impl<F: Stored> Cut<F> {
    /// Cuts the vectors into pieces of named tensors.
    pub fn share(self) -> Share {
        let mut pieces = BTreeMap::from([(File::Optim.stem().to_string(), Vec::new())]);
        for (file, prefix, shard) in self.shards {
            let held = self.parts.iter().filter(|part| file != File::Balance || part.place.shared);
            let cut = held.map(|part| Piece {
                name: format!("{prefix}{}", part.place.name),
                shape: part.place.shape.clone(),
                start: part.start,
                data: F::store(&shard[part.local.clone()]),
            });
            pieces.entry(file.stem().to_string()).or_insert_with(Vec::new).extend(cut);
        }
        let (tensors, json) = self.rest.map(Gathered::parts).unwrap_or_default();
        Share { rank: self.world.rank, of: self.world.size, pieces, tensors, json }
    }
}

impl<F: Stored> Learner<F> {
    /// What this rank writes of a checkpoint that all ranks write: what holds training up. Nothing is gathered but
    /// parameters of which a rank has only a part in full precision.
    ///
    /// # Collective
    /// All ranks.
    ///
    /// # Errors
    /// If a collective fails.
    pub fn cut(&self, about: About<'_>, comm: &dyn Collective) -> Result<Cut<F>, CommError> {
        let model = self.parameters_on_main(comm)?;
        let model = model.map(|flat| vec![(File::Model, String::new(), flat)]);
        let rest = model.map(|vectors| self.gathered(vectors, about));
        let shards =
            self.shards().into_iter().map(|(file, name, shard)| (file, format!("{name}."), shard.into_owned()));
        Ok(Cut { world: comm.world(), shards: shards.collect(), parts: self.parts(comm), rest })
    }

    /// Every parameter, with what this rank has of it.
    fn parts(&self, comm: &dyn Collective) -> Vec<Part> {
        let params = &self.model.params;
        let mut parts = Vec::with_capacity(params.entries.len());
        let mut at = 0;
        for segment in &params.segments {
            let block = self.block(&segment.range, comm);
            for entry in params.entries_in(segment).map(|e| &params.entries[e]) {
                let range = entry.range.start.max(block.start)..entry.range.end.min(block.end);
                let (start, local) = match range.is_empty() {
                    true => (0, 0..0),
                    false => {
                        (range.start - entry.range.start, at + range.start - block.start..at + range.end - block.start)
                    }
                };
                parts.push(Part { place: Place::of(params, entry), start, local });
            }
            at += block.len();
        }
        parts
    }

    /// This rank's parts of all states, in the order of [`Self::shards`], read from the files at `dir`.
    ///
    /// # Errors
    /// Tensors that are missing, have another shape, or cannot be read.
    pub(super) fn read_states(&self, dir: &Path, comm: &dyn Collective) -> Result<Vec<Vec<F>>, CheckpointError> {
        let mut archive = Archive::open(dir)?;
        let parts = self.parts(comm);
        let read = |(file, name, len): (File, String, usize)| {
            let mut shard = vec![F::default(); len];
            for part in parts.iter().filter(|part| file != File::Balance || part.place.shared) {
                let name = format!("{name}.{}", part.place.name);
                let path = dir.join(format!("{}.safetensors", file.stem()));
                persist::fits(&name, archive.shape(file.stem(), &name), &part.place.shape, &path)?;
                let range = part.start..part.start + part.local.len();
                shard[part.local.clone()].copy_from_slice(&F::read(&archive.read(file.stem(), &name, range)?));
            }
            Ok(shard)
        };
        let states: Vec<_> = self.shards().into_iter().map(|(file, name, shard)| (file, name, shard.len())).collect();
        states.into_iter().map(read).collect()
    }
}
