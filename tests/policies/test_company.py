"""Alone and in company: on a processor a row's logits have the same bits whatever other rows there are."""

from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from trimtab.policies import attention, cache, decoder, packed, shared, slots
from trimtab.policies.attention import Sight, attend
from trimtab.policies.company import filled, in_company, multiplied, rows_for
from trimtab.policies.lm import LM
from trimtab.policies.shared import Shared
from trimtab.policies.slots import CHUNK, whole_chunks
from trimtab.policies.vocabulary import Vocabulary
from trimtab.testing import check_policy, random_vector, tiny_lm, with_lora

SHAPE = {
    "vocab_size": 96,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "max_position_embeddings": 1024,
}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "biases": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, attention_bias=True)),
    "one head each": lambda: LlamaForCausalLM(LlamaConfig(**{**SHAPE, "num_key_value_heads": 6})),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=32)),
}


def model(name, dtype, *, seed=0):
    torch.manual_seed(seed)
    made = MODELS[name]().eval().to(dtype)
    return LM.of(made, Vocabulary.of_pieces([f"t{i}" for i in range(96)]))


def random_tokens(count, *, seed):
    return torch.randint(1, 96, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def run(lm, leaves, prompts, following, *, cut=()):
    """Return the logits of all steps, (L, B, 1 + T, V); rows join one by one, and those in ``cut`` leave after two."""
    trunk, tokens = lm.trunk, torch.tensor(following)
    with torch.inference_mode():
        parts = [trunk.init(leaves, [prompt]) for prompt in prompts]
        state = parts[0][1]
        for _, other in parts[1:]:
            state = state.join(other)
        said, kept = [[torch.cat([first for first, _ in parts], 1)]], list(range(len(prompts)))
        found = {row: [said[0][0][:, row]] for row in kept}
        for step in range(tokens.shape[1]):
            logits, state = trunk.step(state, tokens[kept, step : step + 1])
            for place, row in enumerate(kept):
                found[row].append(logits[:, place, 0])
            if step == 1 and cut:
                left = [place for place, row in enumerate(kept) if row not in cut]
                kept, state = [kept[place] for place in left], state.select(torch.tensor(left))
    return {row: torch.stack(each, 1) for row, each in found.items()}


LENGTHS = [3, 1, 17, 40, 130, 9, 127, 128, 300, 16, 33, 2]


@pytest.mark.usefixtures("equal_bits")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_a_row_has_the_same_logits_alone_and_in_company(name, dtype):
    lm = model(name, dtype)
    with_lora(lm, "guide")
    leaves = [lm, replace(lm, adapter="guide"), replace(lm, view=replace(lm.view, prefix=tuple(range(1, 8))))]
    prompts = [random_tokens(length, seed=length) for length in LENGTHS]
    following = [random_tokens(6, seed=100 + length) for length in LENGTHS]
    with torch.inference_mode():
        together = lm.trunk.init(leaves, prompts)[0]
    joined = run(lm, leaves, prompts, following, cut={0, 4, 8})
    for row, (prompt, more) in enumerate(zip(prompts, following, strict=True)):
        (alone,) = run(lm, leaves, [prompt], [more]).values()
        assert torch.equal(together[:, row], alone[:, 0])
        assert torch.equal(joined[row], alone[:, : joined[row].shape[1]])
        (single,) = run(lm, leaves[:1], [prompt], [more]).values()  # one row in all: another leaf is a neighbour too
        assert torch.equal(single[0], alone[0])


@pytest.mark.usefixtures("equal_bits")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_row_with_a_vector_has_the_same_logits_alone_and_in_company(dtype):
    lm = model("biases", dtype)
    moved = lm + 0.5 * random_vector(lm)
    prompts = [random_tokens(length, seed=length) for length in LENGTHS]
    following = [random_tokens(4, seed=100 + length) for length in LENGTHS]
    joined = run(moved, [moved], prompts, following)
    for row, (prompt, more) in enumerate(zip(prompts, following, strict=True)):
        (alone,) = run(moved, [moved], [prompt], [more]).values()
        assert torch.equal(joined[row], alone)


@pytest.mark.usefixtures("equal_bits")
@pytest.mark.parametrize("group", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("block", [1, 2, 3, 9, 22, 64, 300])
def test_a_row_attends_the_same_alone_and_in_company(block, group):
    torch.manual_seed(0)
    heads, lengths = 2, [block, block + 1, 130, 201, 127, 310, 17]
    lengths = [max(length, block) for length in lengths]

    def sight(some, width):
        ends = torch.tensor(some)[:, None] - block + torch.arange(block) + 1
        seen = torch.arange(width) < ends[..., None]
        mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min / 4)
        return Sight(mask.unsqueeze(1), heads, group)

    width = whole_chunks(max(lengths))
    queries, (keys, values) = torch.randn(7, block, heads * group, 32), torch.randn(2, 7, heads, width, 32)
    together = attend(queries, keys, values, sight(lengths, width), None)
    for row, length in enumerate(lengths):
        own, less = slice(row, row + 1), whole_chunks(length)
        mine = keys[own, :, :less].clone(), values[own, :, :less].clone()
        assert torch.equal(attend(queries[own].clone(), *mine, sight([length], less), None), together[own])


@pytest.mark.usefixtures("equal_bits")
@pytest.mark.parametrize("group", [3, 5, 6, 7])
def test_a_row_attends_the_same_to_a_prompt_that_it_shares(group):
    torch.manual_seed(0)
    heads, rows = 2, 14
    queries, (keys, values) = torch.randn(rows, 1, heads * group, 32), torch.randn(2, 1, heads, 2 * CHUNK, 32)
    own = torch.randn(2, rows, heads, 16, 32)
    nothing = torch.zeros(rows, 1, 1, 16)
    common = Shared([keys, values], torch.tensor([2]), (), torch.zeros(rows, dtype=torch.long))
    together = attend(queries, *own, Sight(nothing, heads, group, shared=common), (keys, values))
    for row in range(rows):
        one = replace(common, lane=torch.tensor([0]))
        alone = attend(
            queries[row : row + 1].clone(),
            *own[:, row : row + 1].clone(),
            Sight(nothing[:1], heads, group, shared=one),
            (keys, values),
        )
        assert torch.equal(alone[0], together[row])


@pytest.mark.usefixtures("equal_bits")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_row_has_the_same_logits_whether_it_shares_its_prompt_or_not(dtype):
    lm = model("llama", dtype)
    prompts = [random_tokens(length, seed=length) for length in (300, 20, 140)]
    index, following = [0, 0, 1, 0, 0, 2, 2, 0, 2, 0, 0], random_tokens(5, seed=5)
    tokens = torch.tensor([[(token + row) % 96 for token in following] for row in range(len(index))])
    with torch.inference_mode():
        _, state = lm.trunk.init([lm], prompts)
        state, said = state.select(torch.tensor(index)), []
        assert state.stacks[0].rows.shared is not None
        for step in range(tokens.shape[1]):
            logits, state = lm.trunk.step(state, tokens[:, step : step + 1])
            said.append(logits[0, :, 0])
        assert state.stacks[0].rows.shared is not None
    for row, lane in enumerate(index):
        (alone,) = run(lm, [lm], [prompts[lane]], [tokens[row].tolist()]).values()
        assert torch.equal(torch.stack(said, 1)[row], alone[0, 1:])


@pytest.mark.usefixtures("equal_bits")
@pytest.mark.parametrize("chunks", [2, 5, 17])
def test_chunks_that_weigh_nothing_make_no_difference(chunks):
    torch.manual_seed(0)
    said, weight = torch.randn(6, chunks, 4, 16), torch.randn(6, chunks, 4) * 3
    alone = attention._merged(said, weight)
    for extra, first in ((1, 1), (7, 1), (20, chunks), (3, chunks)):  # in between and behind, and more rows
        more, none = torch.randn(40, chunks + extra, 4, 16), torch.full((40, chunks + extra, 4), -torch.inf)
        places = [*range(first), *range(first + extra, chunks + extra)]
        more[:6, places], none[:6, places], none[6:] = said, weight, 0.0
        assert torch.equal(attention._merged(more, none)[:6], alone)


@pytest.mark.usefixtures("equal_bits")
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 15])
def test_few_rows_are_multiplied_in_company(rows):
    x, weight = torch.randn(64, 48), torch.randn(48, 80)
    assert torch.equal(multiplied(x[:rows], weight), multiplied(x, weight)[:rows])
    assert in_company(x) is x and len(in_company(x[:rows])) == 16 and len(in_company(x[:1], reordered=True)) == 4
    for reorder in (False, True):
        linear = packed.Packed([weight.t().contiguous()], [torch.randn(80)], reorder=reorder)
        assert torch.equal(linear(x[:rows]), linear(x)[:rows])


