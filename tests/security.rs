//! What files of strangers cannot do, as `docs/security.md` says: write outside of the run directory, delete there, take
//! memory that they do not justify, command a terminal; and what everybody may not write.

use polytask::checkpoint::{self, Floats, Keep, NamedTensor, Snapshot};
use polytask::config::load_str;
use polytask::data::sources::arrays::{self, Format};
use polytask::data::table::{Role, Wanted};
use serde_json::json;
use std::fs;
use std::io::{Cursor, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

const CONFIG: &str = "\
run: {name: x, dir: run}
data: {sources: {s: {csv: {train: data.csv, numeric: [x]}}}}
tasks: {a: {source: s, target: y, kind: regression}}
batch: {per_task: 2}
model: {encoder: {mlp: {widths: [2]}}}
train: {steps: 2, device: cpu, threads: 1}
";

/// A folder with a configuration and data, and a precious file that links lead to.
struct Site(TempDir);

impl Site {
    fn new() -> Site {
        let site = Site(tempfile::tempdir().unwrap());
        fs::write(site.path("config.yaml"), CONFIG).unwrap();
        fs::write(site.path("data.csv"), "x,y\n1,2\n2,3\n3,4\n").unwrap();
        fs::create_dir_all(site.path("outside/folder")).unwrap();
        fs::write(site.path("outside/precious"), "precious").unwrap();
        fs::write(site.path("outside/folder/kept"), "kept").unwrap();
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `polytask ARGUMENTS` here, by a shell that has set this umask.
    fn polytask(&self, umask: &str, arguments: &str) -> Output {
        let line = format!("umask {umask}; exec '{}' {arguments}", env!("CARGO_BIN_EXE_polytask"));
        Command::new("sh").args(["-c", &line]).current_dir(self.0.path()).output().unwrap()
    }

    fn check_outside(&self) {
        assert_eq!(fs::read_to_string(self.path("outside/precious")).unwrap(), "precious");
        assert_eq!(fs::read_to_string(self.path("outside/folder/kept")).unwrap(), "kept");
        assert_eq!(fs::read_dir(self.path("outside")).unwrap().count(), 2);
        assert_eq!(fs::read_dir(self.path("outside/folder")).unwrap().count(), 1);
    }
}

/// Everything below a folder.
fn below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() && !entry.is_symlink() {
            found.extend(below(&entry));
        }
        found.push(entry);
    }
    found
}

#[test]
fn what_a_run_writes_is_never_writable_by_everybody() {
    let site = Site::new();
    let output = site.polytask("0", "train config.yaml");
    assert!(output.status.success(), "{output:?}");
    let written = below(&site.path("run"));
    assert!(written.len() > 10 && written.iter().any(|path| path.ends_with("latest")), "{written:?}");
    for path in written {
        let mode = fs::symlink_metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o002, 0, "{}: {mode:o}", path.display());
    }
}

#[test]
fn a_run_directory_full_of_links_is_not_followed_out_of() {
    // With a link under the name of each file, alone and dangling: the run goes on, or ends with a message.
    for name in ["lock", "config.yaml", "metrics.jsonl", "summary.json", "checkpoints/latest", "checkpoints/best"] {
        for target in ["outside/precious", "outside/new"] {
            let site = Site::new();
            fs::create_dir_all(site.path("run/checkpoints")).unwrap();
            symlink(site.path(target), site.path("run").join(name)).unwrap();
            let output = site.polytask("022", "train config.yaml");
            site.check_outside();
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success() || text.contains(name), "{name} -> {target}: {text}");
        }
    }
}

#[test]
fn a_lock_that_is_a_link_is_named() {
    let site = Site::new();
    fs::create_dir(site.path("run")).unwrap();
    symlink(site.path("outside/precious"), site.path("run/lock")).unwrap();
    let output = site.polytask("022", "train config.yaml");
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text, "error: run/lock: is a link, and nothing is written through links; remove it\n");
    assert_eq!(output.status.code(), Some(3));
}

fn snapshot(step: u64, name: &str) -> Snapshot {
    let tensor = NamedTensor { name: name.into(), shape: vec![1], data: Floats::F32(vec![1.0]) };
    Snapshot {
        step,
        tensors: [("model".to_string(), vec![tensor])].into(),
        json: [("state".to_string(), json!({}))].into(),
    }
}

