//! Crash safety, damage, fallback and pruning of whole checkpoint folders.

use super::*;
use proptest::prelude::*;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use tempfile::TempDir;

/// A small snapshot that differs by step and by `salt`.
fn snapshot(step: u64, salt: f64) -> Snapshot {
    let tensor = |name: &str, shape: &[usize], data| NamedTensor { name: name.into(), shape: shape.to_vec(), data };
    let model = vec![
        tensor("encoder.layers.0.weight", &[2, 2], Floats::F32(vec![1.0, -0.0, step as f32, salt as f32])),
        tensor("encoder.layers.0.bias", &[2], Floats::F64(vec![0.1, 1e-300])),
    ];
    let optim = vec![tensor("m", &[1], Floats::F32(vec![0.5]))];
    let state = serde_json::json!({ "best": 0.1 + 0.2, "nested": { "b": 1, "a": [1, 2.5, null, "x"] } });
    Snapshot {
        step,
        tensors: [("model".to_string(), model), ("optim".to_string(), optim)].into(),
        json: [("state".to_string(), state), ("config".to_string(), serde_json::json!("run: x"))].into(),
    }
}

fn root() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn names(root: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn found(root: &Path) -> Found {
    latest(root).unwrap().expect("a checkpoint")
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

#[test]
fn what_is_written_comes_back() {
    let root = root();
    assert_eq!(latest(&root.path().join("none")).unwrap(), None);
    assert_eq!(latest(root.path()).unwrap(), None);
    let nested = root.path().join("runs/a/checkpoints");
    let path = write(&nested, &snapshot(1200, 0.0)).unwrap();
    assert_eq!(path, nested.join("step_00001200"));
    assert_eq!(names(&nested), ["latest", "step_00001200"]);
    let files = ["MANIFEST.json", "config.json", "model.safetensors", "optim.safetensors", "state.json"];
    assert_eq!(names(&path), files);
    assert_eq!(fs::read_to_string(nested.join("latest")).unwrap(), "step_00001200\n");
    assert_eq!(read(&path).unwrap(), snapshot(1200, 0.0));
    assert_eq!(verify(&path).unwrap(), 1200);
    assert_eq!(found(&nested), Found { path, snapshot: snapshot(1200, 0.0), warnings: vec![] });
}

/// Runs a write that crashes at the `k`-th point; tells whether it got that far.
fn crash_at(root: &Path, snapshot: &Snapshot, k: usize) -> Option<Point> {
    let (mut count, mut crashed) = (0, None);
    let result = write_with(root, snapshot, &mut |point| {
        count += 1;
        if count <= k {
            return Ok(());
        }
        crashed = Some(point);
        Err(io::Error::other("crash"))
    });
    assert_eq!(result.is_err(), crashed.is_some());
    crashed
}

/// Crashes a write of `new` at every point, over the checkpoints that `prepare` makes; at each, what is found must be
/// one of `valid`, and writing again must heal everything.
fn crash_everywhere(prepare: impl Fn(&Path), new: &Snapshot, valid: &[Option<&Snapshot>]) -> Vec<Point> {
    let mut points = Vec::new();
    for k in 0.. {
        let root = root();
        prepare(root.path());
        let Some(point) = crash_at(root.path(), new, k) else { break };
        points.push(point);
        let found_now = latest(root.path()).unwrap().map(|found| found.snapshot);
        assert!(valid.contains(&found_now.as_ref()), "after a crash at {point:?}: {:?}", names(root.path()));
        if point >= Point::PointerPlaced {
            assert_eq!(found_now.as_ref(), Some(new), "after {point:?}");
        }
        write(root.path(), new).unwrap();
        let healed = found(root.path());
        assert_eq!((&healed.snapshot, healed.warnings), (new, vec![]), "healed after {point:?}");
        prune(root.path(), Keep::last(1)).unwrap();
        assert_eq!(names(root.path()), ["latest".to_string(), folder::name(new.step)], "pruned after {point:?}");
        assert_eq!(found(root.path()).snapshot, *new);
    }
    points
}

#[test]
fn a_crash_of_the_first_write_leaves_nothing_or_the_new_one() {
    let new = snapshot(10, 0.0);
    let points = crash_everywhere(|_| {}, &new, &[None, Some(&new)]);
    use Point::*;
    let files = [FileFilled, FileWritten].repeat(4);
    let end = [AllWritten, FileFilled, ManifestWritten, TempSynced, Renamed, RootSynced];
    let expected = [&[TempMade][..], &files, &end].concat();
    assert_eq!(points, [&expected[..], &[PointerWritten, PointerPlaced, Done]].concat());
}

#[test]
fn a_crash_of_a_later_write_leaves_the_old_one_or_the_new_one() {
    let (old, new) = (snapshot(10, 0.0), snapshot(20, 0.0));
    let prepare = |root: &Path| drop(write(root, &old).unwrap());
    crash_everywhere(prepare, &new, &[Some(&old), Some(&new)]);
}

#[test]
fn a_crash_while_the_same_step_is_replaced_leaves_the_old_one_or_the_new_one() {
    let (old, new) = (snapshot(10, 0.0), snapshot(10, 1.0));
    let prepare = |root: &Path| drop(write(root, &old).unwrap());
    let points = crash_everywhere(prepare, &new, &[Some(&old), Some(&new)]);
    assert!(points.contains(&Point::OldMovedAside));
}

#[test]
fn a_crash_while_a_damaged_step_is_replaced_leaves_the_one_before_or_the_new_one() {
    let (old, new) = (snapshot(5, 0.0), snapshot(10, 0.0));
    let prepare = |root: &Path| {
        write(root, &old).unwrap();
        let path = write(root, &snapshot(10, 1.0)).unwrap();
        flip(&path.join("model.safetensors"), 200);
    };
    let points = crash_everywhere(prepare, &new, &[Some(&old), Some(&new)]);
    assert!(points.contains(&Point::OldMovedAside));
}

#[test]
fn writing_the_same_step_again_does_nothing() {
    let root = root();
    let path = write(root.path(), &snapshot(10, 0.0)).unwrap();
    let before = fs::metadata(path.join("MANIFEST.json")).unwrap().modified().unwrap();
    assert_eq!(write(root.path(), &snapshot(10, 0.0)).unwrap(), path);
    assert_eq!(fs::metadata(path.join("MANIFEST.json")).unwrap().modified().unwrap(), before);
    assert_eq!(names(root.path()), ["latest", "step_00000010"]);
}

/// The newest of two checkpoints has this file damaged: the reader must name the file and fall back.
fn must_fall_back(root: &Path, file: &Path) {
    let error = read(&root.join("step_00000020")).unwrap_err().to_string();
    assert!(error.starts_with(&file.display().to_string()), "{error}");
    let found = found(root);
    assert_eq!(found.snapshot, snapshot(10, 0.0));
    assert_eq!(found.warnings, [error]);
}

#[test]
fn a_checkpoint_that_the_disk_does_not_give_is_not_passed_over() {
    let root = root();
    let root = root.path();
    write(root, &snapshot(10, 0.0)).unwrap();
    write(root, &snapshot(20, 0.0)).unwrap();
    let judged = |kind: io::ErrorKind| {
        let mut candidates = Candidates::below(root).unwrap();
        let path = candidates.next().unwrap();
        candidates.judge(path.clone(), Err(CheckpointError::Io { path, source: kind.into() }))
    };
    // Gone or cut off: the one before will do.
    for kind in [io::ErrorKind::NotFound, io::ErrorKind::UnexpectedEof, io::ErrorKind::IsADirectory] {
        assert!(matches!(judged(kind), Ok(None)), "{kind:?}");
    }
    for kind in [io::ErrorKind::StaleNetworkFileHandle, io::ErrorKind::TimedOut, io::ErrorKind::PermissionDenied] {
        let error = judged(kind).unwrap_err().to_string();
        assert!(error.contains("step_00000020: ") && error.contains("hint: run the same command again"), "{error}");
    }
}

#[test]
fn a_read_that_fails_once_is_no_damage_whatever_a_parser_made_of_it() {
    struct Once(bool);
    impl io::Read for Once {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            if std::mem::take(&mut self.0) { Err(io::Error::from_raw_os_error(libc::ESTALE)) } else { Ok(0) }
        }
    }
    for fails in [false, true] {
        let mut input = durable::HashReader::new(Once(fails));
        assert_eq!(io::Read::read_to_string(&mut input, &mut String::new()).is_err(), fails);
        let error = input.finish().err().map(|e| e.kind());
        assert_eq!(error, fails.then_some(io::ErrorKind::StaleNetworkFileHandle));
    }
}

#[test]
fn every_flipped_bit_and_every_cut_is_refused_with_the_name_of_the_file() {
    let root = root();
    let root = root.path();
    write(root, &snapshot(10, 0.0)).unwrap();
    let path = write(root, &snapshot(20, 0.0)).unwrap();
    for file in names(&path).iter().map(|name| path.join(name)) {
        let kept = fs::read(&file).unwrap();
        let open = fs::OpenOptions::new().write(true).open(&file).unwrap();
        for (at, byte) in kept.iter().enumerate() {
            open.write_all_at(&[byte ^ (1 << (at % 8))], at as u64).unwrap();
            must_fall_back(root, &file);
            open.write_all_at(&[*byte], at as u64).unwrap();
            open.set_len(at as u64).unwrap();
            must_fall_back(root, &file);
            open.write_all_at(&kept[at..], at as u64).unwrap();
        }
        open.write_all_at(b" ", kept.len() as u64).unwrap();
        must_fall_back(root, &file);
        fs::remove_file(&file).unwrap();
        must_fall_back(root, &file);
        fs::write(&file, kept).unwrap();
    }
    assert_eq!(found(root).snapshot, snapshot(20, 0.0));
}

#[test]
fn messages_say_what_is_wrong() {
    let root = root();
    let path = write(root.path(), &snapshot(10, 0.0)).unwrap();
    let model = path.join("model.safetensors");
    let bytes = fs::read(&model).unwrap();
    fs::write(&model, &bytes[..100]).unwrap();
    let expected = format!("{}: damaged: 100 bytes, expected {}", model.display(), bytes.len());
    assert_eq!(read(&path).unwrap_err().to_string(), expected);

    let error = latest(root.path()).unwrap_err().to_string();
    let hint = "hint: restore one of them, or move the folder away to start anew";
    assert_eq!(error, format!("{}: no checkpoint here can be used\n  {expected}\n{hint}", root.path().display()));
}

#[test]
fn latest_is_followed_and_foreign_files_are_ignored() {
    let root = root();
    let root = root.path();
    for step in [10, 20, 30] {
        write(root, &snapshot(step, 0.0)).unwrap();
    }
    for foreign in ["notes.txt", "step_99", "step_00000099", ".tmp-step_00000099-1", "step_000000999x"] {
        fs::write(root.join(foreign), "foreign").unwrap();
    }
    fs::create_dir(root.join(".tmp-step_00000098-1")).unwrap();
    assert_eq!(found(root).snapshot.step, 30);

    // Taken back to step 10: the next checkpoint is the latest although later steps are still there.
    write(root, &snapshot(15, 0.0)).unwrap();
    assert_eq!((found(root).snapshot.step, found(root).warnings.len()), (15, 0));
    flip(&root.join("step_00000015/state.json"), 3);
    assert_eq!((found(root).snapshot.step, found(root).warnings.len()), (10, 1));

    fs::write(root.join("latest"), "step_00000077\n").unwrap();
    let lost = found(root);
    assert_eq!(lost.snapshot.step, 30);
    assert_eq!(lost.warnings, [format!("{}: names step_00000077, which is not there", root.join("latest").display())]);
    for garbage in [&b"../../etc\n"[..], b"", b"\xff\xfe", &[b'x'; 5000]] {
        fs::write(root.join("latest"), garbage).unwrap();
        let found = found(root);
        let warning = "does not name a checkpoint such as step_00001200";
        assert_eq!(found.snapshot.step, 30);
        assert_eq!(found.warnings, [format!("{}: {warning}", root.join("latest").display())]);
    }
    fs::remove_file(root.join("latest")).unwrap();
    assert_eq!((found(root).snapshot.step, found(root).warnings.len()), (30, 0));
}

#[test]
fn a_folder_under_the_name_of_another_step_is_passed_over() {
    let root = root();
    let path = write(root.path(), &snapshot(10, 0.0)).unwrap();
    fs::rename(&path, root.path().join("step_00000020")).unwrap();
    let error = latest(root.path()).unwrap_err().to_string();
    assert!(error.contains("step_00000020: holds step 10"), "{error}");
    // Under a name of the user's own it may be read.
    let copy = root.path().join("pretrained");
    fs::rename(root.path().join("step_00000020"), &copy).unwrap();
    assert_eq!(read(&copy).unwrap(), snapshot(10, 0.0));
}

#[test]
fn prune_keeps_the_last_the_best_and_the_latest() {
    let root = root();
    let root = root.path();
    for step in [10, 20, 30, 40, 50] {
        write(root, &snapshot(step, 0.0)).unwrap();
    }
    assert_eq!(best(root).unwrap(), None);
    mark_best(root, 20).unwrap();
    assert_eq!(best(root).unwrap(), Some(root.join("step_00000020")));
    fs::create_dir(root.join(".tmp-step_00000060-4294967295")).unwrap();
    fs::create_dir(root.join(".tmp-step_00000060-1")).unwrap();
    fs::write(root.join(".tmp-latest-4294967295"), "x").unwrap();
    let removed = prune(root, Keep::last(2)).unwrap();
    assert_eq!(removed, [root.join("step_00000010"), root.join("step_00000030")]);
    // Process 1 runs.
    let left = [".tmp-step_00000060-1", "best", "latest", "step_00000020", "step_00000040", "step_00000050"];
    assert_eq!(names(root), left);
    assert_eq!(prune(root, Keep::last(2)).unwrap(), Vec::<PathBuf>::new());

    // Taken back to step 20: what comes after the latest is of the abandoned course.
    write(root, &snapshot(25, 0.0)).unwrap();
    prune(root, Keep::last(3)).unwrap();
    assert_eq!(names(root), [".tmp-step_00000060-1", "best", "latest", "step_00000020", "step_00000025"]);
    prune(root, Keep::last(0)).unwrap();
    assert_eq!(found(root).snapshot.step, 25);
}

#[test]
fn prune_keeps_multiples_of_a_step_for_good() {
    let root = root();
    let root = root.path();
    for step in [10, 20, 30, 40, 50, 60] {
        write(root, &snapshot(step, 0.0)).unwrap();
    }
    assert_eq!(prune(root, Keep { last: 1, every: 20 }).unwrap().len(), 3);
    assert_eq!(names(root), ["latest", "step_00000020", "step_00000040", "step_00000060"]);
    // Those of an abandoned course go all the same.
    write(root, &snapshot(25, 0.0)).unwrap();
    prune(root, Keep { last: 1, every: 20 }).unwrap();
    assert_eq!(names(root), ["latest", "step_00000020", "step_00000025"]);
}

#[test]
fn marks_need_their_checkpoint() {
    let root = root();
    let error = mark_best(root.path(), 7).unwrap_err().to_string();
    let message = "cannot be marked as best: there is no step_00000007; write the checkpoint first";
    assert_eq!(error, format!("{}: {message}", root.path().display()));
    fs::write(root.path().join("best"), "step_00000007").unwrap();
    let error = best(root.path()).unwrap_err().to_string();
    assert_eq!(error, format!("{}: names step_00000007, which is not there", root.path().join("best").display()));
}

#[test]
fn what_cannot_be_represented_is_refused_before_anything_is_written() {
    let root = root();
    let target = root.path().join("step_00000001");
    let mut doubled = snapshot(1, 0.0);
    doubled.tensors.get_mut("optim").unwrap().push(snapshot(1, 0.0).tensors["optim"][0].clone());
    let mut deep = snapshot(1, 0.0);
    let nested = (0..200).fold(serde_json::json!(1), |inner, _| serde_json::json!([inner]));
    deep.json.insert("state".into(), nested);
    let mut escape = snapshot(1, 0.0);
    escape.json.insert("../x".into(), serde_json::json!(1));
    for (snapshot, message) in [
        (doubled, "optim.safetensors: tensor name `m` is reserved or stands twice"),
        (deep, "state.json: nests too deeply to be read back"),
        (escape, "../x: a file stem may have letters, digits, `_` and `-` alone"),
    ] {
        let error = write(root.path(), &snapshot).unwrap_err().to_string();
        assert_eq!(error, format!("{}/{message}", target.display()));
    }
    assert_eq!(names(root.path()), Vec::<String>::new());
}

#[test]
fn a_root_that_is_a_file_is_named() {
    let root = root();
    let file = root.path().join("checkpoints");
    fs::write(&file, "x").unwrap();
    let error = write(&file, &snapshot(1, 0.0)).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}: ", file.display())), "{error}");
}

