"""One loop for losses over examples: shuffle, learn, measure, checkpoint; a resumed run ends equal to a whole one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from trimtab.errors import RunError
from trimtab.training.checkpoint import Progress, latest_checkpoint, load_checkpoint, save_checkpoint
from trimtab.training.interrupt import deferred_interrupt
from trimtab.training.log import Log, OnStep
from trimtab.training.small_settings import FitSettings

Example = TypeVar("Example")
Loss = Callable[[Sequence[Example]], tuple[Tensor, Mapping[str, float]]]
"""From examples to the mean of their losses and to what is logged beside it."""


def fit(
    examples: Sequence[Example],
    loss: Loss[Example],
    parameters: Mapping[str, nn.Parameter],
    settings: FitSettings,
    *,
    resume: bool,
    on_step: OnStep | None = None,
) -> float:
    """Minimise a loss over examples with AdamW.

    Args:
        examples: what is learned from.
        loss: called with a few of them.
        parameters: what is trained, by name.
        settings: epochs, rows, rates and the run folder.
        resume: go on from the newest checkpoint of the run folder.
        on_step: called with the measurements of every step.

    Returns:
        Seconds spent in steps, earlier parts of the run included.

    Raises:
        RunError: a gradient is not finite.
        KeyboardInterrupt: Ctrl-C; the step in progress was finished and saved first.
    """
    optimiser = torch.optim.AdamW(parameters.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    progress = Progress()
    if resume and (checkpoint := latest_checkpoint(settings.output)) is not None:
        progress, _ = load_checkpoint(checkpoint, parameters, optimiser)
    a_pass = math.ceil(len(examples) / settings.rows)
    steps = a_pass * settings.epochs
    with Log(settings.output, progress.step) as log, deferred_interrupt() as interrupted:
        saved = progress.step
        while progress.step < steps:
            started = time.perf_counter()
            rate = settings.learning_rate * slope(progress.step, steps, settings.warmup)
            for group in optimiser.param_groups:
                group["lr"] = rate
            order = _order(len(examples), settings.seed, progress.step // a_pass)
            at = progress.step % a_pass * settings.rows
            chosen = [examples[i] for i in order[at : at + settings.rows]]
            measured = _update(chosen, loss, parameters, optimiser, settings)
            seconds = time.perf_counter() - started
            progress = replace(progress, step=progress.step + 1, seconds=progress.seconds + seconds)
            metrics = {"step": progress.step, "steps": steps, **measured, "learning_rate": rate, "seconds": seconds}
            log.write(metrics)
            if on_step is not None:
                on_step(metrics)
            if interrupted.is_set() or progress.step % settings.checkpoint_every == 0 or progress.step == steps:
                save_checkpoint(settings.output, progress, parameters, optimiser, [])
                saved = progress.step
            if interrupted.is_set():
                raise KeyboardInterrupt
        assert saved == progress.step
    return progress.seconds


def slope(step: int, steps: int, warmup: float) -> float:
    """Return the share of the highest learning rate in a step: a linear rise, then a linear fall to 0.

    Example:
        >>> [round(slope(step, 10, 0.2), 2) for step in range(10)]
        [0.5, 1.0, 1.0, 0.88, 0.75, 0.62, 0.5, 0.38, 0.25, 0.12]
    """
    rise = int(steps * warmup)
    return (step + 1) / rise if step < rise else (steps - step) / (steps - rise)


def _update(
    chosen: Sequence[Example],
    loss: Loss[Example],
    parameters: Mapping[str, nn.Parameter],
    optimiser: torch.optim.Optimizer,
    settings: FitSettings,
) -> dict[str, float]:
    """Do one optimiser step, a few rows at a time; returns the loss and what else was measured, means of the rows."""
    optimiser.zero_grad(set_to_none=True)
    totals: dict[str, float] = {}
    device = next(iter(parameters.values())).device.type
    for at in range(0, len(chosen), settings.micro_rows):
        few = chosen[at : at + settings.micro_rows]
        share = len(few) / len(chosen)
        with torch.autocast(device, torch.bfloat16, enabled=settings.in_bfloat16):
            value, measured = loss(few)
        (value * share).backward()  # type: ignore[no-untyped-call]
        for name, number in {"loss": float(value.detach()), **measured}.items():
            totals[name] = totals.get(name, 0.0) + share * number
    norm = torch.nn.utils.clip_grad_norm_(parameters.values(), settings.max_grad_norm)
    if not bool(torch.isfinite(norm)):
        raise RunError(
            given="a gradient that is not finite",
            expected="finite numbers",
            hint="lower learning_rate, use dtype=float32, and resume from the last checkpoint",
        )
    optimiser.step()
    return {**totals, "gradient_norm": float(norm)}


def _order(count: int, seed: int, epoch: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed + 7919 * epoch)
    order: list[int] = torch.randperm(count, generator=generator).tolist()
    return order
