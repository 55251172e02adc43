"""What the long fault scripts share: a small run with state in every part, jobs whose processes are found wherever they
end up, and the question whether two runs are the same run."""

import hashlib
import json
import os
import pathlib
import random
import secrets
import signal
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
SKIPPED = 77  # the usual exit code for "cannot run here"
MARK = "POLYTASK_LAB"  # in the environment of every process of a job
TIMES = ("time_ms", "samples_per_s", "seconds", "bytes_per_step", "checkpoint_ms", "ranks")

# Adam's moments, log-variances, projections drawn at random, dropout, a schedule, a best score.
CONFIG = """
run: {name: soak, seed: 1}
data: {sources: {s: {csv: {train: train.csv, val: val.csv, test: test.csv, numeric: [a, b, c, d]}}}}
tasks:
  sign: {source: s, target: sign, kind: binary, metrics: [auc, accuracy]}
  size: {source: s, target: size, kind: regression}
batch: {per_task: 31} # no number of ranks divides it
model: {encoder: {mlp: {widths: [32, 32], dropout: 0.1}}}
balance: {weighting: {uncertainty: {lr: 0.01}}, surgery: pcgrad}
optim: {adamw: {lr: 0.003}}
schedule: {cosine: {warmup: 10}}
train: {steps: N_STEPS, eval_every_steps: 20}
checkpoint: {every: 5, keep: 2}
log: {every: 1, tensorboard: false}
"""


class Failure(Exception):
    """Something that is not as it must be."""


def need(holds, words):
    if not holds:
        raise Failure(words)


def program():
    """The build under test: POLYTASK, or that of this checkout."""
    builds = [os.environ.get("POLYTASK"), ROOT / "target/release/polytask", ROOT / "target/debug/polytask"]
    found = next((pathlib.Path(b) for b in builds if b and os.access(b, os.X_OK)), None)
    if not found:
        raise SystemExit("no polytask: run cargo build --release")
    return found.resolve()


def environment(work, shared_memory):
    """For mpirun: as root in containers, on cores shared with others, and with all that it leaves behind when it is killed in
    folders that are removed."""
    (work / "tmp").mkdir(exist_ok=True)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "PMI", "OMPI_COMM", "OMPI_UNIVERSE", "POLYTASK_"))}
    return {
        **kept, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMP_NUM_THREADS": "1",
        "OMPI_MCA_mpi_yield_when_idle": "1", "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
        "OMPI_MCA_btl_vader_backing_directory": str(shared_memory), "TMPDIR": str(work / "tmp"),
    }  # fmt: skip


def make_run(folder, steps):
    """Configuration and data."""
    (folder / "config.yaml").write_text(CONFIG.replace("N_STEPS", str(steps)))
    dice = random.Random(1)
    for split, rows in [("train", 640), ("val", 150), ("test", 90)]:
        with open(folder / f"{split}.csv", "w") as out:
            print("a,b,c,d,sign,size", file=out)
            for _ in range(rows):
                x = [dice.gauss(0, 1) for _ in range(4)]
                label, size = int(x[0] * x[1] + x[2] > 0), x[0] - 2 * x[3] + dice.gauss(0, 0.1)
                print(*(f"{v:.4f}" for v in x), label, f"{size:.4f}", sep=",", file=out)