#[test]
fn a_failed_write_leaves_no_temporary_files() {
    let root = root();
    write(root.path(), &snapshot(1, 0.0)).unwrap();
    // A file of the user stands where the folder must go.
    fs::write(root.path().join("step_00000002"), "x").unwrap();
    assert!(write(root.path(), &snapshot(2, 0.0)).is_err());
    assert_eq!(names(root.path()), ["latest", "step_00000001", "step_00000002"]);
    assert_eq!(found(root.path()).snapshot.step, 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn any_numbers_come_back_bit_for_bit(bits in proptest::collection::vec(any::<u64>(), 0..40), step in any::<u64>()) {
        let values: Vec<f64> = bits.iter().map(|&b| f64::from_bits(b)).collect();
        let tensor = NamedTensor { name: "x".into(), shape: vec![values.len()], data: Floats::F64(values.clone()) };
        let state = serde_json::json!({ "x": floats(&values) });
        let snapshot = Snapshot {
            step,
            tensors: [("model".to_string(), vec![tensor])].into(),
            json: [("state".to_string(), state)].into(),
        };
        let root = root();
        write(root.path(), &snapshot).unwrap();
        let back = found(root.path()).snapshot;
        prop_assert_eq!(back.step, step);
        let Floats::F64(read) = &back.tensors["model"][0].data else { panic!("kind changed") };
        prop_assert_eq!(read.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), bits);
        let json = read_floats(&back.json["state"], "x", values.len()).unwrap();
        prop_assert!(json.iter().zip(&values).all(|(a, b)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())));
    }
}