#[test]
fn writing_and_pruning_checkpoints_follow_no_link() {
    let site = Site::new();
    let root = site.path("checkpoints");
    for step in [1, 2, 3] {
        checkpoint::write(&root, &snapshot(step, "x")).unwrap();
    }
    let (file, folder) = (site.path("outside/precious"), site.path("outside/folder"));
    symlink(&folder, root.join("step_00000000")).unwrap();
    symlink(&folder, root.join(".old-step_00000004")).unwrap();
    // Process 4294967295 is nobody: these look like leftovers of dead writers.
    symlink(&folder, root.join(".tmp-step_00000004-4294967295")).unwrap();
    symlink(&file, root.join(".tmp-best-4294967295")).unwrap();
    symlink(site.path("outside/nothing"), root.join(".tmp-latest-4294967295")).unwrap();
    // And these stand where this very process writes.
    symlink(&folder, root.join(format!(".tmp-step_00000004-{}", std::process::id()))).unwrap();
    symlink(&file, root.join(format!(".tmp-latest-{}", std::process::id()))).unwrap();
    symlink(&file, root.join(format!(".tmp-best-{}", std::process::id()))).unwrap();
    checkpoint::write(&root, &snapshot(4, "x")).unwrap();
    checkpoint::mark_best(&root, 4).unwrap();
    let removed = checkpoint::prune(&root, Keep::last(1)).unwrap();
    assert!(removed.contains(&root.join("step_00000000")), "{removed:?}");
    site.check_outside();
    let mut left: Vec<_> =
        fs::read_dir(&root).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    assert_eq!(left, ["best", "latest", "step_00000004"]);
}

#[test]
fn a_manifest_of_sizes_that_add_up_to_more_than_there_are_numbers_is_damage() {
    let site = Site::new();
    let root = site.path("checkpoints");
    let path = checkpoint::write(&root, &snapshot(1, "x")).unwrap();
    let manifest = path.join("MANIFEST.json");
    // Two files of 2^64 - 1 bytes, in a manifest that vouches for itself.
    let file = |name: &str| json!({ "name": name, "bytes": u64::MAX, "sha256": "" });
    let render = |check: &str| {
        format!("{:#}\n", json!({ "format": 1, "step": 1, "files": [file("a.json"), file("b.json")], "check": check }))
    };
    use sha2::{Digest, Sha256};
    let check: String = Sha256::digest(render("")).iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(&manifest, render(&check)).unwrap();
    assert_eq!(checkpoint::files(&path).unwrap().len(), 2, "the manifest itself is good");
    let survey = checkpoint::survey(&root).unwrap();
    assert_eq!(survey.checkpoints[0].bytes, u64::MAX);
    assert!(survey.checkpoints[0].damage.as_ref().unwrap().contains("a.json"), "{survey:?}");
}

#[test]
fn a_file_of_nothing_that_claims_to_be_longer_than_memory_is_an_error() {
    let site = Site::new();
    let path = site.path("huge.safetensors");
    let header = format!(r#"{{"x":{{"dtype":"U8","shape":[{0}],"data_offsets":[0,{0}]}}}}"#, 1u64 << 45);
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    fs::write(&path, &bytes).unwrap();
    let wanted = [Wanted { name: "x".into(), role: Role::Number }];
    let error = arrays::parse(&bytes, &path, Format::SafeTensors, &wanted).unwrap_err().to_string();
    assert!(error.starts_with(&path.display().to_string()), "{error}");
}

#[test]
fn names_out_of_files_cannot_command_a_terminal() {
    let site = Site::new();
    let name = "x\u{1b}]0;owned\u{7}\u{9b}2J";
    checkpoint::write(&site.path("run/checkpoints"), &snapshot(1, name)).unwrap();
    for arguments in ["", "--json "] {
        let output = site.polytask("022", &format!("inspect {arguments}run/checkpoints/step_00000001"));
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("x\\u001b]0;owned\\u0007\\u009b2J"), "{text}");
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
    }
    let bad = site.polytask("022", "inspect 'x\u{1b}[2J'");
    let text = String::from_utf8(bad.stderr).unwrap();
    assert!(text.starts_with("error: x\\u001b[2J: ") && bad.status.code() == Some(3), "{text}");
}

