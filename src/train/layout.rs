//! Who writes checkpoints: rank 0 alone, or every rank its own states.

use crate::checkpoint::make_root;
use crate::comm::{Collective, CommError};
use crate::config::{Config, Layout, Reduction};
use crate::error::{Error, Result};
use crate::files::create_anew;
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Start of the name of the file by which ranks find out whether they see the same folder.
const PROBE: &str = ".probe-";

/// Whether every rank writes its own states.
///
/// # Collective
/// All ranks.
///
/// # Errors
/// If the configuration wants it and the ranks do not see the same folder; or a collective fails.
pub(super) fn is_sharded(config: &Config, comm: &dyn Collective) -> Result<bool> {
    let layout = config.checkpoint.layout;
    let has_shards = comm.world().size > 1 && config.comm.reduction == Reduction::Sharded;
    if layout == Layout::Whole || !has_shards {
        return Ok(false);
    }
    let root = config.run.dir().join("checkpoints");
    match (blind(&root, comm)?, layout) {
        (None, _) => Ok(true),
        (Some((rank, words)), Layout::Sharded) => Err(Error::Usage(format!(
            "`checkpoint.layout: sharded` lets every rank write into {}, and rank {rank} does not see what rank 0 writes there: \
             {words}\n  hint: put `run.dir` on a file system that all nodes share, or leave `checkpoint.layout` out: rank 0 then \
             writes everything",
            root.display()
        ))),
        (Some((rank, words)), _) => {
            tracing::debug!("rank 0 writes all of a checkpoint: rank {rank} does not see its files: {words}");
            Ok(false)
        }
    }
}

/// The first rank that cannot read and write where rank 0 does, and why; `None`: all can.
fn blind(root: &Path, comm: &dyn Collective) -> std::result::Result<Option<(usize, String)>, CommError> {
    let probe = comm.world().is_main().then(|| Probe::lay(root));
    let mut word = match &probe {
        Some(Ok(probe)) => probe.word.clone().into_bytes(),
        _ => Vec::new(),
    };
    comm.broadcast(&mut word)?;
    let mine = match &probe {
        Some(Err(e)) => e.to_string(),
        _ if word.is_empty() => "rank 0 cannot write there".into(),
        _ => look(root, &String::from_utf8_lossy(&word), comm.world().rank)
            .err()
            .map_or_else(String::new, |e| e.to_string()),
    };
    let all = comm.all_gather_bytes(mine.as_bytes())?;
    let first = all.iter().position(|words| !words.is_empty());
    Ok(first.map(|rank| (rank, String::from_utf8_lossy(&all[rank]).into_owned())))
}

/// A file of rank 0 with a word that nobody can know otherwise; gone when this is.
struct Probe {
    path: PathBuf,
    word: String,
}

impl Probe {
    fn lay(root: &Path) -> std::io::Result<Probe> {
        make_root(root).map_err(std::io::Error::other)?;
        // What a killed job has left; this one has the run directory to itself.
        for old in fs::read_dir(root)?.flatten().filter(|e| e.file_name().to_string_lossy().starts_with(PROBE)) {
            fs::remove_file(old.path())?;
        }
        let word = format!("{:016x}", RandomState::new().build_hasher().finish());
        let probe = Probe { path: root.join(format!("{PROBE}{word}")), word };
        create_anew(&probe.path)?.write_all(probe.word.as_bytes())?;
        Ok(probe)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // What stays is removed by the next start.
        let _ = fs::remove_file(&self.path);
    }
}

/// Reads rank 0's word, and tries to write beside it.
fn look(root: &Path, word: &str, rank: usize) -> std::io::Result<()> {
    let path = root.join(format!("{PROBE}{word}"));
    let of = |source: std::io::Error| std::io::Error::new(source.kind(), format!("{}: {source}", path.display()));
    if fs::read_to_string(&path).map_err(of)? != word {
        return Err(std::io::Error::other(format!("{}: holds something else", path.display())));
    }
    let mine = root.join(format!("{PROBE}{word}-{rank}"));
    create_anew(&mine)?.write_all(word.as_bytes())?;
    fs::remove_file(&mine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::Threads;

    fn config(dir: &Path, extra: &str) -> Config {
        let text = format!(
            "run: {{name: a, dir: {:?}}}
data: {{sources: {{s: {{csv: {{train: a.csv, numeric: [x]}}}}}}}}
tasks: {{t: {{source: s, target: y, kind: binary}}}}
model: {{encoder: mlp}}
train: {{epochs: 1}}
{extra}",
            dir.display().to_string()
        );
        crate::config::load_str("test.yaml", &text, &[]).unwrap()
    }

    /// Every rank with a run directory of its own, as on nodes that share nothing.
    fn on(size: usize, dirs: &[&Path], extra: &str) -> Vec<Result<bool>> {
        Threads::run(size, |comm| is_sharded(&config(dirs[comm.world().rank % dirs.len()], extra), &comm))
    }

    #[test]
    fn ranks_that_see_the_same_folder_write_into_it_and_leave_nothing_of_the_probe() {
        let root = tempfile::tempdir().unwrap();
        let run = root.path().join("run");
        fs::create_dir_all(run.join("checkpoints")).unwrap();
        fs::write(run.join("checkpoints/.probe-old"), "of a killed job").unwrap();
        assert!(on(3, &[&run], "").into_iter().all(|sharded| sharded.unwrap()));
        assert_eq!(fs::read_dir(run.join("checkpoints")).unwrap().count(), 0);
        for extra in ["checkpoint: {layout: whole}", "comm: {reduction: all_reduce}"] {
            assert!(on(2, &[&run], extra).into_iter().all(|sharded| !sharded.unwrap()), "{extra}");
        }
        assert!(on(1, &[&run], "checkpoint: {layout: sharded}").into_iter().all(|sharded| !sharded.unwrap()));
    }

    #[test]
    fn where_a_rank_does_not_see_the_folder_rank_0_writes_or_the_run_is_refused() {
        let roots = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let dirs = [roots[0].path(), roots[1].path()];
        assert!(on(2, &dirs, "").into_iter().all(|sharded| !sharded.unwrap()));
        for refused in on(2, &dirs, "checkpoint: {layout: sharded}") {
            let error = refused.unwrap_err();
            let words = error.to_string();
            assert!(!error.is_local() && error.exit_code() == 2);
            assert!(
                words.contains("rank 1 does not see what rank 0 writes there: ") && words.contains("\n  hint: "),
                "{words}"
            );
        }
        // Another file system under the same names.
        let file = roots[0].path().join("file");
        fs::write(&file, "").unwrap();
        let refused = on(2, &[&file], "checkpoint: {layout: sharded}").swap_remove(0).unwrap_err().to_string();
        assert!(refused.contains("rank 0 does not see"), "{refused}");
        assert!(on(2, &[&file], "").into_iter().all(|sharded| !sharded.unwrap()));
    }

    #[test]
    fn another_word_under_the_same_name_is_another_folder() {
        let root = tempfile::tempdir().unwrap();
        let probe = Probe::lay(root.path()).unwrap();
        look(root.path(), &probe.word, 1).unwrap();
        fs::write(&probe.path, "something else").unwrap();
        assert!(look(root.path(), &probe.word, 1).unwrap_err().to_string().ends_with("holds something else"));
    }
}