#[test]
fn a_survey_tells_of_every_checkpoint_whether_it_can_be_used() {
    let root = root();
    let root = root.path();
    for step in [10, 20, 30] {
        write(root, &snapshot(step, 0.0)).unwrap();
    }
    mark_best(root, 20).unwrap();
    flip(&root.join("step_00000020/state.json"), 3);
    fs::remove_file(root.join("step_00000010/MANIFEST.json")).unwrap();
    fs::create_dir(root.join(".tmp-step_00000040-1")).unwrap();
    let survey = survey(root).unwrap();
    assert_eq!((survey.latest, survey.best, &survey.warnings), (Some(30), Some(20), &vec![]));
    let steps: Vec<u64> = survey.checkpoints.iter().map(|c| c.step).collect();
    assert_eq!(steps, [10, 20, 30]);
    let damage: Vec<&str> = survey.checkpoints.iter().map(|c| c.damage.as_deref().unwrap_or("good")).collect();
    assert!(damage[0].contains("step_00000010/MANIFEST.json: No such file"), "{damage:?}");
    assert!(damage[1].contains("step_00000020/state.json: damaged: SHA-256"), "{damage:?}");
    assert_eq!(damage[2], "good");
    let listed = files(&root.join("step_00000030")).unwrap();
    assert_eq!(survey.checkpoints[2].bytes, listed.iter().map(|file| file.bytes).sum::<u64>());
    assert_eq!(listed.iter().map(|file| file.name.as_str()).collect::<Vec<_>>().len(), 4);

    fs::remove_dir_all(root.join("step_00000020")).unwrap();
    fs::write(root.join("latest"), "garbage").unwrap();
    let survey = super::survey(root).unwrap();
    let expected = ["latest: does not name a checkpoint", "best: names step_00000020, which is not there"];
    assert_eq!((survey.latest, survey.best, survey.warnings.len()), (None, Some(20), 2));
    assert!(survey.warnings.iter().zip(expected).all(|(w, e)| w.contains(e)), "{:?}", survey.warnings);
    assert_eq!(super::survey(&root.join("none")).unwrap().checkpoints, []);
}

