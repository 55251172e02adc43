"""Prints the reference values of src/optim/mod.rs: three updates by PyTorch's optimizers in f64."""

import torch

torch.set_default_dtype(torch.float64)
G = torch.tensor([0.1, -0.3, 2.0])


def run(make):
    p = torch.tensor([1.0, -2.0, 0.5], requires_grad=True)
    optimizer = make([p])
    for scale in (1.0, 2.0, -1.0):
        p.grad = scale * G
        optimizer.step()
    return ", ".join(repr(round(x, 15)) for x in p.tolist())


adam = dict(lr=0.1, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1)
sgd = dict(lr=0.1, momentum=0.9, weight_decay=0.1)
for name, make in [
    ("ADAM", lambda p: torch.optim.Adam(p, **adam)),
    ("ADAMW", lambda p: torch.optim.AdamW(p, **adam)),
    ("SGD", lambda p: torch.optim.SGD(p, **sgd)),
    ("NESTEROV", lambda p: torch.optim.SGD(p, nesterov=True, **sgd)),
    ("PLAIN", lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.1)),
]:
    print(f"    const {name}: [f64; 3] = [{run(make)}];")
