"""Preference levels by vectors: one command makes the data, trains, and measures vectors against their rivals.

Every stage is kept in the output folder; what is there already is used again. ``level_settings.py`` says what the
experiment is told, ``evaluation/level_results.py`` what it finds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

from trimtab.evaluation.level_results import LevelResults
from trimtab.policies.lm import LM
from trimtab.tasks.level_settings import LevelSettings
from trimtab.tasks.level_stages import Stages
from trimtab.tasks.levels import Split
from trimtab.training.log import OnStep


def reproduce(
    settings: LevelSettings, *, on_step: OnStep | None = None, progress: Callable[[str], None] = lambda line: None
) -> LevelResults:
    """Make and train what is missing, and measure.

    Args:
        settings: of the experiment.
        on_step: called with the measurements of every training step.
        progress: told what is going on.

    Returns:
        All measurements.

    Raises:
        ConfigError: the folder holds data or training of other settings, or too few questions have all answers.
        ModelError: the base cannot be loaded, or has no chat template.

    Reference: Shahriar et al. (2024), Inference time LLM alignment in single and multidomain preference spectrum.
    There a model of 7 billion weights, answers of a larger one, and judgements of GPT-4; here a small model answers
    itself, rules judge, vectors are low-rank, and coefficients are searched coarse to fine instead of on a grid.
    """
    base = LM.load(settings.base, dtype=settings.dtype, device=settings.device, name="base")
    stages, splits = Stages(settings, base, on_step, progress), get_args(Split)
    data = {f"{domain} {split}": stages.data(domain, split) for split in splits for domain in settings.domains}
    vectors = {str(domain): stages.training(domain) for domain in settings.domains}
    over_weights, over_logits, ways = stages.curves(), stages.dera_curves(), stages.ways()
    timed, answers = stages.speed(), stages.generated()
    joint = tuple(stages.joint(place) for place in range(len(settings.joint.targets)))
    if joint:
        ways["joint training"] = stages.joint_way(joint)
    return LevelResults(
        settings=settings.model_dump(mode="json"),
        questions={str(domain): len(each) for domain, each in stages.held.final.items()},
        data=data,
        vectors=vectors,
        joint=joint,
        curves=over_weights,
        dera=over_logits,
        ways=ways,
        transfer=stages.transfer(),
        speed=timed,
        generated=answers,
    )
