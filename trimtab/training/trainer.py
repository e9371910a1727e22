"""One loop that trains a guide with any algorithm: sample, score, learn, measure, checkpoint.

The loss is taken on the tailored policy's own distribution; its gradient flows into the guide alone. Everything random
depends on the seed and the step's number, so a resumed run ends equal to one that was never interrupted. Processes that
a launcher has started share each step's prompts and answers out; the first one writes all files.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from trimtab.decoding.queue import check_lengths
from trimtab.errors import RunError
from trimtab.policies.advance import every_leaf
from trimtab.rewards import load_reward
from trimtab.training.batch import Algorithm, Batch, Coefficients, Memory
from trimtab.training.checkpoint import Progress, latest_checkpoint, load_checkpoint, save_checkpoint
from trimtab.training.config import PPOConfig, QuarkConfig, TrainConfig
from trimtab.training.guide import write_guide
from trimtab.training.interrupt import deferred_interrupt
from trimtab.training.log import Log, OnStep, StepMetrics, distinct_share
from trimtab.training.losses import Coefficient
from trimtab.training.on_vllm import VLLMRollouts, check_rollouts
from trimtab.training.policy_gradient import PolicyGradient
from trimtab.training.ppo import PPO
from trimtab.training.prompts import read_prompts, shown
from trimtab.training.quark import Quark
from trimtab.training.ranks import Ranks, join_ranks
from trimtab.training.rollouts import Sampler, check_keywords, draw_here
from trimtab.training.run_folder import open_run
from trimtab.training.trainee import Trainee
from trimtab.training.update import NAMES, Updater

PATIENCE = 3
"""Steps in a row above the KL limit before a run stops."""

ECHO = 5.0
"""Seconds after a Ctrl-C in which a launcher's own one is no second one."""


@dataclass(frozen=True)
class TrainResult:
    """Where a run ended.

    Args:
        run: the run folder.
        guide: the guide folder in it.
        steps: optimiser steps done.
        resumed_from: the step it continued from, 0 for a fresh run.
        seconds: spent in steps, earlier parts of the run included.
        first: whether this process is the one, of several, that wrote it.
    """

    run: Path
    guide: Path
    steps: int
    resumed_from: int
    seconds: float
    first: bool = True


@dataclass
class _Run:
    """A run in progress; ``remote`` is vLLM; ``whole`` is False while a step is changing the parameters."""

    config: TrainConfig
    trainee: Trainee
    algorithm: Algorithm
    optimiser: torch.optim.Optimizer
    coefficients: Coefficients
    ranks: Ranks
    remote: VLLMRollouts | None = None
    progress: Progress = field(default_factory=Progress)
    whole: bool = True


def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    on_step: OnStep | None = None,
) -> TrainResult:
    """Train a guide and write its folder.

    Args:
        config: the run.
        resume: continue from the newest checkpoint of ``config.output``.
        overwrite: replace what is in ``config.output``.
        on_step: called with the metrics of every step, those of :class:`StepMetrics` by name, in the first process.

    Returns:
        Where everything is.

    Raises:
        ConfigError: a setting or a data file is wrong, or the run folder is taken.
        RewardError: the reward failed; what was trained so far is in a checkpoint.
        RunError: a gradient is not finite, a checkpoint cannot be written, another process failed, or one sees
            another newest checkpoint than the others.
        KeyboardInterrupt: Ctrl-C; the step in progress was finished and saved first.
    """
    with join_ranks() as ranks:
        return _train(config, ranks, resume=resume, overwrite=overwrite, on_step=on_step)


