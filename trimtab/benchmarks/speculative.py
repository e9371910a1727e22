"""Speculative over plain decoding of the same product, beside what acceptance and forward costs predict.

The prediction knows nothing of the engine: acceptance is computed along answers that were sampled plainly, costs are
timed forwards. An exact block of k drafted tokens yields 1 + sum_j P(the first j are accepted) tokens, and

    P(the first j are accepted) = E over x from p of prod_i min(1, q(x_i) / p(x_i))

for a target p and a drafter q. A drafter that does not pay must not cost anything either, so no prediction is below 1.

Reference: Leviathan, Kalman, Matias (2023), Fast Inference from Transformers via Speculative Decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import torch
from torch import Tensor

from trimtab.benchmarks.forwards import metered, prefilled, run_forwards
from trimtab.benchmarks.measure import Measure, at_least
from trimtab.benchmarks.setup import Setup
from trimtab.benchmarks.timing import alternate, decodes, steps_of
from trimtab.policies.advance import init, needed_leaves, step
from trimtab.policies.base import Leaf, Policy
from trimtab.policies.lm import LM

DRAFTS = (1, 2, 4, 8)
"""Drafted tokens of the cycles that are timed."""

STEPS = 4
"""Forwards in one timing."""

PROMPTS = 4
"""Prompts that are answered one after another: how many drafts are accepted differs much from one to another."""

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
        cycles: k drafts, one after another, and then k + 1 tokens through the leaves that do not draft, for each k.
    """

    plain: list[float]
    draft: list[float]
    cycles: dict[int, list[float]]


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
        if acceptance(policy, bench.guide, _answers(bench, policy, None, bench.tokens)).rate >= AGREEING:
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
    plain = median(costs.plain)
    return max(1.0, *(accepted.tokens(k) * plain / median(cycle) for k, cycle in costs.cycles.items()))


def _measures(bench: Setup, case: Case) -> list[Measure]:
    """Time one case and predict it."""
    bench.note(f"speculative: {case.name}")
    accepted = acceptance(case.policy, case.drafter, _answers(bench, case.policy, None, bench.tokens))
    times = alternate(
        {
            **decodes({"plain": partial(_answers, bench, case.policy, None)}, bench.tokens),
            **decodes({"speculative": partial(_answers, bench, case.policy, case.drafter)}, bench.tokens),
            **_forwards(bench, case),
        },
        bench.repeats,
    )
    costs = _costs(times)
    share = Measure.of_times(f"{case.name}: draft step over product step", costs.draft, costs.plain)
    predicted = speed_up(costs, accepted)
    reached = Measure.of_rates(
        f"{case.name}: speculative over plain",
        steps_of(times, "speculative", bench.tokens),
        steps_of(times, "plain", bench.tokens),
        PROMPTS,
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


def _forwards(bench: Setup, case: Case) -> dict[str, Callable[[], object]]:
    """Return the forwards of the product, of the drafter, and of whole cycles.

    In a cycle the drafter's weights have just been driven out of the processor's caches by those of the others.
    """
    policies, prompts = metered(case.policy), bench.prompts(1)
    leaves = needed_leaves(policies, [{}])
    rest: list[Leaf] = [leaf for leaf in leaves if leaf != case.drafter]
    whole, drafting, verifying = (prefilled(each, prompts) for each in (leaves, [case.drafter], rest))
    token = torch.tensor([prompts[0][:1]])
    again = case.drafter in leaves  # then the product needs what it says after the last draft, too

    def cycle(k: int) -> None:
        run_forwards(drafting, token, k + again)
        run_forwards(verifying, token.repeat(1, k + 1))

    return {
        "product's forwards": partial(run_forwards, whole, token, STEPS),
        "drafter's forwards": partial(run_forwards, drafting, token, STEPS),
        **{f"{k} drafts": partial(cycle, k) for k in DRAFTS},
    }


def _costs(times: Mapping[str, Sequence[float]]) -> Costs:
    """Read what :func:`_forwards` took."""
    plain, draft = ([spent / STEPS for spent in times[f"{whose}'s forwards"]] for whose in ("product", "drafter"))
    return Costs(plain, draft, {k: list(times[f"{k} drafts"]) for k in DRAFTS})


def _answers(bench: Setup, policy: Policy, drafter: LM | None, tokens: int) -> list[tuple[list[int], list[int]]]:
    """Answer one prompt after another; return prompts and answers."""
    prompts = bench.prompts(PROMPTS)
    return [(prompt, bench.decode(policy, [prompt], tokens, draft=drafter)[0].tokens) for prompt in prompts]
