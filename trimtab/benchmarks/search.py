"""Chunk-level beam search: one prefill, forked rows and running sums, over repeated prompts and re-encoded texts.

The same search on both sides: propose from the base, keep what the tuned model likes better than the untuned one.

Reference: Zhou et al. (2024), Weak-to-Strong Search.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from trimtab.benchmarks.baselines import chunk_search
from trimtab.benchmarks.baselines.chunk_search import Shape
from trimtab.benchmarks.measure import Measure
from trimtab.benchmarks.setup import Setup
from trimtab.benchmarks.timing import alternate
from trimtab.policies.advance import init, step
from trimtab.policies.base import Policy
from trimtab.policies.state import State

LONGEST = 50
"""New tokens of a search, unless fewer are asked for."""


def suite(bench: Setup) -> list[Measure]:
    """Compare whole searches, with the pair on the base's trunk and with three models."""
    shape = Shape(beams=4, branches=4, chunk=5, max_new_tokens=min(LONGEST, bench.tokens))
    what = f"W={shape.beams} K={shape.branches} L={shape.chunk}"
    base, tokenizer, prompt = bench.base, bench.base.vocabulary.tokenizer, bench.text
    models = (bench.plain_tuned, bench.plain_untuned)
    found = []
    for name, tuned, untuned in (
        ("pair on the base's trunk", bench.lora, bench.lora.untouched),
        ("three models", bench.tuned, bench.untuned),
    ):
        bench.note(f"search: {name}")
        ids = base.vocabulary.encode(prompt)
        policies = [base, tuned, untuned]
        times = alternate(
            {
                "ours": partial(running_sum_search, policies, ids, shape, seed=bench.seed),
                "theirs": partial(chunk_search.search, bench.plain, models, tokenizer, prompt, shape),
            },
            bench.repeats,
        )
        told = f"chunk search {what}, {name}"
        found.append(Measure.of_rates(told, times["ours"], times["theirs"], shape.max_new_tokens))
    return found


def running_sum_search(
    policies: Sequence[Policy], prompt: Sequence[int], shape: Shape, *, seed: int
) -> list[tuple[list[int], float]]:
    """Search with one prefill and no forward for scoring: the log-ratio is summed up while the rows are sampled.

    Args:
        policies: base, tuned and untuned.
        prompt: token ids.
        shape: of the search.
        seed: of sampling.

    Returns:
        The W kept answers as token ids with their log-ratios in nats, best first.

    Example:
        >>> from trimtab.policies.toy import Table
        >>> models = [Table.random(5, seed=seed) for seed in range(3)]
        >>> found = running_sum_search(models, [0], Shape(2, 2, 2, 4), seed=0)
        >>> [len(tokens) for tokens, score in found], found[0][1] >= found[1][1]
        ([4, 4], True)
    """
    with torch.inference_mode():
        log_probs, state = init(policies, [prompt])
        device = log_probs[0].device
        generator = torch.Generator(device).manual_seed(seed)
        scores = torch.zeros(1, device=device)
        tokens = torch.zeros((1, 0), dtype=torch.long, device=device)
        for number, length in enumerate(shape.chunks):
            branches = shape.branches if number else shape.rows
            forked = [each.repeat_interleave(branches, 0) for each in log_probs]
            chunk, gains, state = _sample_chunk(policies, state.fork(branches), forked, length, generator)
            scores = scores.repeat_interleave(branches) + gains
            tokens = torch.cat([tokens.repeat_interleave(branches, 0), chunk], 1)
            best = scores.topk(shape.beams).indices
            scores, tokens = scores[best], tokens[best]
            if number + 1 < len(shape.chunks):  # only what is kept is fed its last token
                log_probs, state = _step(policies, state.select(best.cpu()), tokens[:, -1:])
        return list(zip(tokens.tolist(), scores.tolist(), strict=True))


def _sample_chunk(
    policies: Sequence[Policy], state: State, log_probs: list[Tensor], length: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, State]:
    """Sample (B, length) tokens; returns them, their log-ratios (B,), and the state before the last of them."""
    chosen: list[Tensor] = []
    gains = torch.zeros(len(log_probs[0]), device=log_probs[0].device)
    ends = sorted(policies[0].vocabulary.end_ids)
    while True:
        token = _sample(log_probs[0], ends, generator)
        tuned, untuned = (each.gather(1, token).squeeze(1) for each in log_probs[1:])
        gains = gains + tuned - untuned
        chosen.append(token)
        if len(chosen) == length:
            return torch.cat(chosen, 1), gains, state
        log_probs, state = _step(policies, state, token)


def _step(policies: Sequence[Policy], state: State, chosen: Tensor) -> tuple[list[Tensor], State]:
    """Feed one token to every row; log-probabilities have shape (B, V)."""
    log_probs, state = step(policies, state, chosen)
    return [each.squeeze(1) for each in log_probs], state


def _sample(log_probs: Tensor, ends: list[int], generator: torch.Generator) -> Tensor:
    """Draw a token that ends nothing for every row, shape (B, 1)."""
    probs = log_probs.exp()
    probs[:, ends] = 0.0
    return torch.multinomial(probs, 1, generator=generator)
