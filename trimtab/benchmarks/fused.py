"""What a guide costs: steps of products over steps of their base, and proxy tuning over the loops people write."""

from __future__ import annotations

from trimtab.benchmarks.baselines import logits_processor, proxy_tuning
from trimtab.benchmarks.forwards import clocked
from trimtab.benchmarks.measure import Asked, Measure, at_least, at_most
from trimtab.benchmarks.setup import RANK, Setup, in_rows
from trimtab.benchmarks.timing import alternate, step_times
from trimtab.policies import recipes
from trimtab.policies.base import Policy

STRENGTH = 1.5
"""Of the tuned / untuned pair; at 1 a pair on the base's trunk would cancel down to the tuned model alone."""


def suite(bench: Setup) -> list[Measure]:
    """Compare steps on one trunk and on two, proxy tuning in tokens per second, and the loop around the forwards."""
    lora, pair = f"base x LoRA (r = {RANK})", bench.base * bench.lora
    small = f"base x {bench.guide_layers}-layer guide"
    found = [
        _over_base(bench, lora, pair, 1, at_most(1.35)),
        _over_base(bench, lora, pair, 8, at_most(1.7)),
        _over_base(bench, "base x 2 LoRAs", pair * bench.second_lora, 1, None),
        _over_base(bench, small, bench.base * bench.guide, 1, at_most(1.55)),
        _over_base(bench, small, bench.base * bench.guide, 8, None),
    ]
    shared = recipes.proxy_tuning(bench.base, bench.lora, bench.lora.untouched, STRENGTH)
    apart = recipes.proxy_tuning(bench.base, bench.tuned, bench.untuned, STRENGTH)
    for rows, asked in ((1, at_least(2.0)), (8, at_least(1.6))):
        found.append(_over_loop(bench, "pair on the base's trunk", shared, rows, asked))
    for rows in (1, 8):
        found.append(_over_loop(bench, "three models", apart, rows, at_least(1.0)))
    for rows in (1, 8):
        found.append(_over_processor(bench, small, bench.base * bench.guide, rows))
    found.append(_overhead(bench, pair, 8))
    return found


def _over_base(bench: Setup, name: str, policy: Policy, rows: int, asked: Asked | None) -> Measure:
    """Compare a step of a policy with one of the base."""
    bench.note(f"fused: {name}, {in_rows(rows)}")
    prompts = bench.prompts(rows)
    times = step_times(
        {
            "policy": lambda tokens: bench.decode(policy, prompts, tokens),
            "base": lambda tokens: bench.decode(bench.base, prompts, tokens),
        },
        bench.tokens,
        bench.repeats,
    )
    return Measure.of_times(f"{name} over base, {in_rows(rows)}", times["policy"], times["base"], asked)


def _over_loop(bench: Setup, name: str, policy: Policy, rows: int, asked: Asked) -> Measure:
    """Compare proxy tuning with the sequential loop over three models."""
    bench.note(f"fused: proxy tuning, {name}, {in_rows(rows)}")
    prompts, models = bench.prompts(rows), (bench.plain, bench.plain_tuned, bench.plain_untuned)
    times = alternate(
        {
            "ours": lambda: bench.decode(policy, prompts),
            "theirs": lambda: proxy_tuning.generate(
                models,
                prompts,
                strength=STRENGTH,
                max_new_tokens=bench.tokens,
                end_ids=bench.base.vocabulary.end_ids,
            ),
        },
        bench.repeats,
    )
    told = f"proxy tuning, {name}, over the loop, {in_rows(rows)}"
    return Measure.of_rates(told, times["ours"], times["theirs"], rows * bench.tokens, asked)


def _over_processor(bench: Setup, name: str, policy: Policy, rows: int) -> Measure:
    """Compare a product with generate and a logits processor that holds the second model."""
    bench.note(f"fused: {name} in a logits processor, {in_rows(rows)}")
    prompts = bench.prompts(rows)
    times = alternate(
        {
            "ours": lambda: bench.decode(policy, prompts),
            "theirs": lambda: logits_processor.generate(
                bench.plain, bench.plain_guide, prompts, strength=1.0, max_new_tokens=bench.tokens
            ),
        },
        bench.repeats,
    )
    told = f"{name} over generate with a logits processor, {in_rows(rows)}"
    return Measure.of_rates(told, times["ours"], times["theirs"], rows * bench.tokens)


def _overhead(bench: Setup, policy: Policy, rows: int) -> Measure:
    """Say which share of a step is not the models' forwards."""
    bench.note(f"fused: host overhead, {in_rows(rows)}")
    prompts, forwards = bench.prompts(rows), []

    def decode(tokens: int) -> None:
        with clocked(bench.base.trunk) as spent:
            bench.decode(policy, prompts, tokens)
        if tokens > 1:
            forwards.append(sum(spent) / len(spent))

    whole = step_times({"decode": decode}, bench.tokens, bench.repeats)["decode"]
    name = f"base x LoRA: share of a step outside the forwards, {in_rows(rows)}"
    return Measure.of_share(name, whole, forwards[-bench.repeats :], at_most(0.10))
