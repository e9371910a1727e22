"""Chunk-level beam search: one prefill, forked rows and running sums, over repeated prompts and re-encoded texts.

The same search on both sides: propose from the base, keep what the tuned model likes better than the untuned one. And
what a search costs beside plain sampling of as many rows.

Reference: Zhou et al. (2024), Weak-to-Strong Search.
"""

from __future__ import annotations

from functools import partial

from trimtab.benchmarks.baselines import chunk_search
from trimtab.benchmarks.baselines.chunk_search import Shape as Baseline
from trimtab.benchmarks.measure import Measure, at_least, at_most
from trimtab.benchmarks.replay import Recorded, Replayed, Tape
from trimtab.benchmarks.setup import Setup
from trimtab.benchmarks.timing import alternate
from trimtab.decoding.search import search
from trimtab.decoding.shape import Shape, chunk_beam
from trimtab.policies.base import Policy
from trimtab.values.log_ratio import LogRatio
from trimtab.values.value import Value

LONGEST = 50
"""New tokens of a search, unless fewer are asked for."""


def suite(bench: Setup) -> list[Measure]:
    """Compare whole searches, with the pair on the base's trunk and with three models, and with plain sampling."""
    beams, branches, chunk = 4, 4, 5
    shape, tokens = chunk_beam(beams, branches, chunk), min(LONGEST, bench.tokens)
    what = f"W={beams} K={branches} L={chunk}"
    baseline = Baseline(beams, branches, chunk, tokens)
    models = (bench.plain_tuned, bench.plain_untuned)
    found = []
    for name, value in (
        ("pair on the base's trunk", LogRatio(bench.lora, bench.lora.untouched)),
        ("three models", LogRatio(bench.tuned, bench.untuned)),
    ):
        bench.note(f"search: {name}")
        times = alternate(
            {
                "ours": partial(_search, bench, bench.base, value, shape, tokens),
                "theirs": partial(
                    chunk_search.search, bench.plain, models, bench.base.vocabulary.tokenizer, bench.text, baseline
                ),
            },
            bench.repeats,
        )
        found.append(Measure.of_rates(f"chunk search {what}, {name}", times["ours"], times["theirs"], tokens))
    found.append(_many(bench, baseline, shape, tokens, what))
    found += _guided(bench, shape, tokens, what)
    return found


def _many(bench: Setup, baseline: Baseline, shape: Shape, tokens: int, what: str) -> Measure:
    """Compare searches for eight prompts: together, and one after another as the loop does."""
    bench.note("search: eight prompts")
    texts = [f"{bench.text} {word}" for word in ("a", "the", "one", "his", "her", "our", "two", "no")]
    value, models = LogRatio(bench.lora, bench.lora.untouched), (bench.plain_tuned, bench.plain_untuned)
    tokenizer = bench.base.vocabulary.tokenizer
    times = alternate(
        {
            "ours": partial(_search, bench, bench.base, value, shape, tokens, texts),
            "theirs": lambda: [chunk_search.search(bench.plain, models, tokenizer, text, baseline) for text in texts],
        },
        min(bench.repeats, 3),  # the loop takes minutes
    )
    name = f"chunk search {what} for {len(texts)} prompts, pair on the base's trunk"
    return Measure.of_rates(name, times["ours"], times["theirs"], tokens * len(texts), at_least(4.0))


def _guided(bench: Setup, shape: Shape, tokens: int, what: str) -> list[Measure]:
    """Compare a search that is guided and scored by one pair with sampling as many rows, and with scores for free."""
    bench.note("search: of a guided policy")
    policy, value = bench.base * (bench.tuned / bench.untuned) ** 0.5, LogRatio(bench.tuned, bench.untuned)
    prompt, tape = bench.base.vocabulary.encode(bench.text), Tape()
    _search(bench, policy, Recorded(value, tape), shape, tokens)
    times = alternate(
        {
            "search": partial(_search, bench, policy, value, shape, tokens),
            "replayed": partial(_search, bench, policy, Replayed(tape), shape, tokens),
            "sampling": lambda: bench.decode(policy, [prompt], tokens, n=shape.rows),
        },
        bench.repeats,
    )
    over = f"chunk search {what} of a guided policy, over"
    return [
        Measure.of_times(
            f"{over} sampling {shape.rows} rows of it", times["search"], times["sampling"], at_most(1.25), unit="ms"
        ),
        Measure.of_times(
            f"{over} the same with scores that are known",
            times["search"],
            times["replayed"],
            at_most(1.02),
            unit="ms",
        ),
    ]


def _search(
    bench: Setup, policy: Policy, value: Value, shape: Shape, tokens: int, texts: list[str] | None = None
) -> None:
    """Search for answers that do not end early."""
    search(policy, texts or bench.text, value, shape, max_new_tokens=tokens, min_new_tokens=tokens, seed=bench.seed)
