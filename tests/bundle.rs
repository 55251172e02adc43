//! The scripts of a bundle (`scripts/bundle`): they find libtorch and the MPI on board, and refuse what does not fit.
//!
//! The program and PyTorch are played by small files; `scripts/bundle` itself needs a release build and is not run here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// By another process: a file that any thread of this one still has open for writing cannot be run.
fn install(from: &Path, to: &Path) {
    assert!(Command::new("install").args(["-D", "-m", "755"]).args([from, to]).status().unwrap().success());
}

fn program(path: &Path, body: &str) {
    let text = path.with_extension("txt");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&text, format!("#!/bin/sh\n{body}")).unwrap();
    install(&text, path);
}

/// A bundle for libtorch 2.11.0 whose program and launcher print what they were given.
fn bundle(dir: &Path) -> PathBuf {
    let bundle = dir.join("a bundle");
    for name in ["polytask", "mpirun"] {
        install(&root().join("scripts/bundle.d").join(name), &bundle.join(name));
    }
    install(&root().join("scripts/bundle.d/env.sh"), &bundle.join("libexec/env.sh"));
    fs::write(bundle.join("libexec/libtorch_version"), "2.11.0\n").unwrap();
    let told = r#"
echo "args $# $*"
echo "libraries ${LD_LIBRARY_PATH:-none}"
echo "prefix ${OPAL_PREFIX:-none}"
echo "path $PATH"
exit 75
"#;
    program(&bundle.join("libexec/polytask"), told);
    program(&bundle.join("bin/orterun"), told);
    bundle
}

/// A folder `torch` as pip installs it.
fn torch(dir: &Path, version: &str) -> PathBuf {
    let torch = dir.join(format!("torch of {version}"));
    fs::create_dir_all(torch.join("lib")).unwrap();
    fs::write(torch.join("lib/libtorch_cpu.so"), "").unwrap();
    fs::write(
        torch.join("version.py"),
        format!("from typing import X\n__version__ = '{version}+cu130'\ndebug = False\n"),
    )
    .unwrap();
    torch
}

/// A Python whose torch is in this folder.
fn python(dir: &Path, name: &str, torch: Option<&Path>) -> PathBuf {
    let path = dir.join("bin").join(name);
    program(&path, &torch.map_or_else(|| "exit 0\n".into(), |torch| format!("echo '{}'\n", torch.display())));
    path
}

/// A script of the bundle in a shell that has no libtorch, and a `python3` without torch.
fn call(dir: &Path, script: &Path) -> Command {
    if !dir.join("bin/python3").exists() {
        python(dir, "python3", None);
    }
    let path = format!("{}:{}", dir.join("bin").display(), std::env::var("PATH").unwrap());
    let mut command = Command::new(script);
    for name in ["LIBTORCH", "POLYTASK_PYTHON", "POLYTASK_MPI", "LIBTORCH_BYPASS_VERSION_CHECK", "OPAL_PREFIX"] {
        command.env_remove(name);
    }
    command.env("PATH", path).env("LD_LIBRARY_PATH", "/users/own");
    command
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[track_caller]
fn refused(command: &mut Command, words: &[&str]) {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    for word in words {
        assert!(text(&output).contains(word), "`{word}` is missing in: {}", text(&output));
    }
}

#[test]
fn the_program_gets_its_libraries_arguments_and_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let (bundle, torch) = (bundle(dir.path()), torch(dir.path(), "2.11.0"));
    let output = call(dir.path(), &bundle.join("polytask"))
        .env("LIBTORCH", &torch)
        .args(["train", "a b.yaml"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(75), "{}", text(&output));
    let (torch, bundle) = (torch.display(), bundle.display());
    let expected = format!(
        "args 2 train a b.yaml\nlibraries {torch}/lib:{bundle}/lib:/users/own\nprefix {bundle}\npath {bundle}/bin:"
    );
    assert!(text(&output).starts_with(&expected), "{}\nis not\n{expected}", text(&output));
}

#[test]
fn libtorch_is_that_of_the_python_and_the_nearest_word_wins() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = bundle(dir.path());
    let [first, second, third] = ["2.11.0", "2.11.0.1", "2.11.0.2"].map(|name| {
        let folder = torch(dir.path(), name);
        fs::write(folder.join("version.py"), "__version__ = '2.11.0'\n").unwrap();
        folder
    });
    python(dir.path(), "python3", Some(&first));
    let other = python(dir.path(), "other", Some(&second));
    let script = bundle.join("polytask");
    let uses = |command: &mut Command, torch: &Path| {
        let found = text(&command.output().unwrap());
        assert!(found.contains(&format!("libraries {}/lib:", torch.display())), "{found}");
    };
    uses(&mut call(dir.path(), &script), &first);
    uses(call(dir.path(), &script).env("POLYTASK_PYTHON", &other), &second);
    uses(call(dir.path(), &script).env("POLYTASK_PYTHON", &other).env("LIBTORCH", &third), &third);
}

