"""What an experiment at a task is told: what is trained, which baselines compete, and on how much."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from trimtab.tasks.load import load_task
from trimtab.tasks.task import Task
from trimtab.training.config import TrainConfig
from trimtab.training.settings import RunSettings, Section
from trimtab.training.small_settings import SFTSettings, TextsSettings


class ExpertSettings(Section):
    """Fine-tuned models to compare with: an expert on the base's own best answers, and an anti-expert on its worst.

    The expert alone is domain-adaptive training (DAPT); the two steer the base as in DExperts.

    Args:
        prompts: training prompts that the base answers.
        answers: to each.
        keep: share of the answers that each model imitates.
        alpha: strength of DExperts.
        sft: as in ``trimtab train sft``.
    """

    prompts: int = Field(200, ge=1)
    answers: int = Field(4, ge=2)
    keep: float = Field(0.25, gt=0, le=0.5)
    alpha: float = Field(2.0, gt=0)
    sft: SFTSettings = SFTSettings()


class TaskSettings(RunSettings):
    """An experiment at a task.

    Args:
        kind: of the recipe.
        task: its name.
        base: the frozen model.
        train: settings of ``trimtab train`` beside those of the task.
        rivals: further runs by name: what differs from ``train``.
        experts: fine-tuned models to compare with; none by default.
        baselines: "instruction", "examples", "best-of-8", ...
        constrained: whether base and adapter compete once more with answers that must say the keywords of a row.
        prompts: unseen prompts that policies compete on.
        answers: to each; the task's own number by default.
        strengths: of the trained policy, for the frontier.
        frontier_prompts: unseen prompts of each strength.
        readers: other language models, whose perplexity of the answers is reported.
    """

    kind: Literal["task"] = "task"
    task: str = "sentiment"
    base: str = "smollm2-135m"
    train: dict[str, Any] = Field(default_factory=dict)
    rivals: dict[str, dict[str, Any]] = Field(default_factory=dict)
    experts: ExpertSettings | None = None
    baselines: tuple[str, ...] = ()
    constrained: bool = False
    prompts: int = Field(60, ge=1)
    answers: int | None = Field(None, ge=1)
    strengths: tuple[float, ...] = ()
    frontier_prompts: int = Field(30, ge=1)
    readers: tuple[str, ...] = ()
    output: Path = Path("runs/task")

    @model_validator(mode="after")
    def _rivals_have_names_of_their_own(self) -> TaskSettings:
        taken = {"base", "adapter", "expert", "anti-expert", "DAPT", "DExperts", *self.baselines}
        for name in self.rivals:
            if name in taken or not re.fullmatch(r"[\w-]+", name):
                raise ValueError(
                    f"rivals with names of letters, digits, _ and -, other than {', '.join(sorted(taken))}: not {name}"
                )
        return self

    @property
    def found(self) -> Task:
        """The task of that name."""
        return load_task(self.task)

    def runs(self) -> dict[str, TrainConfig]:
        """Return the training runs by name, the main one first.

        Raises:
            ConfigError: a setting of one is unknown or out of range.
        """
        differing = {"adapter": {}, **self.rivals}
        return {name: self._run(name, changes) for name, changes in differing.items()}

    def fine_tuning(self, name: str, texts: Path) -> SFTSettings:
        """Return the training of an expert on texts.

        Args:
            name: of the expert.
            texts: a JSONL file.
        """
        experts = self.experts or ExpertSettings()
        return experts.sft.model_copy(
            update={
                "base": self.base,
                "texts": TextsSettings(source=str(texts)),
                "output": self.output / name,
                "seed": self.seed,
                "dtype": self.dtype,
                "device": self.device,
            }
        )

    def _run(self, name: str, changes: dict[str, Any]) -> TrainConfig:
        task = self.found
        common = {
            "base": self.base,
            "reward": task.reward,
            "prompts": {"source": task.source, "chat": task.chat},
            "seed": self.seed,
            "dtype": self.dtype,
            "device": self.device,
        }
        settings = merged(merged(merged(common, dict(task.training)), self.train), changes)
        return TrainConfig.of({**settings, "output": str(self.output / name)}, f"the run {name}")


def merged(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return settings with changes, section by section; an algorithm of another name replaces the whole section.

    Example:
        >>> merged({"kl": {"coefficient": 0.1, "target": 1.0}, "steps": 9}, {"kl": {"coefficient": 0.2}})
        {'kl': {'coefficient': 0.2, 'target': 1.0}, 'steps': 9}
        >>> merged({"algorithm": {"name": "grpo", "answers": 4}}, {"algorithm": {"name": "quark"}})
        {'algorithm': {'name': 'quark'}}
    """
    found = dict(settings)
    for name, value in changes.items():
        old = found.get(name)
        if isinstance(value, dict) and isinstance(old, dict) and value.get("name") in (None, old.get("name")):
            value = merged(old, value)
        found[name] = value
    return found