def _train(config: TrainConfig, ranks: Ranks, *, resume: bool, overwrite: bool, on_step: OnStep | None) -> TrainResult:
    """Train as one of several processes, of which the first writes all files."""
    with ExitStack() as stack:
        with ranks.united():
            run = _prepare(config, ranks, stack)
        with ranks.united():
            if ranks.first:
                open_run(config, resume=resume, overwrite=overwrite)  # last: what it replaces is lost
        with ranks.united():
            if resume and (checkpoint := latest_checkpoint(config.output)) is not None:
                _restore(run, checkpoint)
        resumed_from = run.progress.step
        if len(set(starts := ranks.gather(resumed_from))) > 1:
            raise RunError(
                given=f"processes that would resume {config.output} from the steps {starts}",
                expected="the same newest checkpoint in every process",
                hint="let all machines read the run folder of the first process",
            )
        guide = config.output / "guide"
        try:
            _loop(run, on_step)
            with ranks.united():
                if ranks.first:
                    write_guide(guide, run.trainee, config, Log.last(config.output))
        finally:
            run.trainee.require_grad(False)
        return TrainResult(config.output, guide, run.progress.step, resumed_from, run.progress.seconds, ranks.first)


def _prepare(config: TrainConfig, ranks: Ranks, stack: ExitStack) -> _Run:
    """Read and load all that a run needs; the stack closes what is started."""
    if config.rollout_engine == "vllm":
        check_rollouts(config, ranks.count)
    reward = load_reward(config.reward)
    found = read_prompts(config.prompts)  # before a model is loaded: the file may be wrong
    trainee = Trainee.build(config)
    vocabulary = trainee.base.vocabulary
    rows = shown(found, config.prompts, vocabulary)
    prompts = [vocabulary.encode(row["prompt"]) for row in rows]
    check_lengths(every_leaf([trainee.policy()]), prompts, config.rollout.max_new_tokens)
    check_keywords(rows, config.rollout, vocabulary)
    remote = None
    if config.rollout_engine == "vllm":
        remote = stack.enter_context(VLLMRollouts(trainee, config, max(map(len, prompts))))
    sampler = Sampler(rows, reward, config.rollout, config.seed, ranks, remote or draw_here)
    algorithm = _algorithm(config, trainee, sampler)
    optimiser = torch.optim.Adam(trainee.parameters.values(), lr=config.learning_rate)
    coefficients = Coefficients(
        Coefficient(config.kl.coefficient, config.kl.target, config.kl.horizon),
        Coefficient(config.entropy.coefficient, config.entropy.target, config.entropy.horizon, rewarded=True),
    )
    return _Run(config, trainee, algorithm, optimiser, coefficients, ranks, remote)


def _algorithm(config: TrainConfig, trainee: Trainee, sampler: Sampler) -> Algorithm:
    """Return the algorithm that the configuration names."""
    match config.algorithm:
        case QuarkConfig():
            return Quark(trainee, sampler, config.algorithm)
        case PPOConfig():
            return PPO(trainee, sampler, config.algorithm, config.micro_rows)
        case _:
            return PolicyGradient(trainee, sampler, config.algorithm)


def _loop(run: _Run, on_step: OnStep | None) -> None:
    """Step until the end, the KL limit or Ctrl-C; save on the way, at the end, and when a step fails."""
    config, ranks = run.config, run.ranks
    # Only what the first process writes or is told matters; the others have no log.
    writing = Log(config.output, run.progress.step) if ranks.first else nullcontext()
    with writing as log, deferred_interrupt(ECHO if ranks.count > 1 else 0.0) as interrupted:
        saved = run.progress.step
        try:
            while run.progress.step < config.steps and run.progress.over_limit < PATIENCE:
                metrics = {name: value for name, value in asdict(_step(run)).items() if value is not None}
                with ranks.united():
                    if log is not None:
                        log.write(metrics)
                        if on_step is not None:
                            on_step(metrics)
                if ranks.any(interrupted.is_set()):
                    raise KeyboardInterrupt
                if run.progress.step % config.checkpoint_every == 0:
                    with ranks.united():
                        _save(run)
                    saved = run.progress.step
        finally:
            if run.whole and run.progress.step > saved:
                _save(run)