fn npz(options: npyz::zip::write::FileOptions, member: &[u8]) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let mut archive = npyz::zip::ZipWriter::new(&mut bytes);
    archive.start_file("x.npy", options).unwrap();
    archive.write_all(member).unwrap();
    archive.finish().unwrap();
    drop(archive);
    bytes.into_inner()
}

#[test]
fn archives_packed_by_more_than_deflate_can_are_refused() {
    use npyz::zip::CompressionMethod;
    let header = "{'descr': '|u1', 'fortran_order': False, 'shape': (100000,), }\n";
    let member =
        [b"\x93NUMPY\x01\0", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), &[0; 100_000]].concat();
    let wanted = [Wanted { name: "x".into(), role: Role::Number }];
    let read = |method| {
        let options = npyz::zip::write::FileOptions::default().compression_method(method);
        arrays::parse(&npz(options, &member), Path::new("a.npz"), Format::Npz, &wanted)
    };
    assert_eq!(read(CompressionMethod::Deflated).unwrap().n_rows, 100_000);
    assert_eq!(read(CompressionMethod::Stored).unwrap().n_rows, 100_000);
    let error = read(CompressionMethod::Bzip2).unwrap_err().to_string();
    assert_eq!(error, "a.npz: column `x`: packed with Bzip2; NumPy packs with deflate, or not at all");
}

#[test]
fn aliases_that_repeat_a_long_text_are_refused() {
    let text = format!("{CONFIG}a: &a \"{}\"\nb: [{}*a]\n", "x".repeat(1 << 20), "*a, ".repeat(50_000));
    let error = load_str("bomb.yaml", &text, &[]).unwrap_err().to_string();
    assert!(error.starts_with("bomb.yaml:8:") && error.contains("aliases repeat more than 4 MiB of text"), "{error}");
}

#[test]
fn json_that_nests_without_end_is_refused() {
    let site = Site::new();
    let root = site.path("run/checkpoints");
    let path = checkpoint::write(&root, &snapshot(1, "x")).unwrap();
    let deep = "[".repeat(1 << 20);
    fs::write(path.join("MANIFEST.json"), &deep).unwrap();
    let error = checkpoint::verify(&path).unwrap_err().to_string();
    assert!(error.contains("MANIFEST.json: damaged: recursion limit exceeded"), "{error}");
    fs::create_dir(site.path("flight")).unwrap();
    fs::write(site.path("flight/flight_rank0.json"), &deep).unwrap();
    let (page, code) = polytask::cli::doctor::flight::report(&site.path("flight")).unwrap();
    assert!(page.contains("flight_rank0.json is no flight record") && code == 3, "{page}");
}

/// Continues a run of two steps whose `state.json` was changed; the error.
fn continue_with(change: impl Fn(&mut serde_json::Value)) -> String {
    let site = Site::new();
    assert!(site.polytask("022", "train config.yaml").status.success());
    let root = site.path("run/checkpoints");
    let mut snapshot = checkpoint::latest(&root).unwrap().unwrap().snapshot;
    change(snapshot.json.get_mut("state").unwrap());
    checkpoint::write(&root, &snapshot).unwrap();
    let output = site.polytask("022", "train config.yaml --set train.steps=3 --allow-config-change");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(matches!(output.status.code(), Some(0 | 3)), "{text}");
    text
}

#[test]
fn counters_that_no_run_comes_to_are_refused() {
    let huge = json!(u64::MAX);
    for pointer in ["/updates", "/progress/skipped", "/progress/samples", "/progress/evaluations_since_best"] {
        let text = continue_with(|state| *state.pointer_mut(pointer).unwrap() = huge.clone());
        let name = pointer.rsplit('/').next().unwrap();
        assert!(
            text.contains("state.json: `") && text.contains(name) && text.contains("more than any run comes to"),
            "{text}"
        );
    }
    let text = continue_with(|state| state["progress"]["step"] = huge.clone());
    assert!(text.contains("state.json: is of step 18446744073709551615, and the checkpoint of step 2"), "{text}");
    // Seconds that are none are forgotten.
    let text = continue_with(|state| state["progress"]["seconds"] = json!(-1.0));
    assert!(!text.contains("error"), "{text}");
}
