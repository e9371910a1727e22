"""Speculative over plain decoding of the same product, beside what acceptance and forward costs predict.

The prediction knows nothing of the engine: acceptance is computed along answers that were sampled plainly, costs are
timed forwards. An exact block of k drafted tokens yields 1 + sum_j P(the first j are accepted) tokens, and

    P(the first j are accepted) = E over x from p of prod_i min(1, q(x_i) / p(x_i))

for a target p and a drafter q. A drafter that does not pay must not cost anything either, so no prediction is below 1.

Reference: Leviathan, Kalman, Matias (2023), Fast Inference from Transformers via Speculative Decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import torch
from torch import Tensor

from trimtab.benchmarks.forwards import metered, prefilled, run_forwards
from trimtab.benchmarks.measure import Measure, at_least
from trimtab.benchmarks.setup import Setup
from trimtab.benchmarks.timing import alternate
from trimtab.policies.advance import init, needed_leaves, step
from trimtab.policies.base import Leaf, Policy
from trimtab.policies.lm import LM

BLOCKS = (1, 2, 4, 8)
"""Drafted tokens whose cost is timed."""

STEPS = 4
"""Forwards in one timing."""

ANSWERS_TIMED = 3
"""Answers of a timed run."""

ANSWERS = 8
"""Plain answers that acceptance is measured along."""

CHEAP, AGREEING = 0.15, 0.8
"""At most this share of the product's cost and at least this acceptance: there a speed-up of 1.6 is asked."""


@dataclass(frozen=True)
class Case:
    """A product and who drafts for it.

    Args:
        name: what the table calls it.
        policy: the product.
        drafter: who drafts.
    """

    name: str
    policy: Policy
    drafter: LM


@dataclass(frozen=True)
class Costs:
    """What forwards cost, in seconds, one number a round.

    Args:
        plain: one token through every leaf.
        draft: one token through the drafter.
        blocks: k + 1 tokens through the leaves that do not draft, for each k.
    """

    plain: list[float]
    draft: list[float]
    blocks: dict[int, list[float]]


def suite(bench: Setup) -> list[Measure]:
    """Compare one row with a drafter that agrees, with the base as drafter, and with one that does not pay."""
    cases = (
        Case("small agreeing drafter", agreeing(bench), bench.guide),
        Case("base drafts for base x (tuned / untuned)", bench.base * (bench.tuned / bench.untuned) ** 0.5, bench.base),
        Case("drafter that disagrees", bench.base * bench.lora, bench.guide),
    )
    return [measure for case in cases for measure in _measures(bench, case)]


def agreeing(bench: Setup) -> Policy:
    """Return a product of three large models and a small one in which the small one drafts well.

    The small model has random knowledge, so the large ones are weighted down until it does.
    """
    for weight in (0.5, 0.25, 0.1, 0.05, 0.02):
        policy = bench.base**weight * bench.guide * (bench.tuned / bench.untuned) ** weight
        if acceptance(policy, bench.guide, _answers(bench, policy)).rate >= AGREEING:
            break
    return policy


@dataclass(frozen=True)
class Acceptance:
    """How well a drafter agrees with a target along sampled answers.

    Args:
        exact: ``sum_y min(p(y), q(y))`` of every step, shape (B, T).
        along: ``min(1, q(x) / p(x))`` of every sampled token, shape (B, T).
    """

    exact: Tensor
    along: Tensor

    @property
    def rate(self) -> float:
        """Share of single drafted tokens that are accepted."""
        return float(self.exact.mean())

    def tokens(self, block: int) -> float:
        """Return the expected tokens of a cycle that drafts ``block`` of them, its own token included.

        Example:
            >>> half = torch.full((1, 4), 0.5)
            >>> Acceptance(half, half).tokens(2)  # 1 + 1/2 + 1/4
            1.75
        """
        total, steps = 1.0, self.exact.shape[1]
        reached = torch.ones_like(self.exact)  # the probability that the tokens before this one were all accepted
        for place in range(min(block, steps)):
            starts = steps - place
            total += float((reached[:, :starts] * self.exact[:, place:]).mean())
            reached = reached[:, : starts - 1] * self.along[:, place : steps - 1]
        return total


