"""One task from beginning to end: train, let everything compete, sweep the strength, and report.

Every stage is kept under the output folder and used again; a training run that was stopped goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from trimtab.errors import ConfigError
from trimtab.evaluation.frontier import Point
from trimtab.policies.base import Policy
from trimtab.policies.guide_folder import read_guide_file
from trimtab.policies.lm import LM
from trimtab.policies.policy_file import read_policy_file
from trimtab.policies.recipes import dexperts
from trimtab.rewards import Likelihood, check_independent, load_judge, load_reward
from trimtab.tasks.baselines import Contestant, asked, baseline, constrained
from trimtab.tasks.contest import Conditions, Standing, contest
from trimtab.tasks.data import read_task_rows, refuse_overlap
from trimtab.tasks.sweep import Points, frontier, sweep, tabulated
from trimtab.tasks.task_settings import ExpertSettings, TaskSettings
from trimtab.training.checkpoint import latest_checkpoint
from trimtab.training.config import TrainConfig
from trimtab.training.log import OnStep, read_metrics
from trimtab.training.prompts import prompts_for, read_prompts
from trimtab.training.rollouts import collect
from trimtab.training.run_folder import CONFIG
from trimtab.training.sft import train_sft
from trimtab.training.trainer import train

Progress = Callable[[str], None]


@dataclass(frozen=True)
class TaskOutcome:
    """What an experiment found.

    Args:
        settings: of the experiment.
        standing: how everything did.
        steps: run to what each of its training steps measured.
        frontier: strengths of the trained policy over KL.
    """

    settings: TaskSettings
    standing: Standing
    steps: Mapping[str, list[dict[str, Any]]]
    frontier: list[Point]


def run_task(
    settings: TaskSettings, *, on_step: OnStep | None = None, progress: Progress = lambda line: None
) -> TaskOutcome:
    """Train what is missing, and compare.

    Args:
        settings: of the experiment.
        on_step: called with the measurements of every training step.
        progress: told what is going on.

    Raises:
        ConfigError: a setting is wrong, the folder holds a run with other settings, a training prompt is a test prompt,
            or a judge is not independent of the reward.
        AssetError: a model or data cannot be fetched.
        RewardError: a scorer failed.
    """
    task, runs = settings.found, settings.runs()
    specs = [config.reward for config in runs.values()]
    rewards = [load_reward(spec, progress=progress) for at, spec in enumerate(specs) if spec not in specs[:at]]
    reward = rewards[0]
    judges = [load_judge(spec, progress=progress) for spec in task.judges]
    readers = [Likelihood.load(name, progress=progress) for name in settings.readers]
    for trained_on, judge in product(rewards, [*judges, *readers]):  # before hours are spent
        check_independent(trained_on, judge)
    base = LM.load(settings.base, dtype=settings.dtype, device=settings.device, name="base")
    unseen = list(read_task_rows(task.source, "test", columns=task.columns, limit=settings.prompts).rows)
    for prompts in dict.fromkeys(config.prompts for config in runs.values()):
        refuse_overlap(read_prompts(prompts), unseen)
    rows = asked(task, base.vocabulary, unseen)
    how = replace(task.settings, seed=settings.seed)
    conditions = Conditions(rows, reward, judges, how, settings.answers or task.answers, {}, readers)
    contestants = {"base": Contestant(base)}
    contestants |= {name: baseline(name, task, base, reward, rows) for name in settings.baselines}
    forced = {"base, constrained": constrained(base, rows)} if settings.constrained else {}
    few = replace(conditions, rows=rows[: settings.frontier_prompts])
    kept = _points(settings, few) if settings.strengths else None
    for name, config in runs.items():
        _train(name, config, on_step, progress)
    if settings.experts is not None:
        contestants |= _experts(settings, settings.experts, base, on_step, progress)
    contestants |= {name: Contestant(_tailored(config, settings)) for name, config in runs.items()}
    if settings.constrained:
        contestants |= forced | {"adapter, constrained": constrained(contestants["adapter"].policy, rows)}
    standing = contest(task, contestants, conditions, on_policy=lambda name: progress(f"answers: {name}"))
    over = []
    if kept is not None:
        policies = {"base": base, "adapter": contestants["adapter"].policy}
        points = sweep(task, policies, {"strength": settings.strengths}, few, kept, progress=progress)
        table = tabulated(task, [judge.name for judge in judges], points)
        over = frontier(table, points, table.measures[0].name)
    steps = {name: read_metrics(config.output) for name, config in runs.items()}
    return TaskOutcome(settings, standing, steps, over)


def _train(name: str, config: TrainConfig, on_step: OnStep | None, progress: Progress) -> None:
    """Train a run, go on with it, or use what it made."""
    if read_guide_file(config.output / "guide").get("trained") == config.model_dump(mode="json"):
        progress(f"re-using {config.output}")
        return
    resume = latest_checkpoint(config.output) is not None
    # A run that was killed before its first checkpoint left nothing to go on with, and nothing to lose.
    barren = not resume and not (config.output / "guide").exists() and (config.output / CONFIG).is_file()
    progress(f"{'continuing' if resume else 'training'}: {name}")
    train(config, resume=resume, overwrite=barren, on_step=on_step)


def _tailored(config: TrainConfig, settings: TaskSettings) -> Policy:
    """Return the policy that a run trained, with its strength as a knob."""
    file = read_policy_file(config.output / "policy.yaml")
    return file.build(lambda source: LM.load(source, dtype=settings.dtype, device=settings.device))


def _experts(
    settings: TaskSettings, experts: ExpertSettings, base: LM, on_step: OnStep | None, progress: Progress
) -> dict[str, Contestant]:
    """Fine-tune an expert and an anti-expert on the base's own answers, as the reward ranks them.

    Raises:
        ConfigError: the folder holds experts of other settings.
    """
    config = settings.runs()["adapter"]
    _check_experts(settings, experts, config)
    models = {}
    for name in ("expert", "anti-expert"):
        texts = settings.output / f"{name}.jsonl"
        run = settings.fine_tuning(name, texts)
        if not (run.output / "guide").is_dir():
            if not texts.is_file():
                progress("answers for the experts")
                _write_texts(settings, experts, config, base)
            progress(f"training: {name}")
            train_sft(run, overwrite=(run.output / CONFIG).is_file(), on_step=on_step, progress=progress)
        models[name] = LM.load(run.output / "guide", dtype=settings.dtype, device=settings.device, name=name)
    steered = dexperts(base, models["expert"], models["anti-expert"], experts.alpha)
    return {"DAPT": Contestant(models["expert"]), "DExperts": Contestant(steered)}


def _check_experts(settings: TaskSettings, experts: ExpertSettings, config: TrainConfig) -> None:
    """Write down what experts are made of, or refuse those that were made of something else."""
    about = {
        **experts.model_dump(mode="json", exclude={"alpha"}),
        **config.model_dump(mode="json", include={"base", "prompts", "reward", "rollout", "seed"}),
    }
    record = settings.output / "experts.json"
    if not record.is_file():
        settings.output.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(about) + "\n", encoding="utf-8")
        return
    there = json.loads(record.read_text(encoding="utf-8"))
    if there != about:
        other = [name for name in about if there.get(name) != about[name]]
        raise ConfigError(
            given=f"{settings.output}, which holds experts with another {', '.join(other)}",
            expected="experts of the same settings, or a new folder",
            hint="choose another folder with --set output=...",
        )


def _write_texts(settings: TaskSettings, experts: ExpertSettings, config: TrainConfig, base: LM) -> None:
    """Write the best and the worst of the base's answers to training prompts, each after its prompt."""
    rows = prompts_for(config.prompts.model_copy(update={"limit": experts.prompts}), base.vocabulary)
    found = collect(base, rows, load_reward(config.reward), config.rollout, n=experts.answers, seed=settings.seed)
    said = [row["prompt"] for row in rows for _ in range(experts.answers)]
    written = [
        (each.reward, prompt + base.vocabulary.decode(each.completion))
        for each, prompt in zip(found, said, strict=True)
    ]
    ranked = [text for _, text in sorted(written, key=lambda pair: -pair[0])]
    count = max(1, round(experts.keep * len(ranked)))
    settings.output.mkdir(parents=True, exist_ok=True)
    for name, some in (("anti-expert", ranked[-count:]), ("expert", ranked[:count])):
        lines = [json.dumps({"text": text}) for text in some]
        (settings.output / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _points(settings: TaskSettings, conditions: Conditions) -> Points:
    """Open the record of the frontier; strengths may be added to it."""
    trained = settings.runs()["adapter"].model_dump(mode="json", exclude={"output"})
    about = {"base": settings.base, "train": trained, **conditions.about}
    return Points(settings.output / "frontier.jsonl", about)
