"""Rows with their own knob values: sixteen users with sixteen settings cost what they cost with one setting."""

from __future__ import annotations

from trimtab.benchmarks.measure import Measure, at_most
from trimtab.benchmarks.setup import Setup
from trimtab.benchmarks.timing import step_times
from trimtab.policies.base import Policy
from trimtab.policies.knob import Knob

ROWS = 16


def suite(bench: Setup) -> list[Measure]:
    """Compare a step of 16 rows at 16 strengths with one of 16 rows at the same strength."""
    strength = Knob("strength", 1.0, min=0.0, max=3.0)
    return [
        _different_over_equal(bench, "base x LoRA ^ strength", bench.base * bench.lora**strength, strength),
        _different_over_equal(
            bench,
            f"base x {bench.guide_layers}-layer guide ^ strength",
            bench.base * bench.guide**strength,
            strength,
        ),
    ]


def _different_over_equal(bench: Setup, name: str, policy: Policy, knob: Knob) -> Measure:
    bench.note(f"knobs: {name}")
    prompts = bench.prompts(ROWS)
    equal = [{knob.name: 1.0}] * ROWS
    different = [{knob.name: 0.5 + row / ROWS} for row in range(ROWS)]
    times = step_times(
        {
            "different": lambda tokens: bench.decode(policy, prompts, tokens, knobs=different),
            "equal": lambda tokens: bench.decode(policy, prompts, tokens, knobs=equal),
        },
        bench.tokens,
        bench.repeats,
    )
    return Measure.of_times(f"{name}: {ROWS} values over 1", times["different"], times["equal"], at_most(1.05))
