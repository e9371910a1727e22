"""What tells one set of weights from another, computed alike from files and from a model in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def weights_identity(model: nn.Module) -> str:
    """Hash names, shapes and a sample of the values of every tensor of a model."""
    return identity_of(sorted(model.state_dict().items()))


def identity_of(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Hash names, shapes and a sample of the values of tensors, which come sorted by name.

    The sample is rounded to bfloat16, so that the same weights stored in float32 and in bfloat16 are the same.
    """
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        flat = tensor.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 64)][:64].to("cpu", torch.bfloat16)
        digest.update(sample.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()
