#!/usr/bin/env python3
"""Load the encoder of a polytask checkpoint into PyTorch. Needs torch and safetensors.

    python examples/load_encoder.py runs/NAME/checkpoints
    python examples/load_encoder.py runs/NAME/checkpoints/step_00001200

A checkpoint folder holds all parameters in `model.safetensors`, under PyTorch-like names:
`encoder.layers.0.weight` [out, in], `encoder.layers.0.bias` [out], ... So two lines do it:

    tensors = load_file(folder / "model.safetensors")
    encoder.load_state_dict({k[len("encoder."):]: v for k, v in tensors.items() if k.startswith("encoder.")})

The rest of this file builds an `encoder` to load into: a plain MLP, with the widths found in the file. Inputs are the
standardised ones of training; the means and deviations are in the folder's `transforms.json`.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn


class Mlp(nn.Module):
    """Linear layers, each followed by ReLU."""

    def __init__(self, widths):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, widths[1:]))

    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


def checkpoint_folder(path):
    """The folder itself, or the one that `latest` names in a folder of checkpoints."""
    latest = path / "latest"
    return path / latest.read_text().strip() if latest.exists() else path


def widths(tensors):
    """Input width, then the width of every layer."""
    weights = []
    while (name := f"encoder.layers.{len(weights)}.weight") in tensors:
        weights.append(tensors[name])
    if not weights:
        raise SystemExit(f"no encoder.layers.0.weight: the encoder is no MLP. Its tensors: {sorted(tensors)}")
    return [weights[0].shape[1]] + [w.shape[0] for w in weights]


def load_encoder(folder):
    tensors = load_file(folder / "model.safetensors")
    encoder = Mlp(widths(tensors)).to(tensors["encoder.layers.0.weight"].dtype)
    encoder.load_state_dict({k[len("encoder."):]: v for k, v in tensors.items() if k.startswith("encoder.")})
    return encoder.eval()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="a checkpoint folder, or the folder of all checkpoints")
    folder = checkpoint_folder(parser.parse_args().checkpoint)
    encoder = load_encoder(folder)
    print(folder)
    print(encoder)
    first = encoder.layers[0]
    with torch.no_grad():
        features = encoder(torch.zeros(1, first.in_features, dtype=first.weight.dtype))
    print(f"features of a zero input: {list(features.shape)}, norm {features.norm():.4f}")


if __name__ == "__main__":
    main()
