"""Small tensors from the host to where the weights are."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor without waiting for what the device is doing; on the host, return it as it is.

    CUDA takes memory that is not pinned into a buffer of its own before it returns, so the tensor may change at once.
    Other devices promise no such thing.
    """
    return tensor.to(device, non_blocking=device.type == "cuda")
