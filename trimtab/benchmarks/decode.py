"""Our loop over ``transformers``' own ``generate`` for a plain LM: steering must not start from a slower loop."""

from __future__ import annotations

from functools import partial

from trimtab.benchmarks.baselines import plain
from trimtab.benchmarks.measure import Measure, at_least
from trimtab.benchmarks.setup import Setup, in_rows
from trimtab.benchmarks.timing import alternate

ROWS = (1, 8, 32)


def suite(bench: Setup) -> list[Measure]:
    """Compare tokens per second of whole decodes, sampling and greedy."""
    found = []
    for rows in ROWS:
        prompts = bench.prompts(rows)
        for greedy in (False, True):
            bench.note(f"decode: {in_rows(rows)}, {'greedy' if greedy else 'sampling'}")
            times = alternate(
                {
                    "ours": partial(bench.decode, bench.base, prompts, greedy=greedy),
                    "theirs": partial(plain.generate, bench.plain, prompts, max_new_tokens=bench.tokens, greedy=greedy),
                },
                bench.repeats,
            )
            name = f"base, {in_rows(rows)}, {'greedy' if greedy else 'sampling'}"
            found.append(Measure.of_rates(name, times["ours"], times["theirs"], rows * bench.tokens, at_least(1.05)))
    return found
