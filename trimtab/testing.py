"""The laws that every policy obeys, as functions you can run on your own policies.

Each raises AssertionError with the size of the disagreement. ``prompts`` are token ids; ragged ones find more mistakes.

Example:
    >>> from trimtab.policies.toy import Table
    >>> base, guide = Table.random(5, seed=0, name="base"), Table.random(5, seed=1, name="guide")
    >>> check_policy(base * guide ** 0.5, [[0], [1, 2, 3]])
    >>> check_pair(base, guide, [[0], [1, 2, 3]])
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import torch
from peft import LoraConfig
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from trimtab.decoding.kl import exact_kl
from trimtab.decoding.pool import decode
from trimtab.decoding.request import Bounds, Request, Row, Settings
from trimtab.policies.base import Policy, Prompt
from trimtab.policies.knob import Knob
from trimtab.policies.lm import LM
from trimtab.policies.vector import LowRank, Origin, Vector
from trimtab.policies.vocabulary import Vocabulary

Prompts = Sequence[Prompt]


def tiny_lm(
    size: int = 13, *, seed: int = 0, name: str = "tiny", cached: bool = True, columns: int | None = None
) -> LM:
    """Return a real transformer of a few thousand random weights over a toy vocabulary.

    Args:
        size: number of tokens, named t0, t1, ...; the last one ends an answer.
        seed: of the weights.
        name: what messages call it.
        cached: False runs the whole prefix at every step.
        columns: width of the output layer, when it is padded past the last token.
    """
    words = [f"t{i}" for i in range(size)]
    config = LlamaConfig(
        vocab_size=columns or size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.4,
        bos_token_id=0,
        eos_token_id=size - 1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    return LM.of(model, Vocabulary.of_pieces(words, end=words[-1]), name=name, cached=cached)


def with_lora(lm: LM, name: str = "guide", *, seed: int = 1, config: LoraConfig | None = None) -> LM:
    """Return an LM with a random LoRA adapter on the same trunk, one that is not the identity.

    Args:
        lm: whose trunk it goes on.
        name: of the adapter and of the LM.
        seed: of its weights.
        config: its shape; by default rank 2 on all linear layers.

    Example:
        >>> base = tiny_lm()
        >>> guide = with_lora(base)
        >>> guide.trunk is base.trunk, guide == base
        (True, False)
    """
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        lm.trunk.add_adapter(name, config or LoraConfig(r=2, target_modules="all-linear"))
        for key, tensor in lm.trunk.parameters(name).items():
            if "lora_B" in key:
                tensor.normal_(std=0.3)
    return replace(lm, adapter=name, label=name)


def random_vector(
    lm: LM, name: str = "vector", *, seed: int = 2, rank: int = 2, dense: Sequence[str] = (), size: float = 0.1
) -> Vector:
    """Return a vector of random numbers that fits on an LM, low rank on all layers' projections.

    Args:
        lm: whose weights it changes.
        name: what messages call it.
        seed: of its numbers.
        rank: of the factors; 0 for none.
        dense: tensors that it changes by plain differences.
        size: standard deviation of a plain difference, and scale of the factors.

    Example:
        >>> base = tiny_lm()
        >>> str(base + 0.5 * random_vector(base, "polite"))
        '(tiny + 0.5 * polite)'
    """
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * size

    shapes = {key.replace(".base_layer.", "."): each.shape for key, each in lm.trunk.model.named_parameters()}
    low_rank = {
        key.removesuffix(".weight"): LowRank(noise(rank, shape[1]), noise(shape[0], rank) / size)
        for key, shape in shapes.items()
        if rank and "_proj.weight" in key
    }
    plain = {key: noise(*shapes[key]) for key in dense}
    return Vector(low_rank, plain, Origin(lm.trunk.identity, lm.trunk.source), name)


def check_vector(base: LM, vector: Vector, prompts: Prompts, *, tolerance: float = 1e-4) -> None:
    """Check the laws of adding a vector: nothing at 0, the same merged or not, and what is subtracted is gone.

    Args:
        base: the LM it was taken from.
        vector: the vector.
        prompts: token ids; ragged ones find more.
        tolerance: largest difference of a log-probability, in nats.

    Raises:
        AssertionError: a law does not hold; the message says which.
    """
    assert base + 0.0 * vector == base == base + vector - vector, "a vector at 0 is not the base"
    assert torch.equal(_next(base + 0.0 * vector, prompts), _next(base, prompts)), "a vector at 0 is not the base"
    for amount in (1.0, -0.7):
        apart = replace(base, trunk=base.trunk.merged({vector: amount}))
        _same(_next(base + amount * vector, prompts), _next(apart, prompts), tolerance, f"{amount} times a vector")
    assert torch.equal(_next(base, prompts), _next(base + 0.0 * vector, prompts)), "the base was changed"
    if base.trunk.rides(vector):
        free = base + Knob("amount", 0.0) * vector
        with torch.no_grad():
            assert torch.equal(free.init(prompts)[0], base.init(prompts)[0]), "a knob at 0 is not the base"


def check_policy(policy: Policy, prompts: Prompts, *, tolerance: float = 1e-4) -> None:
    """Check every law that concerns one policy.

    Args:
        policy: any policy whose knobs, if it has any, have defaults.
        prompts: token ids.
        tolerance: largest allowed difference of log-probabilities, in nats.
    """
    check_normalised(policy, prompts, tolerance=tolerance)
    check_cached_is_uncached(policy, prompts, tolerance=tolerance)
    check_batch_is_single(policy, prompts, tolerance=tolerance)
    check_block_is_steps(policy, prompts, tolerance=tolerance)
    check_select_and_fork(policy, prompts, tolerance=tolerance)
    check_rollback(policy, prompts, tolerance=tolerance)
    check_join(policy, prompts, tolerance=tolerance)
    check_shared_prefill(policy, prompts)
    check_neighbours_do_not_matter(policy, prompts)


def check_pair(base: Policy, guide: Policy, prompts: Prompts, *, tolerance: float = 1e-4) -> None:
    """Check every law that concerns a base and a guide over the same tokens."""
    check_exponent_zero_is_base(base, guide, prompts)
    check_untuned_base_gives_tuned(base, guide, prompts, tolerance=tolerance)
    check_interpolation_is_ratio(base, guide, 1.7, prompts, tolerance=tolerance)
    check_order_does_not_matter(base, guide, prompts, tolerance=tolerance)
    check_rows_have_own_knobs(base, guide, prompts, tolerance=tolerance)


def check_normalised(policy: Policy, prompts: Prompts, *, tolerance: float = 1e-4) -> None:
    """Probabilities sum to 1 in every row."""
    _same(_next(policy, prompts).logsumexp(-1), torch.zeros(len(prompts)), tolerance, "log of the total probability")


def check_exponent_zero_is_base(base: Policy, guide: Policy, prompts: Prompts) -> None:
    """``base * guide ** 0`` is the base bit for bit, whether the 0 is written down or bound to a knob."""
    expected = _next(base, prompts)
    strength = Knob("zero_law_strength", 1.0)
    with torch.no_grad():
        bound = (base * guide**strength).init(prompts, {strength.name: 0.0})[0]
    for found in (_next(base * guide**0, prompts), bound):
        assert torch.equal(found, expected), "base * guide ** 0 differs from the base"


def check_untuned_base_gives_tuned(base: Policy, tuned: Policy, prompts: Prompts, *, tolerance: float = 1e-4) -> None:
    """``base * (tuned / base)`` is the tuned policy."""
    _same(_next(base * (tuned / base), prompts), _next(tuned, prompts), tolerance, "base * (tuned / base) and tuned")


def check_interpolation_is_ratio(
    reference: Policy, aligned: Policy, lam: float, prompts: Prompts, *, tolerance: float = 1e-4
) -> None:
    """DeRa's ``reference ** (1 - lam) * aligned ** lam`` is emulated fine-tuning with base = untuned = reference."""
    dera = reference ** (1 - lam) * aligned**lam
    _same(
        _next(dera, prompts),
        _next(reference * (aligned / reference) ** lam, prompts),
        tolerance,
        "the two forms of DeRa",
    )


