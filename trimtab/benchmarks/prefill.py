"""Several answers to one long prompt: the prompt is prefilled once, however many answers are asked for."""

from __future__ import annotations

from trimtab.benchmarks.baselines import plain
from trimtab.benchmarks.measure import Measure, at_most
from trimtab.benchmarks.setup import Setup
from trimtab.benchmarks.timing import alternate

ANSWERS = 16


def suite(bench: Setup) -> list[Measure]:
    """Compare the time to the first token of 16 answers with that of one, and with ``transformers``' generate."""
    bench.note("prefill: a long prompt")
    prompt = bench.long_prompt
    pair = bench.base * bench.lora
    times = alternate(
        {
            "many": lambda: bench.decode(bench.base, [prompt], 1, n=ANSWERS),
            "one": lambda: bench.decode(bench.base, [prompt], 1),
            "theirs": lambda: plain.generate(bench.plain, [prompt], max_new_tokens=1, n=ANSWERS),
            "many, guided": lambda: bench.decode(pair, [prompt], 1, n=ANSWERS),
            "one, guided": lambda: bench.decode(pair, [prompt], 1),
        },
        bench.repeats,
    )
    what = f"first token of {ANSWERS} answers to {len(prompt)} tokens"
    unit = "ms"
    return [
        Measure.of_times(f"base: {what}, over 1 answer", times["many"], times["one"], at_most(1.15), unit=unit),
        Measure.of_times(f"base x LoRA: {what}, over 1 answer", times["many, guided"], times["one, guided"], unit=unit),
        Measure.of_times(f"base: {what}, over transformers' generate", times["many"], times["theirs"], unit=unit),
    ]
