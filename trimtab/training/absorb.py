"""Absorption: a guide that needs a stream of its own, for a control token or a prompt view, becomes a plain adapter.

Engines that run base and guides over one shared sequence of tokens can run the adapter, and not the guide.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.decoding.queue import check_lengths
from trimtab.errors import ConfigError
from trimtab.policies.advance import every_leaf
from trimtab.policies.base import Policy
from trimtab.policies.lm import LM
from trimtab.policies.policy_file import PolicyFile, write_policy_file
from trimtab.policies.view import View
from trimtab.policies.write_folder import write_folder
from trimtab.rewards import Reward, load_reward
from trimtab.training.adapters import lora_config
from trimtab.training.answers import numbered
from trimtab.training.conditioned import Conditioned
from trimtab.training.fit import fit
from trimtab.training.guide import write_adapter
from trimtab.training.imitation import Written, at_answers, kl_at_answers, mean_kl, teaching, write_answers
from trimtab.training.log import OnStep
from trimtab.training.losses import masked_mean
from trimtab.training.outcome import Outcome
from trimtab.training.prompts import prompts_for
from trimtab.training.rollouts import Block, Rollout, collect
from trimtab.training.run_folder import check_run, open_run
from trimtab.training.small import card, split_off
from trimtab.training.small_settings import AbsorbSettings

_numbers = itertools.count()


def train_absorb(
    settings: AbsorbSettings,
    *,
    resume: bool = False,
    overwrite: bool = False,
    on_step: OnStep | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Train a plain adapter that does what a conditioned guide does, and write it and the policy file that uses it.

    For answers y ~ policy, in which the guide stands, the mean over answers of the mean over their tokens of

        KL(guide(. | c, x, y_<t) || adapter(. | x, y_<t))

    is minimised, where c is the guide's control token or view. The adapter starts from the guide's own, or from zero
    where the guide has none.

    Args:
        settings: the run.
        resume: continue from the newest checkpoint.
        overwrite: replace what is in the run folder.
        on_step: called with the measurements of every step.
        progress: told what is going on.

    Returns:
        The adapter's folder. Its numbers are of answers to held-out prompts: the exact KL(guide || adapter), nats a
        token, before ("kl_before") and after ("kl_after") training; the mean reward of the policy with the guide
        ("reward_before") and with the adapter ("reward_after"), under the same random numbers; what was lost
        ("reward_loss") with the ends of its 95 % bootstrap interval over prompts, which are paired
        ("reward_loss_low", "reward_loss_high").

    Raises:
        ConfigError: a setting or a file is wrong, no LM of the policy needs a stream of its own, no reward is known,
            or the run folder is taken.
        PromptError: a prompt leaves no room for an answer.
        ModelError: a model cannot be loaded, or has no chat format for prompts that are turns of a chat.
        RewardError: the reward failed.

    Example:
        >>> settings = AbsorbSettings(policy="runs/quark/policy.yaml")
        >>> train_absorb(settings)  # doctest: +SKIP

    Reference: Askell et al. (2021), A General Language Assistant as a Laboratory for Alignment, who distil a prompt
    into the whole model on given texts; here it is any view or token, into an adapter, where the policy itself goes.
    """
    check_run(settings, resume=resume, overwrite=overwrite)
    place = Conditioned.find(settings.policy, settings.guide)
    reward = _reward(place, settings, progress)
    load = partial(LM.load, dtype=settings.dtype, device=settings.device)
    policy, guide = place.file.build(load), _lm(place.file, place.name, load)
    _check_place(guide, policy, place)
    training, held = _rows(policy, settings)
    progress(f"sampling {settings.n} answers to each of {len(training) + len(held)} prompts")
    lessons = write_answers(policy, training, settings.rollout, n=settings.n, seed=settings.seed)
    before = collect(policy, held, reward, settings.rollout, n=settings.n, seed=settings.seed)
    open_run(settings, resume=resume, overwrite=overwrite)

    plain = _plain(guide, settings)
    folder = settings.output / "guide"
    absorbed = place.replaced(str(folder.absolute()))
    loaded = _with(load, str(folder.absolute()), plain)
    kl = partial(_kl, guide, _lm(absorbed, place.name, loaded))
    heldout = [Written(each.prompt, each.completion) for each in before]
    numbers = {"kl_before": mean_kl(kl, heldout, settings.micro_rows)}
    parameters = plain.trunk.parameters(plain.adapter)
    with _trainable(parameters):
        seconds = fit(
            lessons,
            lambda few: (masked_mean(*kl(few)), {}),
            parameters,
            settings,
            resume=resume,
            on_step=on_step,
        )
    numbers["kl_after"] = mean_kl(kl, heldout, settings.micro_rows)
    progress(f"sampling {settings.n} answers to each of {len(held)} held-out prompts with the adapter")
    after = collect(absorbed.build(loaded), held, reward, settings.rollout, n=settings.n, seed=settings.seed)
    numbers |= _loss_of_reward(before, after, settings.n)
    text = f"It does without a stream of its own what `{place.name}` does in `{settings.policy}`."
    readme = card(f"A plain adapter for {plain.trunk.source}", plain.trunk.source, text, numbers)
    write_folder(folder, partial(write_adapter, lm=plain), _about(plain, place, settings, reward, numbers), readme)
    write_policy_file(settings.output / "policy.yaml", place.replaced(folder.name))
    return Outcome(settings.output, folder, numbers, seconds)