#[test]
fn another_version_is_refused_unless_the_user_insists() {
    let dir = tempfile::tempdir().unwrap();
    let (bundle, torch) = (bundle(dir.path()), torch(dir.path(), "2.10.1"));
    let script = bundle.join("polytask");
    refused(
        call(dir.path(), &script).env("LIBTORCH", &torch),
        &["is libtorch 2.10.1", "built for 2.11.0", "install torch==2.11.0", torch.to_str().unwrap()],
    );
    let output =
        call(dir.path(), &script).env("LIBTORCH", &torch).env("LIBTORCH_BYPASS_VERSION_CHECK", "1").output().unwrap();
    assert_eq!(output.status.code(), Some(75));
    assert!(text(&output).contains("is libtorch 2.10.1"), "{}", text(&output));
    fs::remove_file(torch.join("version.py")).unwrap();
    refused(call(dir.path(), &script).env("LIBTORCH", &torch), &["of an unknown version"]);
    fs::write(torch.join("build-version"), "2.11.0+cpu\n").unwrap();
    assert_eq!(call(dir.path(), &script).env("LIBTORCH", &torch).status().unwrap().code(), Some(75));
}

#[test]
fn without_libtorch_the_ways_to_name_one_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let script = bundle(dir.path()).join("polytask");
    refused(&mut call(dir.path(), &script), &["python3 has no torch", "POLYTASK_PYTHON", "LIBTORCH"]);
    refused(call(dir.path(), &script).env("POLYTASK_PYTHON", "no_such_python"), &["there is no no_such_python"]);
    refused(call(dir.path(), &script).env("LIBTORCH", "/nowhere"), &["/nowhere/lib/libtorch_cpu.so"]);
}

#[test]
fn mpirun_is_the_one_on_board_unless_that_of_the_machine_is_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let (bundle, torch) = (bundle(dir.path()), torch(dir.path(), "2.11.0"));
    let output = call(dir.path(), &bundle.join("mpirun")).args(["-n", "2", "x"]).output().unwrap();
    let expected = format!("args 3 -n 2 x\nlibraries {0}/lib:/users/own\nprefix {0}\n", bundle.display());
    assert!(text(&output).starts_with(&expected), "{}", text(&output));
    refused(call(dir.path(), &bundle.join("mpirun")).env("POLYTASK_MPI", "system"), &["this machine's mpirun"]);
    let output = call(dir.path(), &bundle.join("polytask"))
        .env("POLYTASK_MPI", "system")
        .env("LIBTORCH", &torch)
        .output()
        .unwrap();
    let expected = format!("libraries {}/lib:/users/own\nprefix none\n", torch.display());
    assert!(text(&output).contains(&expected), "{}", text(&output));
}

#[test]
fn a_link_to_the_bundle_is_the_bundle() {
    let dir = tempfile::tempdir().unwrap();
    let (bundle, torch) = (bundle(dir.path()), torch(dir.path(), "2.11.0"));
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(bundle.join("polytask"), &link).unwrap();
    let output = call(dir.path(), &link).env("LIBTORCH", &torch).output().unwrap();
    assert!(text(&output).contains(&format!("prefix {}\n", bundle.display())), "{}", text(&output));
}

#[test]
fn only_a_bundle_is_replaced_by_a_bundle() {
    if Command::new("orterun").arg("--version").output().is_err() {
        println!("skipped: Open MPI is not installed");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.tex"), "years of work").unwrap();
    let output = Command::new(root().join("scripts/bundle"))
        .arg(dir.path())
        .env("POLYTASK", env!("CARGO_BIN_EXE_polytask"))
        .output()
        .unwrap();
    assert!(
        !output.status.success() && text(&output).contains("holds something else than a bundle"),
        "{}",
        text(&output)
    );
    assert!(dir.path().join("thesis.tex").exists());
}
