"""The peers of scripts/bench/gpu: the same models, batches and optimizer in PyTorch, TorchJD and LibMTL.

Reads one JSON object a line, answers with one JSON object a line:

    {"make": FILE, "rows": n, "input": [512], "tasks": 8}     writes synthetic data for both sides
    {"has": "torchjd"}                                        whether it can be imported
    {"copy": MIB}                                             measures the bandwidth of a copy
    {"case": {...}, "form": "loss"}                           times a step; forms are in FORMS

Forms: `loss` is forward, one backward, AdamW. `grad` and `backward` are forward, T backwards and AdamW without any
balancing, by torch.autograd.grad or by loss.backward. `torchjd` and `libmtl` balance, by the method in the case.
AdamW is fused=True. Batches lie on the device before the clock runs. A time is that of several steps between two
synchronisations, divided by their number.
"""

import argparse
import contextlib
import ctypes
import importlib
import importlib.util
import json
import math
import resource
import statistics
import sys
import time
import types

import torch
from gpu_program import write_safetensors

BLOCK = 5  # steps between two synchronisations


def bytes_of(tensor):
    tensor = tensor.contiguous()
    return ctypes.string_at(tensor.data_ptr(), tensor.numel() * tensor.element_size())


def make(order):
    """Gaussian inputs and targets that depend on them."""
    torch.manual_seed(1)
    rows, shape, tasks = order["rows"], order["input"], order["tasks"]
    x = torch.randn(rows, *shape)
    directions = torch.randn(math.prod(shape), tasks) / math.sqrt(math.prod(shape))
    y = (x.flatten(1) @ directions).tanh() + torch.randn(rows, tasks) / 10
    tensors = {"x": ("F32", x.shape, bytes_of(x))}
    tensors.update({f"y{t}": ("F32", [rows], bytes_of(y[:, t])) for t in range(tasks)})
    write_safetensors(order["make"], tensors)
    return {}


