"""What scripts/gpu_check and scripts/bench/gpu share: finding and running the program, its files, and synthetic data.

Python's standard library alone.
"""

import array
import contextlib
import ctypes
import dataclasses
import hashlib
import importlib.util
import json
import math
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "dist/polytask-bundle"
# For ranks that share one GPU: NCCL takes them for ranks of different machines, which talk through sockets of this one.
ONE_GPU = {
    "NCCL_SOCKET_IFNAME": "lo",
    "NCCL_IB_DISABLE": "1",
    "NCCL_NET": "Socket",
    "NCCL_ALGO": "Ring",
    "NCCL_PROTO": "Simple",
}


class Failed(Exception):
    """A check that failed, or a program that ended otherwise than it should."""


class Skipped(Exception):
    """A check that cannot run here."""


@dataclasses.dataclass
class Done:
    code: int
    text: str  # standard output, then standard error
    out: str
    seconds: float


def call(command, env=None, timeout=120):
    """Runs a command in a process group of its own, which is gone when this returns. 124: it took too long."""
    started = time.monotonic()
    process = subprocess.Popen(
        [str(word) for word in command],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout)
        code = process.returncode
    except subprocess.TimeoutExpired:
        kill_group(process)
        out, err = process.communicate()
        code, err = 124, err + f"\nended after {timeout} s"
    finally:
        kill_group(process)
    return Done(code, out + err, out, time.monotonic() - started)


def kill_group(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


class Program:
    """The program, from a bundle or a build, on one rank or several."""

    def __init__(self, path, cuda):
        if path is None:
            found = [BUNDLE / "polytask", ROOT / "target/release/polytask"]
            path = os.environ.get("POLYTASK") or next((p for p in found if p.exists()), None)
            if path is None:
                sys.exit("no program: neither dist/polytask-bundle (scripts/bundle) nor target/release/polytask")
        self.path = pathlib.Path(path).resolve()
        self.cuda = cuda
        beside = self.path.parent / "mpirun"
        # The libtorch of the Python that runs this script, if it has one and nothing else is said.
        if importlib.util.find_spec("torch"):
            os.environ.setdefault("POLYTASK_PYTHON", sys.executable)
        self.mpirun = str(beside) if beside.exists() else shutil.which("mpirun")

    def run(self, arguments, ranks=1, env=None, timeout=120):
        """Runs a subcommand; ranks past the first share the machine, and on a GPU machine its one GPU."""
        threads = max(1, (os.cpu_count() or 1) // ranks) if self.cuda else 1
        env = {"OMP_NUM_THREADS": str(threads), **(env or {})}
        if ranks == 1:
            return call([self.path, *arguments], env, timeout)
        if self.mpirun is None:
            raise Failed("there is no mpirun, neither beside the program nor on PATH")
        env.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
        env.setdefault("OMPI_MCA_btl_vader_single_copy_mechanism", "none")
        if self.cuda:
            env.update(ONE_GPU)
        start = 'NCCL_HOSTID=rank$OMPI_COMM_WORLD_RANK exec "$@"' if self.cuda else 'exec "$@"'
        launch = [self.mpirun, "-n", ranks, "--bind-to", "none", "--oversubscribe", "sh", "-c", start, "sh"]
        return call([*launch, self.path, *arguments], env, timeout)

    def knows(self, config, key, value="no_such_value"):
        """Whether the configuration has a key; with a value: whether it is one of those that the key may have."""
        done = self.run(["check", config, "--set", f"{key}=no_such_value"])
        if done.code != 2 or key.rsplit(".", 1)[-1] not in done.text:
            raise Failed(f"`check` with a wrong {key} ended with code {done.code}: {tail(done.text)}")
        if "unknown field" in done.text:
            return False
        text = done.text
        return value == "no_such_value" or f"`{value}`" in text


def gpus():
    """Number of CUDA devices, asked of the driver itself."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def options(pairs):
    """Overrides for the command line."""
    return [word for key, value in pairs.items() for word in ("--set", f"{key}={value}")]


def read_safetensors(path):
    """All numbers of a file by tensor, in the file's order; bf16 becomes f32."""
    data = pathlib.Path(path).read_bytes()
    (n,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + n])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        start, end = entry["data_offsets"]
        raw = data[8 + n + start : 8 + n + end]
        if entry["dtype"] == "BF16":
            wide = bytearray(2 * len(raw))
            wide[2::4], wide[3::4] = raw[0::2], raw[1::2]
            raw, kind = bytes(wide), "f"
        else:
            kind = {"F32": "f", "F64": "d"}[entry["dtype"]]
        tensors[name] = array.array(kind, raw)
    return tensors


def write_safetensors(path, tensors):
    """tensors: {name: (dtype, shape, bytes)}."""
    header, at = {}, 0
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(raw)]}
        at += len(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, _, raw in tensors.values():
            file.write(raw)


def checkpoint(run_dir):
    """The folder of the latest checkpoint."""
    folder = pathlib.Path(run_dir) / "checkpoints"
    return folder / (folder / "latest").read_text().strip()


def parameters(run_dir):
    """All parameters of the latest checkpoint, one after the other."""
    numbers = []
    for tensor in read_safetensors(checkpoint(run_dir) / "model.safetensors").values():
        numbers.extend(tensor)
    return numbers


def fingerprint(run_dir):
    """Hash of all tensors of the latest checkpoint."""
    digest = hashlib.sha256()
    for file in sorted(checkpoint(run_dir).glob("*.safetensors")):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def distance(a, b):
    return math.sqrt(math.fsum((x - y) ** 2 for x, y in zip(a, b)))


def records(run_dir, kind="train"):
    """Lines of metrics.jsonl."""
    lines = (pathlib.Path(run_dir) / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def json_of(done):
    """The JSON object that a command printed."""
    if done.code != 0:
        raise Failed(f"ended with code {done.code}: {tail(done.text)}")
    try:
        return json.loads(done.out[done.out.index("{") :])
    except ValueError:
        raise Failed(f"printed no JSON: {tail(done.text)}") from None


def tail(text, n=400):
    return " / ".join(line.strip() for line in text.strip()[-n:].splitlines() if line.strip())


def table(rows, head):
    """Columns as wide as their longest entry."""
    rows = [list(map(str, row)) for row in [head, *rows]]
    widths = [max(len(row[k]) for row in rows) for k in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