def _lm(file: PolicyFile, name: str, load: Callable[[str], LM]) -> LM:
    """Load one of the models of a file without endpoints."""
    lm = file.lm(name, load)
    assert isinstance(lm, LM)
    return lm


def _reward(place: Conditioned, settings: AbsorbSettings, progress: Callable[[str], None]) -> Reward:
    """Load the reward that the settings name, or that the guide was trained on."""
    spec = settings.reward or place.about.get("trained", {}).get("reward")
    if spec is None:
        raise ConfigError(
            given=f"{place.name}, which was trained on no reward that its folder knows, and no reward in the settings",
            expected="a reward, in which the loss of reward is measured",
            hint="name one: --set reward=sentiment",
        )
    return load_reward(spec, progress=progress)


def _check_place(guide: LM, policy: Policy, place: Conditioned) -> None:
    """Refuse a guide that the policy has with vectors added, or not at all once it is simplified."""
    if guide not in every_leaf([policy]):
        raise ConfigError(
            given=f"{place.name} in {policy}",
            expected="a factor by itself: an LM or adapter with a control token or view, without vectors added to it",
            hint="write the sum as a model with `trimtab vector apply`",
        )


def _rows(policy: Policy, settings: AbsorbSettings) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the prompts to learn from and those held out."""
    rows = prompts_for(settings.prompts, policy.vocabulary)
    prompts = [tuple(policy.vocabulary.encode(row["prompt"])) for row in rows]
    check_lengths(every_leaf([policy]), prompts, settings.rollout.max_new_tokens)
    training, held = split_off(numbered(prompts), settings.holdout)
    if not held:
        raise ConfigError(
            given="one prompt", expected="at least two, of which one is held out", hint="give prompts.source more"
        )
    return [rows[i] for i in training], [rows[i] for i in held]


def _plain(guide: LM, settings: AbsorbSettings) -> LM:
    """Return the guide's own trunk under a copy of the guide's adapter, or under a fresh one, seen without a view."""
    trunk, name = guide.trunk, f"absorbed{next(_numbers)}"
    if guide.adapter is not None:
        shape = copy.deepcopy(trunk.adapter_config(guide.adapter))
        trunk.add_adapter(name, shape, trunk.adapter_weights(guide.adapter))
    else:
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            trunk.add_adapter(name, lora_config(trunk.model, settings.adapter, trunk.source))
    return replace(guide, adapter=name, view=View(), label=name)


@contextmanager
def _trainable(parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Let gradients reach parameters of a trunk that others use too, inside alone."""
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in parameters.values():
            parameter.requires_grad_(False)


def _with(load: Callable[[str], LM], source: str, lm: LM) -> Callable[[str], LM]:
    """Return a loader that knows one LM more."""
    return lambda wanted: lm if wanted == source else load(wanted)


def _kl(guide: LM, plain: LM, few: Sequence[Written]) -> tuple[Tensor, Tensor]:
    """Return KL(guide || plain) before each token of answers, 0 past their ends, and which are tokens; both (B, T)."""
    said = at_answers(plain, few)
    mask = Block.of([each.answer for each in few]).mask.to(said.device)
    return kl_at_answers(teaching(guide, few, said.device), said, mask), mask


def _loss_of_reward(before: Sequence[Rollout], after: Sequence[Rollout], n: int) -> dict[str, float]:
    """Return mean rewards and their difference, prompts paired; answers to a prompt are next to each other."""
    from trimtab.evaluation.bootstrap import bootstrap

    one, two = _by_prompt(before, n), _by_prompt(after, n)
    lost = bootstrap([a - b for a, b in zip(one, two, strict=True)])
    return {
        "reward_before": sum(one) / len(one),
        "reward_after": sum(two) / len(two),
        "reward_loss": lost.mean,
        "reward_loss_low": lost.low,
        "reward_loss_high": lost.high,
    }


def _by_prompt(rollouts: Sequence[Rollout], n: int) -> list[float]:
    """Return the mean reward of each prompt."""
    return [sum(each.reward for each in rollouts[at : at + n]) / n for at in range(0, len(rollouts), n)]


def _about(
    plain: LM, place: Conditioned, settings: AbsorbSettings, reward: Reward, numbers: Mapping[str, float]
) -> dict[str, Any]:
    """Return what ``trimtab.json`` says; what the guide was trained on has also shaped the adapter."""
    return {
        "kind": "adapter",
        "base": {"source": plain.trunk.source, "identity": plain.trunk.identity},
        "vocabulary": plain.vocabulary.fingerprint,
        "policy": place.file.policy,
        "absorbed": {**place.model.model_dump(), "guide": place.about},
        "scored_by": reward.name,
        # Of the reward the adapter has seen nothing but what the guide has, which says so itself.
        "trained": settings.model_dump(mode="json", exclude={"reward"}),
        "measured": dict(numbers),
    }