def _step(run: _Run) -> StepMetrics:
    """Do one step: sample, and one optimiser update for each batch."""
    started = time.perf_counter()
    config, progress = run.config, run.progress
    run.trainee.require_grad(False)
    passes = run.algorithm.passes(progress.step, run.coefficients.kl.value)
    sampled = time.perf_counter()
    rate = _learning_rate(config, progress.step)
    for group in run.optimiser.param_groups:
        group["lr"] = rate
    run.trainee.require_grad(True)
    run.whole = False
    measured = _learn(run, passes)
    count = sum(len(batch.rollouts) for batch in passes[-1])
    run.coefficients = Coefficients(
        run.coefficients.kl.updated(measured["kl"], count), run.coefficients.entropy.updated(measured["entropy"], count)
    )
    seconds = time.perf_counter() - started
    over = progress.over_limit + 1 if config.stop_kl is not None and measured["kl"] > config.stop_kl else 0
    run.progress = Progress(
        progress.step + 1,
        run.coefficients.kl.value,
        run.coefficients.entropy.value,
        over,
        progress.seconds + seconds,
    )
    run.whole = True
    rollouts = run.algorithm.latest
    critique = passes[-1][-1].critique
    drawn = None if run.remote is None else run.remote.latest
    return StepMetrics(
        step=run.progress.step,
        steps=config.steps,
        reward=sum(rollout.reward for rollout in rollouts) / len(rollouts),
        kl=measured["kl"],
        entropy=measured["entropy"],
        loss=measured["loss"],
        distinct_2=distinct_share([rollout.completion for rollout in rollouts]),
        length=sum(len(rollout.completion) for rollout in rollouts) / len(rollouts),
        gradient_norm=measured["gradient_norm"],
        learning_rate=rate,
        kl_coefficient=run.coefficients.kl.value,
        entropy_coefficient=run.coefficients.entropy.value,
        sampling_seconds=sampled - started,
        seconds=seconds,
        clip_share=measured.get("clip_share"),
        value_loss=measured.get("value_loss"),
        explained_variance=None if critique is None else critique.explained,
        mismatch=None if drawn is None else drawn.mismatch,
        push_seconds=None if drawn is None else drawn.push_seconds,
    )


def _learn(run: _Run, passes: Sequence[Sequence[Batch]]) -> dict[str, float]:
    """Do a step's updates; returns by name what those of the last pass measured, and the norm of the last gradient."""
    config, average = run.config, run.algorithm.average
    updater = Updater(run.trainee, run.algorithm, run.optimiser, run.ranks, config.micro_rows, config.max_grad_norm)
    done = [
        [(batch.weight(average), updater.update(batch, run.coefficients, run.progress.step + 1)) for batch in each]
        for each in passes
    ]
    whole = sum(weight for weight, _ in done[-1])
    means = torch.stack([weight / whole * measured.means for weight, measured in done[-1]]).sum(0)
    named = {name: value for name, value in zip(NAMES, means.tolist(), strict=True) if not math.isnan(value)}
    return named | {"gradient_norm": done[-1][-1][1].gradient_norm}


def _learning_rate(config: TrainConfig, number: int) -> float:
    """Rise linearly over the warm-up, then stay, or fall linearly to a tenth."""
    rise = min(1.0, (number + 1) / (config.warmup_steps + 1))
    fall = 1.0 - 0.9 * number / config.steps if config.decay else 1.0
    return config.learning_rate * rise * fall


def _save(run: _Run) -> None:
    if run.ranks.first:
        memory = run.algorithm.memory()
        progress = replace(run.progress, baseline=memory.baseline)
        save_checkpoint(run.config.output, progress, run.trainee.tensors, run.optimiser, memory.rollouts)


def _restore(run: _Run, checkpoint: Path) -> None:
    progress, rollouts = load_checkpoint(checkpoint, run.trainee.tensors, run.optimiser)
    run.algorithm.restore(Memory(rollouts, progress.baseline))
    run.progress = progress
    run.coefficients = Coefficients(
        replace(run.coefficients.kl, value=progress.kl_coefficient),
        replace(run.coefficients.entropy, value=progress.entropy_coefficient),
    )
