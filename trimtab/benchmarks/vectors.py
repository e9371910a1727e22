"""Vectors of which every row has its own coefficients: over the plain base, and what changing a coefficient costs."""

from __future__ import annotations

from trimtab.benchmarks.measure import Measure, at_most
from trimtab.benchmarks.setup import RANK, Setup
from trimtab.benchmarks.timing import alternate, step_times
from trimtab.policies.knob import Knob

ROWS = 16

WAIT = 0.05
"""Seconds that a new coefficient may add to the first token."""


def suite(bench: Setup) -> list[Measure]:
    """Compare a step of 16 rows at 16 coefficients of two vectors with one of the base, and first tokens."""
    names = ("medical", "legal")
    steered = bench.base
    for number, name in enumerate(names):
        steered = steered + Knob(name, 1.0, min=-1.0, max=2.0) * bench.vector(number)
    prompts = bench.prompts(ROWS)
    values = [{names[0]: row / ROWS, names[1]: 1 - 2 * row / ROWS} for row in range(ROWS)]
    bench.note("vectors: steps")
    steps = step_times(
        {
            "steered": lambda tokens: bench.decode(steered, prompts, tokens, knobs=values, metered=False),
            "metered": lambda tokens: bench.decode(steered, prompts, tokens, knobs=values),
            # A copy of the base, on whose weights no factor was ever put.
            "base": lambda tokens: bench.decode(bench.untuned, prompts, tokens),
        },
        bench.tokens,
        bench.repeats,
    )
    bench.note("vectors: first tokens")
    fresh = iter(range(10**6))

    def first(*, new: bool) -> None:
        value = {names[0]: 0.5 + next(fresh) * 1e-6} if new else {names[0]: 0.5}
        bench.decode(steered, prompts[:1], 1, knobs=[value])

    firsts = alternate({"new": lambda: first(new=True), "same": lambda: first(new=False)}, bench.repeats)
    more = [max(a - b, 0.0) for a, b in zip(firsts["new"], firsts["same"], strict=True)]
    return [
        Measure.of_times(
            f"{ROWS} rows at {ROWS} coefficients of 2 vectors (r = {RANK}) over the base",
            steps["steered"],
            steps["base"],
            at_most(1.5),
        ),
        Measure.of_times(
            f"the same with the KL meter, which runs the base beside: {2 * ROWS} rows", steps["metered"], steps["base"]
        ),
        Measure.of_times(
            f"first token at a new coefficient: time above the one before, over {1000 * WAIT:.0f} ms",
            [each + 1e-6 for each in more],
            [WAIT] * len(more),
            at_most(1.0),
            unit="ms",
        ),
    ]