# -- what attention gives --------------------------------------------------------------------------------------------


def plain(queries, keys, values, seen):
    """Attention by its formula in float64; seen (N, T, W)."""
    group = queries.shape[2] // keys.shape[1]
    keys, values = (x.double().repeat_interleave(group, 1) for x in (keys, values))
    scores = queries.double().transpose(1, 2) @ keys.transpose(2, 3) / queries.shape[-1] ** 0.5
    return (scores.masked_fill(~seen[:, None], -torch.inf).softmax(-1) @ values).transpose(1, 2)


@pytest.mark.parametrize("pieces", [True, False])
@pytest.mark.parametrize(("block", "width"), [(1, 32), (1, 64), (1, 384), (4, 48), (4, 256), (30, 48), (30, 256)])
def test_attention_to_slots_is_its_formula(block, width, pieces, monkeypatch):
    monkeypatch.setattr(attention, "in_pieces", lambda device: pieces)
    torch.manual_seed(0)
    ends = torch.tensor([width, width - 9, block])
    queries = torch.randn(3, block, 6, 16)
    keys, values = torch.randn(2, 3, 2, width, 16)
    seen = torch.arange(width) < (ends[:, None] - block + torch.arange(block) + 1)[..., None]
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min / 4)[:, None]
    found = attend(queries, keys, values, Sight(mask, 2, 3), None)
    torch.testing.assert_close(found.double(), plain(queries, keys, values, seen), atol=1e-5, rtol=0)