class Job:
    """A started command with all its processes, found by a mark in their environment: also those that outlive it."""

    def __init__(self, words, folder, env, log):
        self.mark = secrets.token_hex(8)
        self.log = log
        self.began = time.monotonic()
        with open(log, "ab") as out:
            self._process = subprocess.Popen(
                [str(w) for w in words], cwd=folder, env={**env, MARK: self.mark}, stdin=subprocess.DEVNULL,
                stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.pid = self._process.pid

    def processes(self):
        """The living processes with their environments."""
        mark = f"{MARK}={self.mark}".encode()
        found = {}
        for folder in pathlib.Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            try:
                entries = (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue  # gone, or somebody else's; that of a dead one that nobody has asked for is empty
            if mark in entries:
                found[int(folder.name)] = entries
        return found

    def ranks(self):
        """Process ids by rank."""
        key = b"OMPI_COMM_WORLD_RANK="
        found = {}
        for pid, entries in self.processes().items():
            for entry in entries:
                if entry.startswith(key):
                    found.setdefault(int(entry[len(key) :]), pid)
        return found

    def code(self):
        """Exit code of what was started, or None."""
        return self._process.poll()

    def is_gone(self):
        """Nothing of it is alive."""
        return self.code() is not None and not self.processes()

    def dies(self, patience):
        """Waits until it is gone; whether that happened in time."""
        end = time.monotonic() + patience
        while not self.is_gone():
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True

    def ends(self, patience):
        """Runs to its end; the exit code."""
        if not self.dies(patience):
            left = self.left()
            self.kill()
            raise Failure(f"still there after {patience} s: {left}")
        return self.code()

    def left(self):
        """Words about the living processes."""
        words = []
        for pid in self.processes():
            try:
                name = pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
                state = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
            except OSError:
                continue
            words.append(f"{name} {pid} ({state})")
        return ", ".join(words) or "nothing"

    def signal(self, pid, number):
        """A process that has just ended is no failure."""
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass

    def kill(self):
        """Every process, as if the machine had gone."""
        while True:
            # The launcher first: it would see the ranks die.
            for pid in sorted(self.processes(), key=lambda pid: pid != self.pid):
                self.signal(pid, signal.SIGKILL)
            if self.is_gone():
                return
            time.sleep(0.005)

    def words(self):
        """The end of what it printed."""
        lines = self.log.read_text(errors="replace").splitlines()
        return " | ".join(line for line in lines[-12:] if line.strip())


def timeless(value):
    """Without what no two runs have in common."""
    if isinstance(value, dict):
        return {key: timeless(part) for key, part in value.items() if key not in TIMES}
    return [timeless(part) for part in value] if isinstance(value, list) else value


def records(run):
    """The whole lines of metrics.jsonl."""
    try:
        text = (run / "metrics.jsonl").read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def last_step(run):
    """The last step with a record; 0: none."""
    try:
        with open(run / "metrics.jsonl", "rb") as lines:
            lines.seek(0, os.SEEK_END)
            lines.seek(max(0, lines.tell() - 16384))
            tail = lines.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return 0
    whole = [line for line in tail if line.startswith(b"{")]
    return json.loads(whole[-1])["step"] if whole else 0


def latest(run):
    """The step that a resume continues from, by the pointer; 0: there is none."""
    try:
        return int((run / "checkpoints/latest").read_text().strip().removeprefix("step_"))
    except FileNotFoundError:
        return 0


def tensors(run, step):
    """Hashes of the files with the tensors of a checkpoint."""
    folder = run / "checkpoints" / f"step_{step:08}"
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.glob("*.safetensors"))}


def history(run):
    """All that two runs of the same experiment share: records, summary and checkpoints without times."""
    step = latest(run)
    state = json.loads((run / f"checkpoints/step_{step:08}/state.json").read_text())
    summary = timeless(json.loads((run / "summary.json").read_text()))
    best = int((run / "checkpoints/best").read_text().strip().removeprefix("step_"))
    own = ("name", "resumed_from", "config_sha256")
    return {
        "records": [timeless(record) for record in records(run)],
        "summary": {key: value for key, value in summary.items() if key not in own},
        "state": timeless(state),
        "step": step,
        "tensors": tensors(run, step),
        "best": (best, tensors(run, best)),
    }


def is_continuous(run, steps):
    """Each step has one record."""
    found = [record["step"] for record in records(run) if record["kind"] == "train"]
    need(found == list(range(1, steps + 1)), f"{run.name}: steps lost or repeated in metrics.jsonl ({len(found)} for {steps})")


def same_run(run, whole):
    """Fails and says in what they differ."""
    found, expected = history(run), history(whole)
    differ = [part for part in expected if found[part] != expected[part]]
    need(not differ, f"{run.name}: {', '.join(differ)} not as in the run that nothing happened to")


def inspect(polytask, run, env):
    """`polytask inspect`: the exit code and the words. Every hash of every checkpoint is verified."""
    done = subprocess.run([polytask, "inspect", run], env=env, capture_output=True, text=True)
    return done.returncode, (done.stderr.strip() or done.stdout.strip())


def leftovers(run):
    """Names of what was half-made when a writer died."""
    folders = [run, run / "checkpoints"]
    names = [entry.name for folder in folders if folder.is_dir() for entry in folder.iterdir()]
    return {name for name in names if name.startswith(".") or ".tmp-" in name}


def table(head, rows):
    """Columns as wide as they must be; the first to the left, numbers to the right."""
    cells = [[str(cell) for cell in row] for row in [head, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    for row in cells:
        print("  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths))).rstrip())