def acceptance(policy: Policy, drafter: Policy, answers: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Acceptance:
    """Compare target and drafter along answers that the target gave.

    Args:
        policy: the target.
        drafter: who would have drafted.
        answers: prompts and answers as token ids; all answers are equally long.

    Returns:
        The acceptance of every step.

    Example:
        >>> from trimtab.policies.toy import Table
        >>> target = Table.of({"": {"a": 0.5, "b": 0.5}}, name="target")
        >>> drafter = Table.of({"": {"a": 0.9, "b": 0.1}}, name="drafter")
        >>> found = acceptance(target, drafter, [([0], [0, 1])])
        >>> found.exact, found.along  # 0.5 + 0.1; a is drafted often enough, b a fifth of the time
        (tensor([[0.6000, 0.6000]]), tensor([[1.0000, 0.2000]]))
    """
    block = torch.tensor([list(answer) for _, answer in answers])
    with torch.inference_mode():
        first, state = init([policy, drafter], [prompt for prompt, _ in answers])
        rest, _ = step([policy, drafter], state, block[:, :-1])
    target, draft = (torch.cat([a.unsqueeze(1), b], 1) for a, b in zip(first, rest, strict=True))
    chosen = block.to(target.device).unsqueeze(2)
    along = (draft.gather(2, chosen) - target.gather(2, chosen)).squeeze(2).clamp(max=0).exp()
    return Acceptance(torch.minimum(target.exp(), draft.exp()).sum(-1), along)


def speed_up(costs: Costs, accepted: Acceptance) -> float:
    """Predict speculative over plain, with the best of the timed block lengths; at least 1."""
    plain, draft = median(costs.plain), median(costs.draft)
    paid = (accepted.tokens(k) * plain / (k * draft + median(cost)) for k, cost in costs.blocks.items())
    return max(1.0, *paid)


def _measures(bench: Setup, case: Case) -> list[Measure]:
    """Time one case and predict it."""
    bench.note(f"speculative: {case.name}")
    accepted = acceptance(case.policy, case.drafter, _answers(bench, case.policy))
    costs = _costs(bench, case)
    times = alternate(
        {
            "plain": lambda: _generate(bench, case.policy, None),
            "speculative": lambda: _generate(bench, case.policy, case.drafter),
        },
        bench.repeats,
    )
    share = Measure.of_times(f"{case.name}: draft step over product step", costs.draft, costs.plain)
    predicted = speed_up(costs, accepted)
    reached = Measure.of_rates(
        f"{case.name}: speculative over plain",
        times["speculative"],
        times["plain"],
        ANSWERS_TIMED * bench.tokens,
    )
    asked = at_least(1.6) if share.ratio <= CHEAP and accepted.rate >= AGREEING else None
    low, high = reached.spread
    return [
        replace(reached, asked=asked),
        Measure(
            f"{case.name}: speed-up reached over predicted",
            reached.ratio,
            predicted,
            "times",
            reached.ratio / predicted,
            (low / predicted, high / predicted),
            at_least(0.85),
        ),
        share,
        Measure(f"{case.name}: acceptance", accepted.rate, 1.0, "share", accepted.rate, (accepted.rate,) * 2),
    ]


def _costs(bench: Setup, case: Case) -> Costs:
    """Time the forwards of the product, of the drafter, and of the blocks that the other leaves verify."""
    policies, prompts = metered(case.policy), bench.prompts(1)
    leaves = needed_leaves(policies, [{}])
    rest: list[Leaf] = [leaf for leaf in leaves if leaf != case.drafter]
    whole, drafting, verifying = (prefilled(each, prompts) for each in (leaves, [case.drafter], rest))
    token = torch.tensor([prompts[0][:1]])
    blocks = {k: token.repeat(1, k + 1) for k in BLOCKS}
    times = alternate(
        {
            "plain": partial(run_forwards, whole, token, STEPS),
            "draft": partial(run_forwards, drafting, token, STEPS),
            **{f"block {k}": partial(run_forwards, verifying, block, STEPS) for k, block in blocks.items()},
        },
        bench.repeats,
    )
    each = {name: [spent / STEPS for spent in side] for name, side in times.items()}
    return Costs(each["plain"], each["draft"], {k: each[f"block {k}"] for k in BLOCKS})


def _answers(bench: Setup, policy: Policy) -> list[tuple[list[int], list[int]]]:
    """Sample plain answers with their prompts."""
    prompts = bench.prompts(ANSWERS)
    return [(prompt, row.tokens) for prompt, row in zip(prompts, bench.decode(policy, prompts), strict=True)]


def _generate(bench: Setup, policy: Policy, drafter: LM | None) -> None:
    """Answer three times: how many drafts are accepted is a matter of luck, the more so in a single answer."""
    tokens = bench.tokens
    for seed in range(bench.seed, bench.seed + ANSWERS_TIMED):
        policy.generate(bench.text, max_new_tokens=tokens, min_new_tokens=tokens, seed=seed, draft=drafter)
