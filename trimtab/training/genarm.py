"""GenARM: an autoregressive reward model, whose summed log-probabilities rank answers as the preferences do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from trimtab.policies.write_folder import write_folder
from trimtab.training.answers import writer
from trimtab.training.fit import fit
from trimtab.training.log import OnStep
from trimtab.training.outcome import Outcome
from trimtab.training.pairs import Pair, pair_groups, preference_pairs, reward_of
from trimtab.training.run_folder import check_run, open_run
from trimtab.training.small import Small, card, split_off
from trimtab.training.small_settings import GenARMSettings

POLICY = "base * guide^strength"


def train_genarm(
    settings: GenARMSettings,
    *,
    resume: bool = False,
    overwrite: bool = False,
    on_step: OnStep | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Train an autoregressive reward model on preference pairs.

    It minimises ``-log sigmoid(beta (log pi_r(chosen) - log pi_r(rejected)))``: DPO without the untuned model.

    Args:
        settings: the run.
        resume: continue from the newest checkpoint.
        overwrite: replace what is in the run folder.
        on_step: called with the measurements of every step.
        progress: told what is going on.

    Returns:
        The model's folder, with the accuracy on held-out pairs.

    Raises:
        ConfigError: a setting or a data file is wrong, all pairs were skipped, or the run folder is taken.
        ModelError: a model cannot be loaded.
        RewardError: the reward failed.

    Example:
        >>> settings = GenARMSettings(base="runs/sft/guide")
        >>> train_genarm(settings)  # doctest: +SKIP

    Reference: Xu et al. (2025), GenARM: Reward Guided Generation with Autoregressive Reward Model.
    """
    check_run(settings, resume=resume, overwrite=overwrite)  # before answers are sampled, which takes a while
    small = Small.load(settings)
    policy = writer(settings.pairs.answers, settings) if settings.pairs.source == "sampled" else None
    pairs = preference_pairs(settings.pairs, policy, small.vocabulary, seed=settings.seed, progress=progress)
    small.check_fits((*pair.prompt, *answer) for pair in pairs for answer in (pair.chosen, pair.rejected))
    open_run(settings, resume=resume, overwrite=overwrite)
    training, held = split_off(pair_groups(pairs), settings.holdout)

    def loss(few: Sequence[Pair]) -> tuple[Tensor, Mapping[str, float]]:
        gaps = settings.beta * _gaps(small, few)
        return -F.logsigmoid(gaps).mean(), {"accuracy": float((gaps > 0).float().mean())}

    seconds = fit([pairs[i] for i in training], loss, small.parameters, settings, resume=resume, on_step=on_step)
    numbers = _measure(small, [pairs[i] for i in held], settings.micro_rows)
    about = {
        **small.about,
        "tailors": {"source": settings.tailors or settings.base},
        "policy": POLICY,
        "trained": {"method": "genarm", **settings.model_dump(mode="json"), **reward_of(settings.pairs)},
        "measured": numbers,
    }
    text = f"An autoregressive reward model; the policy is `{POLICY}`, at temperature 1 / (1 + strength)."
    readme = card(f"An autoregressive reward model on {settings.base}", settings.base, text, numbers)
    folder = write_folder(settings.output / "guide", small.write_weights, about, readme)
    return Outcome(settings.output, folder, numbers, seconds)


def _gaps(small: Small, pairs: Sequence[Pair]) -> Tensor:
    """Return how much likelier the better answers are, in nats, (B,)."""
    prompts = [pair.prompt for pair in pairs] * 2
    answers = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    sums = small.log_probs(prompts, answers)[0].sum(1)
    return sums[: len(pairs)] - sums[len(pairs) :]


@torch.no_grad()
def _measure(small: Small, pairs: Sequence[Pair], rows: int) -> dict[str, float]:
    if not pairs:
        return {}
    gaps = torch.cat([_gaps(small, pairs[at : at + rows]) for at in range(0, len(pairs), rows)])
    return {"accuracy": float((gaps > 0).float().mean())}
