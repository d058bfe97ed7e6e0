"""The tensors of Inception-v3's published file, with weights from a formula."""

import json

import closed_form
import torch_files
from places import FILES

GOLDEN = json.loads((FILES / "inception_golden.json").read_text())


def shapes():
    """Those of all tensors in the published file."""
    found = {"fc.weight": (1008, 2048), "fc.bias": (1008,)}
    for unit, kernel in GOLDEN["units"].items():
        found[f"{unit}.conv.weight"] = tuple(kernel)
        for part in ("weight", "bias", "running_mean", "running_var"):
            found[f"{unit}.bn.{part}"] = (kernel[0],)
    return found


def tensor(name, shape):
    return torch_files.Tensor(closed_form.inception(name, shape), shape)
