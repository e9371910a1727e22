"""Distillation: a small model that imitates a policy, to stand in for it in training where it is too large or remote.

It learns from answers that the policy writes: from their tokens alone, or from its distribution at each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from torch import Tensor

from trimtab.policies.base import Policy
from trimtab.policies.support import top_k
from trimtab.policies.vocabulary import common_vocabulary
from trimtab.policies.write_folder import write_folder
from trimtab.training.answers import load_policy, numbered
from trimtab.training.fit import fit
from trimtab.training.imitation import Written, kl_at_answers, mean_kl, teaching, write_answers
from trimtab.training.log import OnStep
from trimtab.training.losses import masked_mean
from trimtab.training.outcome import Outcome
from trimtab.training.prompts import prompts_for
from trimtab.training.run_folder import check_run, open_run
from trimtab.training.small import Small, card, split_off
from trimtab.training.small_settings import DistillSettings


def train_distill(
    settings: DistillSettings,
    *,
    resume: bool = False,
    overwrite: bool = False,
    on_step: OnStep | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Train a copy of a policy on the policy's own answers, and write its folder.

    For answers y ~ policy, the mean over answers of the mean over their tokens of

        -log copy(y_t | x, y_<t)                                  signal "samples"
        KL(policy(. | x, y_<t) || copy(. | x, y_<t))              signal "tokens"

    is minimised. With ``top_k`` the policy is cut to its k likeliest tokens, as a service shows them, and so is what it
    writes and what the KL is taken over.

    Args:
        settings: the run.
        resume: continue from the newest checkpoint.
        overwrite: replace what is in the run folder.
        on_step: called with the measurements of every step.
        progress: told what is going on.

    Returns:
        The copy's folder, a whole model. Its numbers are of answers to held-out prompts: the exact
        KL(policy || copy), nats a token, before ("kl_before") and after ("kl_after") training.

    Raises:
        ConfigError: a setting or a data file is wrong, or the run folder is taken.
        PromptError: a prompt leaves no room for an answer.
        ModelError: a model cannot be loaded, or the policy has no chat format for prompts that are turns of a chat.
        VocabularyError: policy and copy speak different tokens.

    Example:
        >>> settings = DistillSettings(base="smollm2-135m", layers=8, policy="policy.yaml")
        >>> train_distill(settings)  # doctest: +SKIP

    Reference: Lu et al. (2023), Inference-Time Policy Adapters (IPA*, whose copy of GPT-3 learns from samples); Kim and
    Rush (2016), Sequence-Level Knowledge Distillation; Hinton, Vinyals, Dean (2015) for whole distributions.
    """
    check_run(settings, resume=resume, overwrite=overwrite)
    small = Small.load(settings, layers=settings.layers)
    policy = load_policy(settings.policy, settings)
    policy = policy if settings.top_k is None else top_k(policy, settings.top_k)
    common_vocabulary(policy.vocabulary, small.vocabulary)
    written = _write(policy, settings, progress)
    small.check_fits((*each.prompt, *each.answer) for each in written)
    training, held = split_off(numbered([each.prompt for each in written]), settings.holdout)
    open_run(settings, resume=resume, overwrite=overwrite)
    heldout = [written[i] for i in held]
    kl = partial(_kl, policy, small)
    numbers = {"kl_before": mean_kl(kl, heldout, settings.micro_rows)} if held else {}
    lessons = [written[i] for i in training]
    loss = _imitation if settings.signal == "samples" else _distribution
    seconds = fit(
        lessons,
        lambda few: loss(policy, small, few),
        small.parameters,
        settings,
        resume=resume,
        on_step=on_step,
    )
    if held:
        numbers["kl_after"] = mean_kl(kl, heldout, settings.micro_rows)
    about = {
        **small.about,
        "distilled_from": {"policy": str(policy), "source": settings.policy, "signal": settings.signal},
        "trained": settings.model_dump(mode="json"),
        "measured": numbers,
    }
    text = f"It imitates `{settings.policy}`, and stands in for it in training: `approximate_base`."
    readme = card(f"A distilled copy of {settings.policy}", settings.base, text, numbers)
    folder = write_folder(settings.output / "copy", small.write_weights, about, readme)
    return Outcome(settings.output, folder, numbers, seconds)


def _write(policy: Policy, settings: DistillSettings, progress: Callable[[str], None]) -> list[Written]:
    """Let the policy answer the prompts; answers to one prompt stand next to each other."""
    rows = prompts_for(settings.prompts, policy.vocabulary)
    progress(f"sampling {settings.n} answers to each of {len(rows)} prompts")
    return write_answers(policy, rows, settings.rollout, n=settings.n, seed=settings.seed)


def _imitation(policy: Policy, small: Small, few: Sequence[Written]) -> tuple[Tensor, Mapping[str, float]]:
    """Return the negative log-probability of answers."""
    log_probs, mask = small.log_probs([each.prompt for each in few], [each.answer for each in few])
    return -masked_mean(log_probs, mask), {}


def _distribution(policy: Policy, small: Small, few: Sequence[Written]) -> tuple[Tensor, Mapping[str, float]]:
    """Return the KL of a policy's distributions to the copy's."""
    return masked_mean(*_kl(policy, small, few)), {}


def _kl(policy: Policy, small: Small, few: Sequence[Written]) -> tuple[Tensor, Tensor]:
    """Return KL(policy || copy) before each token of answers, 0 past their ends, and which are tokens; both (B, T)."""
    said, mask = small.distributions([each.prompt for each in few], [each.answer for each in few])
    return kl_at_answers(teaching(policy, few, said.device), said, mask), mask
