"""Integrated value guidance, reproduced at a small scale: what is trained, which methods compete, and on what.

Every stage is kept in a folder of its own; what is there already is used again. The comparison is in ``results.json``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from trimtab.assets import review_prompts
from trimtab.decoding import SearchPlan, Shape, best_of_n, chunk_beam
from trimtab.decoding.request import Settings
from trimtab.decoding.sampling import Sampling
from trimtab.errors import ConfigError
from trimtab.evaluation.compare import Comparison, compare
from trimtab.policies.base import Policy
from trimtab.policies.guide_folder import read_guide_file
from trimtab.policies.lm import LM
from trimtab.rewards import Reward, load_judge, load_reward
from trimtab.training.log import OnStep
from trimtab.training.preference import train_preference
from trimtab.training.settings import RunSettings, Section
from trimtab.training.sft import train_sft
from trimtab.training.small_settings import PreferenceSettings, SFTSettings, SmallSettings, ValueSettings
from trimtab.training.value import train_value
from trimtab.values import LogRatio, PrefixValue
from trimtab.values.value import Value

_MAY_DIFFER = frozenset({"output", "device", "micro_rows", "checkpoint_every"})
"""Settings of a stage that change nothing in what it makes."""


class SweepSettings(Section):
    """Which points are measured beside the comparison.

    Args:
        prompts: unseen prompts a point.
        strengths: exponents of the pair.
        candidates: numbers of answers of best-of-N.
        shapes: beams, branches and chunk length of chunk searches.
    """

    prompts: int = Field(50, ge=1)
    strengths: tuple[float, ...] = ()
    candidates: tuple[int, ...] = ()
    shapes: tuple[tuple[int, int, int], ...] = ()


class GuidanceSettings(RunSettings):
    """An experiment.

    Args:
        kind: of the recipe.
        base: the large model.
        reward: what all training sees.
        judges: what no training saw.
        untuned: how the small model is made; its base is the large one.
        tuned: how the small model learns preferences.
        value: how the prefix value is trained.
        prompts: unseen prompts that methods compete on.
        max_new_tokens: of an answer.
        temperature: of all sampling.
        strength: exponent of tuned / untuned in guided policies.
        beams: W of chunk searches.
        branches: K of chunk searches.
        chunk: L of chunk searches, in tokens.
        sweeps: further points.
    """

    kind: Literal["value_guidance"] = "value_guidance"
    base: str = "smollm2-135m"
    reward: str = "sentiment"
    judges: tuple[str, ...] = ("rt", "vader")
    untuned: SFTSettings = SFTSettings()
    tuned: PreferenceSettings = PreferenceSettings()
    value: ValueSettings = ValueSettings()
    prompts: int = Field(100, ge=2)
    max_new_tokens: int = Field(50, ge=1)
    temperature: float = Field(0.7, gt=0)
    strength: float = Field(1.0, gt=0)
    beams: int = Field(4, ge=1)
    branches: int = Field(4, ge=1)
    chunk: int = Field(5, ge=1)
    sweeps: SweepSettings = SweepSettings()
    output: Path = Path("runs/imdb_ivg")

    @property
    def rows(self) -> int:
        """Answers that a chunk search proposes at once, and best-of-N as many."""
        return self.beams * self.branches

    def stages(self) -> tuple[SFTSettings, PreferenceSettings, ValueSettings]:
        """Return the training runs with what follows from one another filled in."""
        common = {"seed": self.seed, "device": self.device}
        small = str(self.output / "untuned" / "guide")
        tuned, value = self.tuned, self.value
        answers = tuned.pairs.answers.model_copy(update={"reward": self.reward})
        pairs = tuned.pairs.model_copy(update={"answers": answers})
        values = value.answers.model_copy(update={"reward": self.reward})
        return (
            self.untuned.model_copy(update={**common, "base": self.base, "output": self.output / "untuned"}),
            tuned.model_copy(
                update={
                    **common,
                    "base": small,
                    "tailors": self.base,
                    "pairs": pairs,
                    "output": self.output / "tuned",
                }
            ),
            value.model_copy(
                update={
                    **common,
                    "base": small,
                    "tailors": self.base,
                    "answers": values,
                    "output": self.output / "value",
                }
            ),
        )


@dataclass(frozen=True)
class Contest:
    """Policies, and how answers of some of them are searched for, by name."""

    policies: Mapping[str, Policy]
    searches: Mapping[str, SearchPlan]


@dataclass(frozen=True)
class Guidance:
    """What an experiment trained and measured.

    Args:
        settings: of the experiment.
        measured: what training measured on held-out data, by stage.
        main: the comparison of methods.
        sweeps: further comparisons, by what is swept.
    """

    settings: GuidanceSettings
    measured: Mapping[str, Mapping[str, float]]
    main: Comparison
    sweeps: Mapping[str, Comparison]


class Players:
    """The models of an experiment.

    Args:
        settings: of the experiment, whose stages have been trained.
    """

    def __init__(self, settings: GuidanceSettings) -> None:
        self._settings = settings
        how = {"dtype": settings.dtype, "device": settings.device}
        self.base = LM.load(settings.base, **how, name="base")
        self.tuned = LM.load(settings.output / "tuned" / "guide", **how, name="tuned")
        self.untuned = LM.load(settings.output / "untuned" / "guide", **how, name="untuned")
        self.implicit: Value = LogRatio(self.tuned, self.untuned)
        self.explicit: Value = PrefixValue.load(settings.output / "value" / "value", **how)

    def guided(self, strength: float) -> Policy:
        """The base with tokens guided by the pair."""
        return self.base * (self.tuned / self.untuned) ** strength

    def contest(self) -> Contest:
        """Return the methods that are compared."""
        each = self._settings
        beam, guided = chunk_beam(each.beams, each.branches, each.chunk), self.guided(each.strength)
        return Contest(
            {
                "base": self.base,
                "pair-guided tokens": guided,
                f"best of {each.rows}": self.base,
                "chunk beam, implicit": self.base,
                "chunk beam, explicit": self.base,
                "IVG": guided,
            },
            {
                f"best of {each.rows}": SearchPlan(self.explicit, best_of_n(each.rows)),
                "chunk beam, implicit": SearchPlan(self.implicit, beam),
                "chunk beam, explicit": SearchPlan(self.explicit, beam),
                "IVG": SearchPlan(self.explicit, beam),
            },
        )

    def sweeps(self) -> dict[str, Contest]:
        """Return what is swept."""
        points, guided = self._settings.sweeps, self.guided(self._settings.strength)
        strengths = {f"w = {w:g}": self.guided(w) for w in points.strengths}
        numbers = {f"N = {n}": SearchPlan(self.explicit, best_of_n(n)) for n in points.candidates}
        shapes = {f"{w}, {k}, {length}": Shape(w, k, length) for w, k, length in points.shapes}
        explicit = {name: SearchPlan(self.explicit, shape) for name, shape in shapes.items()}
        found = {
            "pair-guided tokens": Contest(strengths, {}),
            "best of N": Contest(dict.fromkeys(numbers, self.base), numbers),
            "chunk beam, explicit": Contest(dict.fromkeys(explicit, self.base), explicit),
            "IVG": Contest(dict.fromkeys(explicit, guided), explicit),
        }
        return {name: contest for name, contest in found.items() if contest.policies}


def reproduce(
    settings: GuidanceSettings, *, on_step: OnStep | None = None, progress: Callable[[str], None] = lambda line: None
) -> Guidance:
    """Train what is missing, and compare.

    Args:
        settings: of the experiment.
        on_step: called with the measurements of every training step.
        progress: told what is going on.

    Returns:
        All measurements.

    Raises:
        ConfigError: the folder holds stages that were trained with other settings.
        AssetError: a model or data cannot be fetched.
        RewardError: the reward or a judge failed.

    Reference: Liu et al. (2024), Inference-Time Language Model Alignment via Integrated Value Guidance. There gpt2
    models of three sizes, here one of 135 million weights and eight layers made of it.
    """
    reward = load_reward(settings.reward, progress=progress)
    judges = [load_judge(name, progress=progress) for name in settings.judges]
    untuned, tuned, value = settings.stages()
    measured = {
        "untuned": _stage("untuned", untuned, "guide", train_sft, on_step, progress),
        "tuned": _stage("tuned", tuned, "guide", _dpo, on_step, progress),
        "value": _stage("value", value, "value", train_value, on_step, progress),
    }
    players, prompts = Players(settings), review_prompts("test")
    main = _compare(settings, players.contest(), prompts[: settings.prompts], (reward, judges), progress)
    few = prompts[: settings.sweeps.prompts]
    sweeps = {
        name: _compare(settings, contest, few, (reward, judges), progress) for name, contest in players.sweeps().items()
    }
    return Guidance(settings, measured, main, sweeps)


def _stage(
    name: str,
    settings: SmallSettings,
    folder: str,
    train: Callable[..., object],
    on_step: OnStep | None,
    progress: Callable[[str], None],
) -> dict[str, float]:
    """Train a stage, or use the one that is there; returns what it measured."""
    about = read_guide_file(settings.output / folder)
    if not about:
        progress(f"training: {name}")
        train(settings, overwrite=(settings.output / "config.yaml").is_file(), on_step=on_step, progress=progress)
        about = read_guide_file(settings.output / folder)
    asked = json.loads(json.dumps(settings.model_dump(mode="json")))
    if any(about["trained"].get(key) != value for key, value in asked.items() if key not in _MAY_DIFFER):
        raise ConfigError(
            given=f"{settings.output}, which was trained with other settings",
            expected="the settings of this experiment",
            hint=f"delete {settings.output}, or choose another output",
        )
    numbers: dict[str, float] = about["measured"]
    return numbers


def _dpo(settings: PreferenceSettings, **options: Any) -> object:
    return train_preference("dpo", settings, **options)


def _compare(
    settings: GuidanceSettings,
    contest: Contest,
    prompts: Sequence[str],
    scorers: tuple[Reward, Sequence[Reward]],
    progress: Callable[[str], None],
) -> Comparison:
    """Let methods compete."""
    how = Settings(Sampling(settings.temperature), max_new_tokens=settings.max_new_tokens, seed=settings.seed)
    reward, judges = scorers
    return compare(
        contest.policies,
        list(prompts),
        reward=reward,
        judges=judges,
        settings=how,
        searches=contest.searches,
        on_policy=lambda name: progress(f"answers: {name}"),
    )