/// What two ranks write of [`snapshot`], with `optim` in pieces.
fn shares(step: u64) -> [Share; 2] {
    let Snapshot { mut tensors, json, .. } = snapshot(step, 0.0);
    tensors.remove("optim");
    let piece = |start, values: &[f32]| Piece {
        name: "m".into(),
        shape: vec![2, 2],
        start,
        data: Floats::F32(values.to_vec()),
    };
    let of = |rank, piece, tensors, json| Share {
        rank,
        of: 2,
        pieces: [("optim".into(), vec![piece])].into(),
        tensors,
        json,
    };
    [of(0, piece(0, &[1.0, 2.0, 3.0]), tensors, json), of(1, piece(3, &[4.0]), BTreeMap::new(), BTreeMap::new())]
}

fn write_shares(root: &Path, step: u64) -> Result<PathBuf> {
    let temp = begin(root, step, &mut |_| Ok(()))?;
    let files = shares(step).map(|share| write_share(&temp, share, &mut |_| Ok(())).unwrap());
    finish(root, step, files.concat(), &mut |_| Ok(()))
}

#[test]
fn shares_of_two_ranks_make_one_checkpoint() {
    let root = root();
    let path = write_shares(root.path(), 10).unwrap();
    let parts = ["optim.rank00000-of-00002.safetensors", "optim.rank00001-of-00002.safetensors"];
    assert_eq!(names(&path), ["MANIFEST.json", "config.json", "model.safetensors", parts[0], parts[1], "state.json"]);
    let mut expected = snapshot(10, 0.0);
    let whole = NamedTensor { name: "m".into(), shape: vec![2, 2], data: Floats::F32(vec![1.0, 2.0, 3.0, 4.0]) };
    expected.tensors.insert("optim".into(), vec![whole]);
    assert_eq!(found(root.path()), Found { path: path.clone(), snapshot: expected, warnings: vec![] });
    assert_eq!(verify(&path).unwrap(), 10);

    // A whole one of the same step takes its place, and the other way round.
    write(root.path(), &snapshot(10, 0.0)).unwrap();
    assert_eq!(found(root.path()).snapshot, snapshot(10, 0.0));
    write_shares(root.path(), 10).unwrap();
    assert_eq!(
        (found(root.path()).snapshot.tensors["optim"][0].shape.len(), found(root.path()).warnings.len()),
        (2, 0)
    );
}

