"""Memory that one step frees is kept for the next one."""

from __future__ import annotations

import torch


def keep_freed_memory() -> None:
    """Make the C library keep what a step frees for the next step.

    glibc maps large blocks afresh each time, which costs more than what is computed in them, until it has seen one of
    that size freed; the largest that counts is 32 MiB. Elsewhere this does nothing.

    Example:
        >>> keep_freed_memory()
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)
