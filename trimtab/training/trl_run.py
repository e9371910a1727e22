"""What all runs of TRL's trainers have in common: their arguments, and where their measurements go."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from trimtab.errors import ConfigError, RunError
from trimtab.training.log import Log, OnStep
from trimtab.training.small_settings import SmallSettings

_RENAMED = {
    "grad_norm": "gradient_norm",
    "rewards/accuracies": "accuracy",
    "rewards/margins": "margin",
    "mean_token_accuracy": "accuracy",
}

# transformers 5.23 has renamed it and warns of the old name.
_CHECKPOINTING = next(
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if name in {field.name for field in fields(TrainingArguments)}
)


def trl_arguments(settings: SmallSettings) -> dict[str, Any]:
    """Return the arguments that the configurations of TRL's trainers share.

    Nothing is reported to a service, and nothing is saved: TRL's checkpoints are pickled in part.
    """
    if settings.rows % settings.micro_rows and settings.rows > settings.micro_rows:
        raise ConfigError(
            given=f"rows={settings.rows}, micro_rows={settings.micro_rows}",
            expected="micro_rows that divide rows",
            hint="change micro_rows",
        )
    micro = min(settings.rows, settings.micro_rows)
    on_cpu = settings.device == "cpu" or (settings.device == "auto" and not torch.cuda.is_available())
    return {
        "output_dir": str(settings.output / "trl"),
        "per_device_train_batch_size": micro,
        "per_device_eval_batch_size": micro,
        "gradient_accumulation_steps": settings.rows // micro,
        "num_train_epochs": settings.epochs,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": settings.warmup,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "seed": settings.seed,
        "data_seed": settings.seed,
        "use_cpu": on_cpu,
        "bf16": settings.in_bfloat16,
        _CHECKPOINTING: False,
        "save_strategy": "no",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": not on_cpu,
    }


def report_to(trainer: Trainer, log: Log, on_step: OnStep | None) -> None:
    """Pass a trainer's measurements on, and keep it from printing them."""
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Report(log, on_step))


class _Report(TrainerCallback):  # type: ignore[misc]
    """Passes a trainer's measurements on to the log of the run and to a callback.

    Args:
        log: of the run.
        on_step: called with the measurements of every step.
    """

    def __init__(self, log: Log, on_step: OnStep | None) -> None:
        self._log, self._on_step, self._since = log, on_step, time.perf_counter()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **_: object,
    ) -> None:
        """Take note of a training step; other messages have no loss.

        Raises:
            RunError: the loss or its gradient is not finite.
        """
        if logs is None or "loss" not in logs:
            return
        if not (math.isfinite(logs["loss"]) and math.isfinite(logs["grad_norm"])):
            raise RunError(
                given=f"a loss of {logs['loss']} with a gradient norm of {logs['grad_norm']}",
                expected="finite numbers",
                hint="lower learning_rate or use dtype=float32, and start over with --overwrite",
            )
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        named = {_RENAMED.get(name, name.replace("/", "_")): float(value) for name, value in logs.items()}
        metrics = {"step": state.global_step, "steps": state.max_steps, **named, "seconds": seconds}
        self._log.write(metrics)
        if self._on_step is not None:
            self._on_step(metrics)


def refuse_resume(resume: bool) -> None:
    """Refuse to continue what keeps no checkpoints.

    Raises:
        ConfigError: it was asked for.
    """
    if resume:
        raise ConfigError(
            given="--resume of a run that TRL trains",
            expected="a run that starts over: TRL's checkpoints are pickled, so none are written",
            hint="use --overwrite; runs of value and genarm can be resumed",
        )