def check_order_does_not_matter(a: Policy, b: Policy, prompts: Prompts, *, tolerance: float = 1e-4) -> None:
    """``a * b ** 0.7`` is ``b ** 0.7 * a``."""
    _same(_next(a * b**0.7, prompts), _next(b**0.7 * a, prompts), tolerance, "the two orders of factors")


def check_rows_have_own_knobs(base: Policy, guide: Policy, prompts: Prompts, *, tolerance: float = 1e-4) -> None:
    """Rows with different knob values give what separate runs give; 0 among them included."""
    strength = Knob("row_law_strength", 1.0)
    policy = base * guide**strength
    settings = [{strength.name: 0.5 * (i % 3)} for i in range(len(prompts))]
    with torch.no_grad():
        together = policy.init(prompts, settings)[0]
        alone = [policy.init([prompt], row)[0] for prompt, row in zip(prompts, settings, strict=True)]
    _same(together, torch.cat(alone), tolerance, "per-row knobs and separate runs")


def check_cached_is_uncached(policy: Policy, prompts: Prompts, *, tolerance: float = 1e-4) -> None:
    """Stepping from a state gives what prefilling the longer prefix gives."""
    tokens = _continuation(policy, len(prompts), 3)
    with torch.no_grad():
        _, state = policy.init(prompts)
        for t in range(tokens.shape[1]):
            log_probs, state = policy.step(state, tokens[:, t : t + 1])
            longer = [[*prompt, *row[: t + 1]] for prompt, row in zip(prompts, tokens.tolist(), strict=True)]
            _same(log_probs[:, 0], _next(policy, longer), tolerance, f"step {t} and the whole prefix")