class Cnn(torch.nn.Module):
    """As src/model/encoders/cnn.rs."""

    def __init__(self, channels_in, side, channels, kernel, groups, widths):
        super().__init__()
        layers = []
        for n_in, n_out in zip([channels_in, *channels], channels):
            layers.append(torch.nn.Conv2d(n_in, n_out, kernel, padding="same"))
            layers += [torch.nn.GroupNorm(groups, n_out)] if groups else []
            layers += [torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
            side //= 2
        layers.append(torch.nn.Flatten())
        self.layers = torch.nn.Sequential(*layers, *dense([channels[-1] * side * side, *widths]))

    def forward(self, x):
        return self.layers(x)


def dense(widths):
    pairs = zip(widths, widths[1:])
    return [layer for n_in, n_out in pairs for layer in (torch.nn.Linear(n_in, n_out), torch.nn.ReLU())]


class Model(torch.nn.Module):
    def __init__(self, case):
        super().__init__()
        cnn = case.get("cnn")
        self.encoder = Cnn(*case["input"][:2], **cnn) if cnn else torch.nn.Sequential(*dense([*case["input"], *case["widths"]]))
        width = (cnn["widths"] if cnn else case["widths"])[-1]
        self.heads = torch.nn.ModuleList(torch.nn.Linear(width, 1) for _ in range(case["tasks"]))

    def losses(self, z, y):
        return [torch.nn.functional.mse_loss(head(z), y[t]) for t, head in enumerate(self.heads)]


def loss(run, z, losses):
    sum(losses).backward()


def grad(run, z, losses):
    for t, (value, head) in enumerate(zip(losses, run.model.heads)):
        last = t + 1 == len(losses)
        own = list(head.parameters())
        grads = torch.autograd.grad(value, run.shared + own, retain_graph=not last)
        for p, g in zip(run.shared + own if last else own, grads if last else grads[len(run.shared) :]):
            p.grad = g


def backward(run, z, losses):
    for t, value in enumerate(losses):
        value.backward(retain_graph=t + 1 < len(losses))


def torchjd(run, z, losses):
    """Of the newer interface and the older one."""
    if run.two_calls:
        run.mtl_backward(losses, features=z)
        run.jac_to_grad(run.shared, run.aggregator)
    else:
        run.mtl_backward(losses=losses, features=z, aggregator=run.aggregator)


def libmtl(run, z, losses):
    run.weighting.backward(torch.stack(losses))


FORMS = {"loss": loss, "grad": grad, "backward": backward, "torchjd": torchjd, "libmtl": libmtl}


class Run:
    """A model with what its form needs."""

    def __init__(self, case, form, device):
        torch.manual_seed(1)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = case["tf32"]
        self.case, self.form, self.device = case, form, device
        self.model = Model(case).to(device)
        self.shared = list(self.model.encoder.parameters())
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, weight_decay=0.01, fused=True)
        getattr(self, f"with_{form}", lambda: None)()
        n, tasks = case["batch"], case["tasks"]
        draw = lambda: (torch.randn(n, *case["input"], device=device), torch.randn(tasks, n, 1, device=device))
        self.batches = [draw() for _ in range(2)]

    def with_torchjd(self):
        from torchjd import aggregation, autojac

        names = {"pcgrad": "PCGrad", "mgda": "MGDA", "upgrad": "UPGrad"}
        self.aggregator = getattr(aggregation, names[self.case["surgery"]])()
        self.mtl_backward = autojac.mtl_backward
        self.jac_to_grad = getattr(autojac, "jac_to_grad", None)
        self.two_calls = self.jac_to_grad is not None

    def with_libmtl(self):
        weighting = imported("libmtl").weighting
        method = getattr(weighting, {"pcgrad": "PCGrad", "mgda": "MGDA"}[self.case["surgery"]])
        shared = self.shared

        class Weighting(method):
            def get_share_params(self):
                return shared

            def zero_grad_share_params(self):
                for p in shared:
                    p.grad.zero_()

        self.weighting = Weighting()
        self.weighting.task_num, self.weighting.device, self.weighting.rep_grad = len(self.model.heads), self.device, False
        self.options = {"mgda_gn": "none"}
        original = self.weighting.backward
        self.weighting.backward = lambda losses: original(losses, **self.options)

    def step(self, k):
        x, y = self.batches[k % len(self.batches)]
        half = torch.autocast(self.device.type, torch.bfloat16) if self.case["precision"] == "bf16" else contextlib.nullcontext()
        with half:
            z = self.model.encoder(x)
            losses = self.model.losses(z, y)
        FORMS[self.form](self, z, losses)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def timed(case, form, device):
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    run = Run(case, form, device)
    for k in range(case["warmup"]):
        run.step(k)
    times = []
    for _ in range(max(1, case["steps"] // BLOCK)):
        synchronize(device)
        start = time.perf_counter()
        for k in range(BLOCK):
            run.step(k)
        synchronize(device)
        times.append(1e3 * (time.perf_counter() - start) / BLOCK)
    peak = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"step_ms": statistics.median(times), "peak_mib": peak, "shared": sum(p.numel() for p in run.shared)}


def copy(mib, device):
    """GB/s of a copy, read and written bytes together."""
    a = torch.ones(mib * 2**18, device=device)
    b = torch.empty_like(a)
    best = math.inf
    for _ in range(15):
        synchronize(device)
        start = time.perf_counter()
        b.copy_(a)
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return {"gb_per_s": 2 * a.numel() * 4 / best / 1e9}


def imported(name):
    if name == "libmtl" and "LibMTL" not in sys.modules:
        # Its pictures' models import a name that torchvision has dropped; nothing here uses them.
        parts = ["torchvision", "torchvision.models", "torchvision.models.utils"]
        for part in parts[2:] if importlib.util.find_spec("torchvision") else parts:
            sys.modules[part] = types.ModuleType(part)
        sys.modules[parts[2]].load_state_dict_from_url = None
    return importlib.import_module({"torchjd": "torchjd", "libmtl": "LibMTL"}[name])


def answer(order, device):
    if "has" in order:
        return {"version": getattr(imported(order["has"]), "__version__", "")}
    if "make" in order:
        return make(order)
    if "copy" in order:
        return copy(order["copy"], device)
    return timed(order["case"], order["form"], device)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], required=True)
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries that print must not answer
    name = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    print(json.dumps({"torch": torch.__version__, "device": name}), file=answers, flush=True)
    for line in sys.stdin:
        try:
            result = answer(json.loads(line), device)
        except Exception as error:  # the next case may do
            result = {"error": f"{type(error).__name__}: {error}"[:300]}
        print(json.dumps(result), file=answers, flush=True)


if __name__ == "__main__":
    main()
