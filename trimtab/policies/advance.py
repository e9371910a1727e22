"""Advancing several policies over one state, each distinct leaf once.

That is how a product and its reference share the base's forward pass. ``init`` and ``step`` give log-probabilities;
``prefill`` and ``feed`` give what the leaves say, from which ``combine`` makes log-probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from trimtab.errors import PromptError
from trimtab.policies.base import Leaf, Policy, Prompt
from trimtab.policies.knob import KnobValues, bind, declared_knobs
from trimtab.policies.state import Host, Part, State


def init(
    policies: Sequence[Policy],
    prompts: Sequence[Prompt],
    knobs: Mapping[str, float] | Sequence[Mapping[str, float]] | None = None,
    *,
    leaves: Sequence[Leaf] | None = None,
    check: bool = True,
) -> tuple[list[Tensor], State]:
    """Prefill prompts for several policies at once, each distinct leaf evaluated once.

    Args:
        policies: the policies whose log-probabilities are wanted.
        prompts: B sequences of token ids.
        knobs: knob values for all rows, or one mapping a row.
        leaves: what to evaluate, when more rows with other knob values will join; by default what these rows need.
        check: whether to look for NaN, which waits for the device.

    Returns:
        For each policy log-probabilities of shape (B, V), and the common state.

    Raises:
        PromptError: there are no prompts, or one is empty or longer than a leaf's context.
        KnobError: a knob value is unknown or out of range.
        PolicyError: a leaf gave NaN, or a policy leaves no possible token in some row.
    """
    settings = [dict(knobs)] * len(prompts) if isinstance(knobs, Mapping) else list(knobs or [{}] * len(prompts))
    if len(settings) != len(prompts):
        raise PromptError(
            given=f"{len(settings)} knob settings for {len(prompts)} prompts",
            expected="one mapping for all prompts, or one a prompt",
            hint="pass knobs={...} or a list of the same length as the prompts",
        )
    values = bind(declared_knobs(knob for policy in policies for knob in policy.knobs), settings)
    said, state = prefill(needed_leaves(policies, settings) if leaves is None else leaves, prompts, values)
    return [each.squeeze(1) for each in combine(policies, said, values, check=check)], state


def prefill(leaves: Sequence[Leaf], prompts: Sequence[Prompt], knobs: KnobValues) -> tuple[dict[Leaf, Tensor], State]:
    """Feed prompts to leaves, those of one host together.

    Returns:
        For each leaf logits after each prompt, shape (B, 1, V), and the state.

    Raises:
        PromptError: there are no prompts, or one is empty or longer than a leaf's context.
    """
    _check_prompts(prompts, leaves)
    by_host: dict[Host, list[Leaf]] = {}
    for leaf in leaves:
        by_host.setdefault(leaf.host, []).append(leaf)
    said: dict[Leaf, Tensor] = {}
    parts = []
    for host, hosted in by_host.items():
        logits, state = host.init(hosted, prompts, knobs)
        said.update(zip(hosted, logits.unsqueeze(2), strict=True))
        parts.append(Part(host, tuple(hosted), state))
    return said, State(tuple(parts), dict(knobs), torch.tensor([len(prompt) for prompt in prompts]))


def needed_leaves(policies: Sequence[Policy], settings: Sequence[Mapping[str, float]]) -> list[Leaf]:
    """Return the leaves that several policies need for rows with these knob values, each once."""
    values = bind(declared_knobs(knob for policy in policies for knob in policy.knobs), settings)
    return list(dict.fromkeys(leaf for policy in policies for leaf in policy.leaves(values)))


def every_leaf(policies: Sequence[Policy]) -> list[Leaf]:
    """Return the leaves that several policies need for some knob values, each once."""
    # NaN is not exactly 0, so it prunes nothing.
    unknown = {knob.name: torch.tensor([torch.nan]) for policy in policies for knob in policy.knobs}
    return list(dict.fromkeys(leaf for policy in policies for leaf in policy.leaves(unknown)))


def step(policies: Sequence[Policy], state: State, tokens: Tensor, *, check: bool = True) -> tuple[list[Tensor], State]:
    """Feed a (B, T) block to the common state of several policies.

    Args:
        policies: the policies whose log-probabilities are wanted.
        state: where their rows stand.
        tokens: token ids, (B, T).
        check: whether to look for NaN, which waits for the device.

    Returns:
        For each policy log-probabilities after every fed token, shape (B, T, V), and the next state.

    Raises:
        PolicyError: a leaf gave NaN, or a policy leaves no possible token in some row.
    """
    said, advanced = feed(state, tokens)
    return combine(policies, said, state.knobs, check=check), advanced


def feed(state: State, tokens: Tensor) -> tuple[dict[Leaf, Tensor], State]:
    """Feed a (B, T) block to every leaf of a state.

    Returns:
        For each leaf logits after every fed token, shape (B, T, V), and the next state.
    """
    said: dict[Leaf, Tensor] = {}
    parts = []
    for part in state.parts:
        logits, fed = part.host.step(part.state, tokens)
        said.update(zip(part.leaves, logits, strict=True))
        parts.append(Part(part.host, part.leaves, fed))
    return said, State(tuple(parts), state.knobs, state.lengths + tokens.shape[1])


def combine(
    policies: Sequence[Policy], said: Mapping[Leaf, Tensor], knobs: KnobValues, *, check: bool = True
) -> list[Tensor]:
    """Return what each policy makes of its leaves' logits; log-probabilities of shape (B, T, V).

    Raises:
        PolicyError: a leaf gave NaN, or a policy leaves no possible token in some row.
    """
    combined = [policy.combine(said, knobs) for policy in policies]
    if check and not all(bool(torch.isfinite(each.amax(-1)).all()) for each in combined if each.numel()):
        for policy in policies:
            if (error := policy.diagnose(said, knobs)) is not None:
                raise error
    return combined


def sequence_log_probs(
    policy: Policy,
    prompts: Sequence[Prompt],
    continuations: Sequence[Sequence[int]],
    knobs: Mapping[str, float] | None = None,
) -> list[Tensor]:
    """Return the log-probability of every token of every continuation, each of shape (T_b,), in nats."""
    width = max(len(continuation) for continuation in continuations)
    block = torch.tensor([[*continuation, *[0] * (width - len(continuation))] for continuation in continuations])
    first, state = policy.init(prompts, knobs)
    rest, _ = policy.step(state, block[:, :-1])
    chosen = of_tokens(first, rest, block)
    return [row[: len(continuation)] for row, continuation in zip(chosen, continuations, strict=True)]


def of_tokens(first: Tensor, rest: Tensor, block: Tensor) -> Tensor:
    """Return the log-probabilities of the tokens of a block, (B, T), without copying those of the others.

    Args:
        first: before the block, (B, V).
        rest: after each of its tokens but the last, (B, T - 1, V).
        block: token ids, (B, T).
    """
    tokens = block.to(first.device)
    return torch.cat([first.gather(1, tokens[:, :1]), rest.gather(2, tokens[:, 1:, None]).squeeze(2)], 1)


def _check_prompts(prompts: Sequence[Prompt], leaves: Sequence[Leaf]) -> None:
    """Refuse what no leaf could read."""
    if not prompts:
        raise PromptError(given="no prompts", expected="at least one prompt", hint="pass a prompt")
    for number, prompt in enumerate(prompts):
        if not len(prompt):
            raise PromptError(
                given=f"prompt {number}, which has no tokens", expected="at least one token", hint="give it some text"
            )
        for leaf in leaves:
            if leaf.context_length is not None and len(prompt) > leaf.context_length:
                raise PromptError(
                    given=f"prompt {number} of {len(prompt)} tokens",
                    expected=f"at most {leaf.context_length} tokens, the context of {leaf.name}",
                    hint="shorten the prompt",
                )
