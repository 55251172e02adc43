"""Writes the data of configs/bench_*.yaml: Gaussian inputs and targets that depend on them, from a fixed seed.

usage: data.py FOLDER
"""

import pathlib
import sys

import numpy as np

SHAPES = {"bench_t3": (512, 3), "bench_t8": (256, 8)}  # name: (inputs, tasks)
ROWS = 8192


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, (inputs, tasks) in SHAPES.items():
        rng = np.random.default_rng(1)
        x = rng.standard_normal((ROWS, inputs), dtype=np.float32)
        weights = rng.standard_normal((inputs, tasks), dtype=np.float32) / np.float32(np.sqrt(inputs))
        y = np.tanh(x @ weights) + rng.standard_normal((ROWS, tasks), dtype=np.float32) / 10
        np.savez(folder / f"{name}.npz", x=x, **{f"y{t}": y[:, t].copy() for t in range(tasks)})


if __name__ == "__main__":
    main()