@pytest.mark.parametrize("pieces", [True, False])
@pytest.mark.parametrize("width", [16, CHUNK, CHUNK + 16, 3 * CHUNK + 32])
def test_attention_to_a_prompt_is_its_formula(width, pieces, monkeypatch):
    monkeypatch.setattr(attention, "in_pieces", lambda device: pieces)
    torch.manual_seed(0)
    queries, (keys, values) = torch.randn(2, width, 6, 16), torch.randn(2, 2, 2, width, 16)
    seen = torch.ones(width, width, dtype=torch.bool).tril().expand(2, -1, -1)
    found = attend(queries, keys, values, Sight(None, 2, 3, causal=True), None)
    torch.testing.assert_close(found.double(), plain(queries, keys, values, seen), atol=1e-5, rtol=0)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_rows_are_as_many_as_threads_split_evenly(threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    for width in (48, 160, 1536):
        for count in range(1, 700, 3):
            rows = rows_for(count, width, torch.device("cpu"))
            parts = min(threads, -(-rows * width // 32768))
            assert rows >= max(count, 4) and rows % parts == 0 and rows < max(count, 4) + threads * (threads + 1)
    assert rows_for(1, 1536, torch.device("meta")) == 1


@pytest.mark.usefixtures("equal_bits")
@pytest.mark.parametrize("count", [1, 204, 255, 513, 1001])
def test_exponentials_are_the_same_whoever_else_is_there(count):
    x = torch.randn(3001, 160)
    rows = rows_for(count, 160, x.device)
    everybody = rows_for(3001, 160, x.device)
    alone, together = (torch.nn.functional.silu(filled(part, n)) for part, n in ((x[:count], rows), (x, everybody)))
    assert torch.equal(alone[:count], together[:count])


def test_slots_are_rounded_up_to_a_grain_and_past_one_chunk_to_chunks():
    assert [whole_chunks(n) for n in (1, 16, 17, 113, 128, 129, 256, 257)] == [16, 16, 32, 128, 128, 256, 256, 384]


@pytest.mark.parametrize("forked", [True, False])
def test_where_slots_are_attended_to_at_once_everything_holds_too(forked, monkeypatch):
    """What other devices run, here on a processor."""
    for module in (attention, decoder):
        monkeypatch.setattr(module, "in_pieces", lambda device: False)
    if forked:
        monkeypatch.setattr(shared, "_WORTH", 1)
        for module in (attention, cache, shared, slots):
            monkeypatch.setattr(module, "CHUNK", 2)
    lm = tiny_lm()
    with_lora(lm, "guide")
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8, 9]]
    for policy in (lm, replace(lm, adapter="guide"), lm * (replace(lm, adapter="guide") / lm) ** 0.5):
        check_policy(policy, prompts)
        check_policy(policy, [[1, 2], [3, 4]])  # rows that end at one slot have no mask
