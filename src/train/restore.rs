//! A learner that continues from a checkpoint.

use super::Learner;
use super::persist::{File, RunState, Stored, flat_from, missing};
use crate::checkpoint::{CheckpointError, Snapshot};
use crate::comm::{Collective, agree};
use crate::error::Result;
use serde::Deserialize;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

impl<F: Stored> Learner<F> {
    /// Takes over a snapshot that rank 0 has read; the other ranks pass `None`. Works for any `W`.
    ///
    /// A snapshot without states of the optimizer means that every rank sees the folder: each then reads its own part of all
    /// states from there.
    ///
    /// # Collective
    /// All ranks.
    ///
    /// # Errors
    /// On one rank and then on all: tensors or state that do not fit this model.
    pub fn restore(&mut self, from: Option<(&Path, &Snapshot)>, comm: &dyn Collective) -> Result<RunState> {
        let states_stay = |(_, snapshot): &(&Path, &Snapshot)| !snapshot.tensors.contains_key(File::Optim.stem());
        let place = from.filter(states_stay).map(|(path, _)| std::path::absolute(path).unwrap_or_else(|_| path.into()));
        // A path need not be text; it is never empty.
        let mut place = place.map_or_else(Vec::new, |place| place.into_os_string().into_vec());
        comm.broadcast(&mut place)?;
        let place = (!place.is_empty()).then(|| PathBuf::from(OsString::from_vec(place)));

        let mut names = vec![(File::Model, String::new())];
        if place.is_none() {
            names.extend(self.shards().into_iter().map(|(file, name, _)| (file, name)));
        }
        let (flat, whole, state) = self.brought_by_main(from, &names, comm)?;
        let states = match place {
            Some(dir) => agree(comm, self.read_states(&dir, comm))?,
            None => whole.iter().map(|whole| self.cut_out(whole, comm)).collect(),
        };
        let bad = |message: String| CheckpointError::Bad { path: PathBuf::from("state.json"), message };
        self.balancer.load(&state.balancer).map_err(bad)?;
        self.judge.load(&state.spikes);
        self.optimizer.updates = state.updates;
        let mut states = states;
        let of_shard = states.split_off(self.optimizer.states().len());
        self.take_over(&flat, states);
        if let Some(method) = &mut self.shard {
            method.load(&state.shard).map_err(bad)?;
            for ((_, shard), values) in method.state_mut().into_iter().zip(of_shard) {
                *shard = values;
            }
        }
        Ok(state)
    }

    /// What rank 0 finds in a snapshot, on all ranks: the flat parameters, the other vectors of these names, and the small
    /// state.
    fn brought_by_main(
        &self,
        from: Option<(&Path, &Snapshot)>,
        names: &[(File, String)],
        comm: &dyn Collective,
    ) -> Result<(Vec<F>, Vec<Vec<F>>, RunState)> {
        let loaded = agree(comm, from.map(|f| self.read_snapshot(f, names)).transpose())?;
        let (mut vectors, mut state) = match loaded {
            Some((vectors, state)) => (vectors, serde_json::to_vec(&state).unwrap_or_default()),
            None => (vec![Vec::new(); names.len()], Vec::new()),
        };
        comm.broadcast(&mut state)?;
        for vector in &mut vectors {
            let mut bytes = bytemuck::cast_slice::<F, u8>(vector).to_vec();
            comm.broadcast(&mut bytes)?;
            *vector = bytes.chunks_exact(size_of::<F>()).map(bytemuck::pod_read_unaligned).collect();
        }
        let bad = |e: serde_json::Error| CheckpointError::Bad { path: "state.json".into(), message: e.to_string() };
        let state = serde_json::from_slice(&state).map_err(bad)?;
        let states = vectors.split_off(1);
        Ok((vectors.pop().unwrap_or_default(), states, state))
    }

    /// This rank's shard of a whole vector.
    fn cut_out(&self, whole: &[F], comm: &dyn Collective) -> Vec<F> {
        let segments = self.model.params.segments.iter();
        segments.flat_map(|s| whole[self.block(&s.range, comm)].iter().copied()).collect()
    }

    /// Parameters and optimizer states as flat vectors, and the small state.
    fn read_snapshot(
        &self,
        (path, snapshot): (&Path, &Snapshot),
        names: &[(File, String)],
    ) -> Result<(Vec<Vec<F>>, RunState), CheckpointError> {
        let state = snapshot.json.get("state").ok_or_else(|| missing(path, "state.json"))?;
        let bad = |message| CheckpointError::Bad { path: path.join("state.json"), message };
        let state: RunState = Deserialize::deserialize(state).map_err(|e: serde_json::Error| bad(e.to_string()))?;
        state.check(snapshot.step).map_err(bad)?;
        let vectors = names.iter().map(|(file, name)| {
            let prefix = if name.is_empty() { String::new() } else { format!("{name}.") };
            let stem = file.stem();
            let tensors = snapshot.tensors.get(stem).ok_or_else(|| missing(path, &format!("{stem}.safetensors")))?;
            flat_from::<F>(&self.model.params, *file, tensors, &prefix, &path.join(format!("{stem}.safetensors")))
        });
        Ok((vectors.collect::<Result<_, _>>()?, state))
    }
}
