//! Jobs: the program alone or under mpirun, with a limit on its time and its output at hand when something fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Without a launcher.
pub const ALONE: usize = 0;

/// Far more than any of these jobs needs, on a busy machine too.
const LIMIT: Duration = Duration::from_secs(240);

/// A started job. Dropping it ends it.
pub struct Job {
    child: Child,
    words: String,
    /// Files, not pipes: a process that outlives the job cannot keep the test waiting.
    output: tempfile::TempDir,
}

/// What a job left.
#[derive(Debug)]
pub struct Output {
    pub words: String,
    /// `None`: ended by a signal.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Asserts the exit code.
    #[track_caller]
    pub fn exits_with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self}");
        self
    }

    /// Asserts that each text stands in the messages, and that there is one message.
    #[track_caller]
    pub fn complains_once(self, texts: &[&str]) -> Self {
        for text in texts {
            assert!(self.stderr.contains(text), "`{text}` is missing\n{self}");
        }
        assert_eq!(self.stderr.matches("error:").count(), 1, "one message is enough\n{self}");
        self
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{} -> {:?}\n-- stdout\n{}\n-- stderr\n{}", self.words, self.code, self.stdout, self.stderr)
    }
}

/// Starts `polytask ARGS` in a folder: [`ALONE`], or as so many ranks.
pub fn start(dir: &Path, ranks: usize, args: &[String]) -> Job {
    let program = env!("CARGO_BIN_EXE_polytask").to_string();
    match ranks {
        ALONE => spawn(dir, &program, args),
        _ => start_parts(dir, &[(&["-n", &ranks.to_string()], args)]),
    }
}

/// Starts one job under mpirun whose ranks get different arguments: (options of mpirun, arguments of polytask).
pub fn start_parts(dir: &Path, parts: &[(&[&str], &[String])]) -> Job {
    let mut words: Vec<String> = ["--oversubscribe", "--bind-to", "none"].map(str::to_string).to_vec();
    for (i, (options, args)) in parts.iter().enumerate() {
        words.extend((i > 0).then(|| ":".to_string()));
        words.extend(options.iter().map(|o| o.to_string()));
        words.push(env!("CARGO_BIN_EXE_polytask").to_string());
        words.extend_from_slice(args);
    }
    spawn(dir, "mpirun", &words)
}

/// Runs a job to its end.
#[track_caller]
pub fn run(dir: &Path, ranks: usize, args: &[String]) -> Output {
    start(dir, ranks, args).wait()
}

/// Runs a line of bash, in which `$polytask` is the program.
#[track_caller]
pub fn shell(dir: &Path, line: &str) -> Output {
    let line = format!("polytask='{}'; {line}", env!("CARGO_BIN_EXE_polytask"));
    spawn(dir, "bash", &["-c".to_string(), line]).wait()
}

/// Starts `polytask ARGS` alone, with a variable of its own.
#[allow(dead_code, reason = "faults in a single process are for some tests only")]
pub fn start_alone_with(dir: &Path, variable: (&str, &str), args: &[String]) -> Job {
    spawn_with(dir, env!("CARGO_BIN_EXE_polytask"), args, &[variable])
}

fn spawn(dir: &Path, program: &str, args: &[String]) -> Job {
    spawn_with(dir, program, args, &[])
}

