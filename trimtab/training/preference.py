"""DPO and IPO of a LoRA adapter on a small model, by TRL's trainer: the tuned half of a pair that shares a trunk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from trimtab.assets import quiet_peft, quiet_transformers
from trimtab.policies.write_folder import write_folder
from trimtab.training.answers import writer
from trimtab.training.log import Log, OnStep
from trimtab.training.outcome import Outcome
from trimtab.training.pairs import Pair, pair_groups, preference_pairs, reward_of
from trimtab.training.run_folder import check_run, open_run
from trimtab.training.small import Small, card, split_off
from trimtab.training.small_settings import PreferenceSettings
from trimtab.training.trl_run import refuse_resume, report_to, trl_arguments


class _TokenPairs(DPOTrainer):  # type: ignore[misc]
    """TRL's trainer on token ids: it would spell them out, read them again, and put an end after cut answers."""

    def _prepare_dataset(self, dataset: Dataset, *_: object) -> Dataset:
        return dataset


def train_preference(
    method: Literal["dpo", "ipo"],
    settings: PreferenceSettings,
    *,
    resume: bool = False,
    overwrite: bool = False,
    on_step: OnStep | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Tune a small model on preference pairs.

    ``dpo`` minimises ``-log sigmoid(beta (d_chosen - d_rejected))`` with ``d = log tuned(y) - log untuned(y)``, summed
    over an answer's tokens; ``ipo`` minimises ``((d_chosen - d_rejected) - 1 / (2 beta))^2`` with means over tokens.

    Args:
        method: "dpo" or "ipo".
        settings: the run.
        resume: not possible; refused.
        overwrite: replace what is in the run folder.
        on_step: called with the measurements of every step.
        progress: told what is going on.

    Returns:
        The adapter's folder, with the accuracy on held-out pairs: how often ``d`` of the better answer is higher.

    Raises:
        ConfigError: a setting or a data file is wrong, all pairs were skipped, or the run folder is taken.
        ModelError: a model cannot be loaded.
        RewardError: the reward failed.
        RunError: the loss or its gradient is not finite.

    Example:
        >>> settings = PreferenceSettings(base="runs/sft/guide")
        >>> train_preference("dpo", settings)  # doctest: +SKIP

    Reference: Rafailov et al. (2023), Direct Preference Optimization; Azar et al. (2023), A General Theoretical
    Paradigm to Understand Learning from Human Preferences. IPO's means over tokens are TRL's.
    """
    refuse_resume(resume)
    check_run(settings, resume=False, overwrite=overwrite)
    arguments = trl_arguments(settings)
    small = Small.load(settings)
    policy = writer(settings.pairs.answers, settings) if settings.pairs.source == "sampled" else None
    pairs = preference_pairs(settings.pairs, policy, small.vocabulary, seed=settings.seed, progress=progress)
    small.check_fits((*pair.prompt, *answer) for pair in pairs for answer in (pair.chosen, pair.rejected))
    open_run(settings, resume=False, overwrite=overwrite)
    training, held = split_off(pair_groups(pairs), settings.holdout)
    progress(f"{len(training)} pairs, and {len(held)} held out")
    # TRL's accuracy is the mean of its batches', which is that of the pairs where all batches are of one size.
    sizes = range(1, arguments["per_device_eval_batch_size"] + 1)
    arguments["per_device_eval_batch_size"] = max(size for size in sizes if len(held) % size == 0)
    loss = {"dpo": "sigmoid", "ipo": "ipo"}[method]
    with Log(settings.output, 0) as log, quiet_transformers(), quiet_peft():
        trainer = _TokenPairs(
            model=small.model.unload(),
            peft_config=small.model.peft_config["default"],
            args=DPOConfig(**arguments, loss_type=[loss], beta=settings.beta, max_length=None),
            train_dataset=_dataset([pairs[i] for i in training]),
            eval_dataset=_dataset([pairs[i] for i in held]) if held else None,
            processing_class=small.vocabulary.tokenizer,
        )
        report_to(trainer, log, on_step)
        seconds = trainer.train().metrics["train_runtime"]
        measured = trainer.evaluate() if held else {}
    numbers = {"accuracy": measured["eval_rewards/accuracies"], "loss": measured["eval_loss"]} if held else {}
    tuned = Small(trainer.model, small.vocabulary, small.source, small.identity, small.stored)
    about = {
        **tuned.about,
        "tailors": {"source": settings.tailors or settings.base},
        "policy": POLICY,
        "trained": {"method": method, **settings.model_dump(mode="json"), **reward_of(settings.pairs)},
        "measured": numbers,
    }
    text = f"The tuned half of a pair; the untuned half is `{settings.base}`. The policy is `{POLICY}`."
    readme = card(f"{settings.base}, tuned by {method.upper()}", settings.base, text, numbers)
    folder = write_folder(settings.output / "guide", tuned.write_weights, about, readme)
    write_policy_file(folder, settings.tailors or settings.base, settings.base)
    return Outcome(settings.output, folder, numbers, seconds)


POLICY = "base * (tuned / untuned)^strength"
"""What the policy file of a pair says."""


def write_policy_file(tuned: Path, base: str, untuned: str) -> None:
    """Write the policy that a pair steers beside its folder."""
    content: Mapping[str, Any] = {
        "models": {"base": _beside(base, tuned), "tuned": tuned.name, "untuned": _beside(untuned, tuned)},
        "knobs": {"strength": {"default": 1.0, "min": 0.0, "max": 3.0}},
        "policy": POLICY,
    }
    tuned.with_name("policy.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def _beside(source: str, tuned: Path) -> str:
    """Return a source as a policy file in the run folder names it: folders by their whole path."""
    return str(Path(source).resolve()) if Path(source).is_dir() else source


def _dataset(pairs: Sequence[Pair]) -> Dataset:
    return Dataset.from_list(
        [
            {"prompt_ids": list(pair.prompt), "chosen_ids": list(pair.chosen), "rejected_ids": list(pair.rejected)}
            for pair in pairs
        ]
    )