def check_batch_is_single(policy: Policy, prompts: Prompts, *, tolerance: float = 1e-4) -> None:
    """A batch of ragged prompts gives what the prompts give one by one."""
    _same(
        _next(policy, prompts),
        torch.cat([_next(policy, [p]) for p in prompts]),
        tolerance,
        "a batch and its single rows",
    )


def check_block_is_steps(policy: Policy, prompts: Prompts, *, tolerance: float = 1e-4) -> None:
    """A block of tokens gives what its tokens give one by one."""
    tokens = _continuation(policy, len(prompts), 3)
    with torch.no_grad():
        _, start = policy.init(prompts)
        block, _ = policy.step(start, tokens)
        state, single = start, []
        for t in range(tokens.shape[1]):
            log_probs, state = policy.step(state, tokens[:, t : t + 1])
            single.append(log_probs)
    _same(block, torch.cat(single, 1), tolerance, "a block and its single tokens")


def check_select_and_fork(policy: Policy, prompts: Prompts, *, tolerance: float = 1e-4) -> None:
    """Selected and forked rows go on like the rows they come from, and the old state stays valid."""
    tokens = _continuation(policy, len(prompts), 1)
    rows = [*reversed(range(len(prompts))), 0]
    with torch.no_grad():
        _, state = policy.init(prompts)
        picked, _ = policy.step(state.select(rows), tokens[rows])
        forked, _ = policy.step(state.fork(2), tokens.repeat_interleave(2, 0))
        plain, _ = policy.step(state, tokens)
    _same(picked, plain[rows], tolerance, "selected rows and their origins")
    _same(forked, plain.repeat_interleave(2, 0), tolerance, "forked rows and their origins")


def check_rollback(policy: Policy, prompts: Prompts, *, tolerance: float = 1e-4) -> None:
    """Rows rolled back by different numbers of tokens go on as if those had never been fed."""
    count = len(prompts)
    tokens, following = _continuation(policy, count, 3), _continuation(policy, count, 1, start=5)
    kept = torch.tensor([len(prompt) + i % 4 for i, prompt in enumerate(prompts)])
    with torch.no_grad():
        _, state = policy.init(prompts)
        _, state = policy.step(state, tokens)
        back, _ = policy.step(state.rollback(kept), following)
    fed = [
        [*prompt, *row[: int(keep) - len(prompt)], *after]
        for prompt, row, keep, after in zip(prompts, tokens.tolist(), kept, following.tolist(), strict=True)
    ]
    _same(back[:, 0], _next(policy, fed), tolerance, "rolled-back rows and fresh ones")