#[test]
fn ranges_are_read_from_the_files_that_hold_them() {
    let root = root();
    let path = write_shares(root.path(), 10).unwrap();
    let mut archive = Archive::open(&path).unwrap();
    assert_eq!((archive.shape("optim", "m"), archive.shape("optim", "n")), (Some(&[2, 2][..]), None));
    let values = [1.0f32, 2.0, 3.0, 4.0];
    for start in 0..=4 {
        for end in start..=4 {
            assert_eq!(archive.read("optim", "m", start..end).unwrap(), Floats::F32(values[start..end].to_vec()));
        }
    }
    let bias = archive.read("model", "encoder.layers.0.bias", 1..2).unwrap();
    assert_eq!(bias, Floats::F64(vec![1e-300]));
    let error = archive.read("optim", "m", 3..5).unwrap_err().to_string();
    assert_eq!(error, format!("{}: tensor `m` of `optim` has no values 3..5", path.display()));
    let error = archive.read("optim", "x", 0..1).unwrap_err().to_string();
    assert_eq!(error, format!("{}: holds no tensor `x` of `optim`", path.display()));

    // Sizes are compared before a header is believed, headers before anything is read.
    let file = path.join("optim.rank00001-of-00002.safetensors");
    let bytes = fs::read(&file).unwrap();
    for at in 0..bytes.len() {
        fs::write(&file, &bytes[..at]).unwrap();
        assert!(Archive::open(&path).unwrap_err().to_string().starts_with(&format!("{}: damaged: ", file.display())));
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        fs::write(&file, flipped).unwrap();
        if let Ok(mut archive) = Archive::open(&path) {
            let _ = archive.read("optim", "m", 0..4);
            let listed = archive.files().iter().find(|listed| file.ends_with(&listed.name)).unwrap().clone();
            assert!(archive.verify(&listed).unwrap_err().to_string().contains("damaged: SHA-256"));
        }
    }
}

#[test]
fn a_share_that_is_not_there_makes_no_checkpoint() {
    let root = root();
    write(root.path(), &snapshot(1, 0.0)).unwrap();
    let temp = begin(root.path(), 2, &mut |_| Ok(())).unwrap();
    let files = shares(2).map(|share| write_share(&temp, share, &mut |_| Ok(())).unwrap()).concat();
    let part = temp.join("optim.rank00001-of-00002.safetensors");
    fs::write(&part, "cut").unwrap();
    let error = finish(root.path(), 2, files.clone(), &mut |_| Ok(())).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}: 3 bytes, ", part.display())), "{error}");
    fs::remove_file(&part).unwrap();
    let error = finish(root.path(), 2, files, &mut |_| Ok(())).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}: ", part.display())), "{error}");
    undo(root.path(), 2);
    assert_eq!(names(root.path()), ["latest", "step_00000001"]);
}
