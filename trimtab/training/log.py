"""What every step measured: one JSON line a step, and the same numbers as TensorBoard events."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from torch.utils.tensorboard import SummaryWriter

FILE = "metrics.jsonl"

OnStep = Callable[[Mapping[str, float]], None]
"""What is called with the measurements of a step, by name; ``step`` and ``steps`` are among them."""


@dataclass(frozen=True)
class StepMetrics:
    """The measurements of one step.

    Args:
        step: steps done, this one included.
        steps: steps planned.
        reward: mean over the answers sampled last.
        kl: exact KL(tailored || base) on the answers learned from, nats per token; with Quark these are answers of the
            pool, each behind its own control token; where a step passes over its answers several times, the last pass.
        entropy: of the tailored policy on the same answers, nats per token.
        loss: the whole loss.
        distinct_2: share of distinct token pairs over the answers sampled last.
        length: mean length of those, in tokens.
        gradient_norm: before clipping.
        learning_rate: used in the step.
        kl_coefficient: after the step.
        entropy_coefficient: after the step.
        sampling_seconds: of the step, spent on answers and rewards.
        seconds: of the whole step.
        clip_share: share of tokens whose gradient the clip stopped; None, as what follows, where there is none.
        value_loss: mean squared error of the value head, halved and clipped.
        explained_variance: share of the returns' variance that the value head explained before the step.
        mismatch: mean distance of the answers' log-probabilities in vLLM from the trainee's, nats per token.
        push_seconds: of the step's sampling, spent on new weights for vLLM.
    """

    step: int
    steps: int
    reward: float
    kl: float
    entropy: float
    loss: float
    distinct_2: float
    length: float
    gradient_norm: float
    learning_rate: float
    kl_coefficient: float
    entropy_coefficient: float
    sampling_seconds: float
    seconds: float
    clip_share: float | None = None
    value_loss: float | None = None
    explained_variance: float | None = None
    mismatch: float | None = None
    push_seconds: float | None = None


class Log:
    """Writes metrics; a context manager.

    Args:
        run: the run folder.
        done: steps that the run continues from; lines of later steps, which will be repeated, are dropped.
    """

    def __init__(self, run: Path, done: int) -> None:
        path = run / FILE
        kept = [line for line in read_metrics(run) if line["step"] <= done]
        partial = path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        partial.replace(path)
        self._file = path.open("a", encoding="utf-8")
        self._events = SummaryWriter(str(run / "tensorboard"), purge_step=done + 1)

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._events.close()

    def write(self, metrics: Mapping[str, float]) -> None:
        """Write one step: names and values, ``step`` among them."""
        self._file.write(json.dumps(metrics) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            if name not in ("step", "steps"):
                self._events.add_scalar(name, value, metrics["step"])

    @staticmethod
    def last(run: Path) -> dict[str, Any]:
        """Return the metrics of the last step, or nothing for a run without steps."""
        lines = read_metrics(run)
        return lines[-1] if lines else {}


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Return the metrics of every step of a run; a line that a crash cut short is left out."""
    path = run / FILE
    if not path.is_file():
        return []
    whole = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in whole]


def distinct_share(completions: Sequence[Sequence[int]]) -> float:
    """Return the share of distinct token pairs among all pairs of all answers.

    Example:
        >>> distinct_share([[1, 2, 1, 2]])  # (1, 2), (2, 1), (1, 2)
        0.6666666666666666
    """
    pairs = [pair for tokens in completions for pair in itertools.pairwise(tokens)]
    return len(set(pairs)) / max(1, len(pairs))