def check_join(policy: Policy, prompts: Prompts, *, tolerance: float = 1e-4) -> None:
    """States joined after different numbers of tokens go on like the states did alone."""
    tokens = _continuation(policy, len(prompts), 2)
    with torch.no_grad():
        _, a = policy.init(prompts)
        _, b = policy.init(prompts)
        _, b = policy.step(b, tokens[:, :1])
        joined, _ = policy.step(a.join(b), torch.cat([tokens[:, 1:], tokens[:, 1:]]))
        apart = [policy.step(state, tokens[:, 1:])[0] for state in (a, b)]
    _same(joined, torch.cat(apart), tolerance, "joined and separate states")


def check_shared_prefill(policy: Policy, prompts: Prompts) -> None:
    """n answers from one prefill are the answers that n prefills give."""
    settings = Settings(max_new_tokens=6, seed=7)
    shared = decode(policy, [Request(tuple(p), n=3, occurrence=i) for i, p in enumerate(prompts)], settings)
    for i, prompt in enumerate(prompts):
        alone = decode(policy, [Request(tuple(prompt), n=3, occurrence=i)], settings)
        _same_rows(shared[3 * i : 3 * i + 3], alone, "shared and repeated prefill")


def check_neighbours_do_not_matter(policy: Policy, prompts: Prompts) -> None:
    """A row's answer does not depend on what else is in the batch, or on when it is admitted."""
    requests = [Request(tuple(p), n=2, occurrence=i) for i, p in enumerate(prompts)]
    together = decode(policy, requests, Settings(max_new_tokens=6, seed=3))
    squeezed = decode(policy, requests, Settings(max_new_tokens=6, seed=3), bounds=Bounds(rows=3))
    alone = [row for request in requests for row in decode(policy, [request], Settings(max_new_tokens=6, seed=3))]
    _same_rows(together, alone, "rows together and alone")
    _same_rows(together, squeezed, "rows together and admitted late")


def enumerated_kl(policy: Policy, reference: Policy, prompt: Prompt, length: int) -> float:
    """Return KL(policy || reference) over all answers of a length, by listing every one of them; in nats.

    For toy policies that never end: V ** length answers are evaluated.
    """
    size = policy.vocabulary.size
    answers = [list(answer) for answer in itertools.product(range(size), repeat=length)]
    own, theirs = (_totals(p, prompt, answers) for p in (policy, reference))
    return float(exact_kl(own, theirs))


def _totals(policy: Policy, prompt: Prompt, answers: list[list[int]]) -> Tensor:
    """Return the log-probability of every answer, shape (answers,)."""
    block = torch.tensor(answers)
    with torch.no_grad():
        first, state = policy.init([prompt] * len(answers))
        rest, _ = policy.step(state, block[:, :-1])
    log_probs = torch.cat([first.unsqueeze(1), rest], 1).double()
    return log_probs.gather(2, block.unsqueeze(2)).squeeze(2).sum(1)


def _next(policy: Policy, prompts: Prompts) -> Tensor:
    with torch.no_grad():
        return policy.init(prompts)[0]


def _continuation(policy: Policy, rows: int, length: int, *, start: int = 1) -> Tensor:
    """Return some tokens to feed, different in every row."""
    return (start + torch.arange(rows * length).view(rows, length) * 3) % policy.vocabulary.size


def _same(a: Tensor, b: Tensor, tolerance: float, what: str) -> None:
    both_impossible = torch.isinf(a) & torch.isinf(b)
    worst = float(torch.where(both_impossible, torch.zeros_like(a), a - b).abs().max())
    assert worst <= tolerance, f"{what} differ by {worst:.3g} nats, more than {tolerance:g}"


def _same_rows(a: Sequence[Row], b: Sequence[Row], what: str) -> None:
    for first, second in zip(a, b, strict=True):
        assert first.tokens == second.tokens, f"{what} differ: {first.tokens} and {second.tokens}"
