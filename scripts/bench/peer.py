"""The same step in plain PyTorch: the model, batch, threads and data of a configs/bench_*.yaml.

    --mode loss    forward, one backward of the summed loss, AdamW
    --mode tasks   forward, one backward per task, AdamW: what any gradient method needs at least. Two forms are timed in
                   turn, and the cheaper one counts:
                   grad      torch.autograd.grad for each task; the last task's gradient is what AdamW steps with, so that
                             not even a sum of the gradients is paid for
                   backward  loss.backward(retain_graph=True) for each task, which adds up in .grad

AdamW is fused=True, PyTorch's fastest on CPUs. Batches are cut before the clock runs: no loading is timed.
Prints one JSON object in the form of `polytask bench --json`.
"""

import argparse
import json
import pathlib
import re
import resource
import time

import numpy as np
import torch

FORMS = {"loss": ["loss"], "tasks": ["grad", "backward"]}
PHASES = ["forward", "backward", "optimizer"]


def read_config(path):
    """Widths, batch size and number of tasks: the few lines of the YAML that matter here."""
    text = pathlib.Path(path).read_text()
    widths = [int(w) for w in re.search(r"widths: \[(.*?)\]", text).group(1).split(",")]
    batch = int(re.search(r"per_task: (\d+)", text).group(1))
    tasks = len(re.findall(r"^  y\d+: ", text, re.MULTILINE))
    return widths, batch, tasks


class Model(torch.nn.Module):
    def __init__(self, inputs, widths, tasks):
        super().__init__()
        layers = []
        for n_in, n_out in zip([inputs, *widths], widths):
            layers += [torch.nn.Linear(n_in, n_out), torch.nn.ReLU()]
        self.encoder = torch.nn.Sequential(*layers)
        self.heads = torch.nn.ModuleList(torch.nn.Linear(widths[-1], 1) for _ in range(tasks))

    def losses(self, x, y):
        h = self.encoder(x)
        return [torch.nn.functional.mse_loss(head(h), y[t]) for t, head in enumerate(self.heads)]


def backward(model, losses, form):
    if form == "loss":
        sum(losses).backward()
        return
    shared = list(model.encoder.parameters())
    for t, (loss, head) in enumerate(zip(losses, model.heads)):
        more = t + 1 < len(losses)
        if form == "backward":
            loss.backward(retain_graph=more)
            continue
        own = list(head.parameters())
        grads = torch.autograd.grad(loss, shared + own, retain_graph=more)
        for p, g in zip(own if more else shared + own, grads[len(shared) :] if more else grads):
            p.grad = g


def step(model, optimizer, batch, form):
    """Milliseconds of each phase."""
    times = [time.perf_counter()]
    losses = model.losses(*batch)
    times.append(time.perf_counter())
    backward(model, losses, form)
    times.append(time.perf_counter())
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    times.append(time.perf_counter())
    return [1e3 * (b - a) for a, b in zip(times, times[1:])]


def summary(steps, form, samples):
    total = np.sum(steps, axis=1)
    p10, median, p90 = np.percentile(total, [10, 50, 90])
    return {
        "form": form,
        "step_ms": {"median": median, "p10": p10, "p90": p90},
        "phase_ms": dict(zip(PHASES, np.median(steps, axis=0))),
        "samples_per_s": 1e3 * samples / median,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("data", help="the .npz of scripts/bench/data.py")
    parser.add_argument("--mode", choices=FORMS, required=True)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--warmup", type=int, default=10)
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    widths, batch_size, tasks = read_config(args.config)
    arrays = np.load(args.data)
    x = torch.from_numpy(arrays["x"])
    y = torch.stack([torch.from_numpy(arrays[f"y{t}"]) for t in range(tasks)]).unsqueeze(2)
    batches = [(x[rows], y[:, rows].contiguous()) for rows in torch.randperm(len(x)).split(batch_size)]

    model = Model(x.shape[1], widths, tasks)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, fused=True)
    forms = FORMS[args.mode]
    times = {form: [] for form in forms}
    for k in range((args.warmup + args.steps) * len(forms)):
        form = forms[k % len(forms)]
        times[form].append(step(model, optimizer, batches[k % len(batches)], form))
    results = [summary(times[form][args.warmup :], form, batch_size) for form in forms]
    best = min(results, key=lambda r: r["step_ms"]["median"])
    best["parameters"] = sum(p.numel() for p in model.encoder.parameters())
    print(json.dumps(best))


if __name__ == "__main__":
    main()
