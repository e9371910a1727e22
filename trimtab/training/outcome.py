"""Where the training of a small model ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Outcome:
    """What a run made.

    Args:
        run: the run folder.
        folder: what was trained.
        numbers: what was measured on held-out data.
        seconds: spent in training.
    """

    run: Path
    folder: Path
    numbers: Mapping[str, float]
    seconds: float