fn spawn_with(dir: &Path, program: &str, args: &[String], variables: &[(&str, &str)]) -> Job {
    let output = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str| fs::File::create(output.path().join(name)).expect("a temporary file");
    let child = Command::new(program)
        .args(args)
        .current_dir(dir)
        .env_remove("POLYTASK_LOG")
        .env_remove("RUST_LOG")
        // As root in containers; ranks share cores with each other and with other tests.
        .envs([("OMPI_ALLOW_RUN_AS_ROOT", "1"), ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"), ("OMP_NUM_THREADS", "1")])
        .envs([("OMPI_MCA_mpi_yield_when_idle", "1"), ("OMPI_MCA_btl_vader_single_copy_mechanism", "none")])
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(file("stdout"))
        .stderr(file("stderr"))
        .spawn()
        .unwrap_or_else(|e| {
            panic!(
                "{program} does not start: {e}; install it (scripts/setup), or build without MPI (`--no-default-features`), \
                 which leaves these tests out"
            )
        });
    Job { child, words: format!("{program} {}", args.join(" ")), output }
}

impl Job {
    /// Waits for the end; a job that takes too long is ended, and fails the test.
    #[track_caller]
    pub fn wait(self) -> Output {
        self.wait_for(LIMIT)
    }

    /// As [`Job::wait`], with a limit.
    #[track_caller]
    pub fn wait_for(mut self, limit: Duration) -> Output {
        match self.poll(limit, || false) {
            Some(status) => self.output(Some(status)),
            None => self.too_slow(limit),
        }
    }

    /// Waits until something is true of a job that runs; one that ends before or takes too long fails the test.
    #[track_caller]
    pub fn until(&mut self, happened: impl FnMut() -> bool) {
        let start = Instant::now();
        if let Some(status) = self.poll(LIMIT, happened) {
            panic!("it ended too early: {}", self.output(Some(status)));
        }
        if start.elapsed() >= LIMIT {
            self.too_slow(LIMIT);
        }
    }

    /// Polls until the job has ended (its status), or `enough`, or the limit has passed.
    fn poll(&mut self, limit: Duration, mut enough: impl FnMut() -> bool) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child to wait for") {
                return Some(status);
            }
            if enough() || Instant::now() > deadline {
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends a signal to the process that was started: mpirun, or the program alone.
    pub fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    /// Sends a signal to one rank.
    #[track_caller]
    pub fn signal_rank(&self, rank: usize, name: &str) {
        let mark = format!("OMPI_COMM_WORLD_RANK={rank}").into_bytes();
        let is_rank = |pid: &u32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|entry| entry == mark)
        };
        let found: Vec<u32> = descendants(self.child.id()).into_iter().filter(is_rank).collect();
        assert_eq!(found.len(), 1, "processes of rank {rank} of {}", self.words);
        signal(found[0], name);
    }

    fn output(&self, status: Option<ExitStatus>) -> Output {
        let read = |name: &str| {
            String::from_utf8_lossy(&fs::read(self.output.path().join(name)).unwrap_or_default()).into_owned()
        };
        let code = status.and_then(|s| s.code());
        Output { words: self.words.clone(), code, stdout: read("stdout"), stderr: read("stderr") }
    }

    #[track_caller]
    fn too_slow(&mut self, limit: Duration) -> ! {
        self.kill();
        panic!("still running after {limit:?}: {}", self.output(None))
    }

    /// mpirun gives every rank a process group of its own, so each process is killed by itself.
    fn kill(&mut self) {
        let all = descendants(self.child.id());
        let _ = self.child.kill();
        all.into_iter().for_each(|pid| signal(pid, "KILL"));
        let _ = self.child.wait();
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill();
        }
    }
}

fn signal(pid: u32, name: &str) {
    // A process that has just ended is no failure of the test.
    let _ = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).stderr(Stdio::null()).status();
}

/// Processes that come from `pid`, by /proc.
fn descendants(pid: u32) -> Vec<u32> {
    let parent_of = |path: PathBuf| -> Option<(u32, u32)> {
        let child = path.file_name()?.to_str()?.parse().ok()?;
        let stat = fs::read_to_string(path.join("stat")).ok()?;
        // The name in parentheses may hold anything: the state and the parent stand behind the last one.
        Some((child, stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()?))
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pairs: Vec<(u32, u32)> = entries.filter_map(|entry| parent_of(entry.path())).collect();
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(pairs.iter().filter(|(_, p)| *p == parent).map(|(child, _)| *child));
        next += 1;
    }
    found.split_off(1)
}
