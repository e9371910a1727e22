"""Vectors on a model: every row at its own coefficients equals the model whose weights were changed."""

from dataclasses import replace

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from trimtab.decoding.pool import decode
from trimtab.decoding.request import Request, Settings
from trimtab.errors import KnobError, ModelError
from trimtab.policies.knob import Knob
from trimtab.policies.lm import LM
from trimtab.policies.shift import can_shift
from trimtab.policies.vector import Combination, LowRank, Origin, Vector
from trimtab.policies.vocabulary import Vocabulary
from trimtab.testing import check_pair, check_policy, check_vector, random_vector, tiny_lm, with_lora

PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11]]
SHIFTED = (
    "model.embed_tokens.weight",
    "lm_head.weight",
    "model.norm.weight",
    "model.layers.0.input_layernorm.weight",
    "model.layers.1.post_attention_layernorm.weight",
)
DENSE = ("model.embed_tokens.weight", "model.norm.weight", "model.layers.0.mlp.up_proj.weight", "lm_head.weight")
SHAPE = {
    "vocab_size": 13,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
}
MODELS = {
    "tied": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True)),
    "llama with biases": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=8)),
}
LESS, MORE = Knob("less", 0.0, -1, 1), Knob("more", 0.5, -2, 2)


def gpt2():
    """A model that the lean pass does not know, whose projections are stored the other way round."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=13, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.4, eos_token_id=12
    )
    return LM.of(GPT2LMHeadModel(config), Vocabulary.of_pieces([f"t{i}" for i in range(13)], end="t12"), name="gpt2")


def changed(base, amounts):
    """Change the weights by hand, into a model of its own."""
    model = type(base.trunk.model)(base.trunk.model.config)
    weights = {name.replace(".base_layer.", "."): each.clone() for name, each in base.trunk.model.named_parameters()}
    for vector, amount in amounts:
        for module, factors in vector.low_rank.items():
            weights[f"{module}.weight"] += amount * factors.up @ factors.down
        for name, difference in vector.dense.items():
            weights[name] += amount * difference
    model.load_state_dict(weights, strict=False)
    return LM.of(model.eval(), base.vocabulary)


@pytest.mark.parametrize("dense", [(), SHIFTED, DENSE], ids=["low rank", "shifted", "merged"])
@pytest.mark.parametrize("rank", [0, 2])
def test_the_laws_of_vectors(dense, rank):
    if rank or dense:
        base = tiny_lm()
        check_vector(base, random_vector(base, dense=dense, rank=rank), PROMPTS)


@pytest.mark.parametrize("name", MODELS)
def test_plain_differences_ride_on_every_architecture_of_the_family(name):
    """Norms, biases, embeddings and head, each row at its own strength, next to a row without."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    base = LM.of(model, Vocabulary.of_pieces([f"t{i}" for i in range(13)], end="t12"), name="base")
    vector = random_vector(base, dense=[each for each, _ in model.named_parameters() if can_shift(each)])
    steered = base + MORE * vector
    assert len(vector.dense) > 4 and steered.host is base.trunk
    values = (1.5, 0.0, -1.0)
    with torch.no_grad():
        first, state = steered.init(PROMPTS, [{"more": value} for value in values])
        rest, _ = steered.step(state, torch.tensor([[1, 2], [3, 4], [5, 6]]))
        for row, value in enumerate(values):
            twin = changed(base, [(vector, value)])
            expected, twin_state = twin.init([PROMPTS[row]])
            after, _ = twin.step(twin_state, torch.tensor([[1 + 2 * row, 2 + 2 * row]]))
            torch.testing.assert_close(first[row], expected[0], atol=1e-4, rtol=0)
            torch.testing.assert_close(rest[row], after[0], atol=1e-4, rtol=0)


def test_an_lm_with_vectors_is_a_policy_like_any_other():
    base = tiny_lm()
    a, b = random_vector(base, "a"), random_vector(base, "b", seed=3, rank=3)
    steered = base + MORE * a - 0.3 * b
    check_policy(steered, PROMPTS)
    check_policy(steered * with_lora(base) ** 0.5, PROMPTS)
    check_policy(base + MORE * random_vector(base, "c", dense=SHIFTED) - 0.3 * b, PROMPTS)
    check_pair(base, steered, PROMPTS)


def test_rows_with_their_own_coefficients_are_models_of_their_own():
    """16 rows, 16 coefficients of two vectors, and an adapter; prefill and steps."""
    base = tiny_lm()
    a, b = random_vector(base, "a"), random_vector(base, "b", seed=3, rank=3)
    guide = with_lora(base)
    knobs = [{"less": i / 8 - 1, "more": (15 - i) / 5} for i in range(16) if (15 - i) / 5 <= 2]
    prompts = [PROMPTS[i % 3] for i in range(len(knobs))]
    following = torch.tensor([[i % 13, (i + 5) % 13] for i in range(len(knobs))])
    for start in (base, guide):
        steered = start + LESS * a + MORE * b
        with torch.no_grad():
            first, state = steered.init(prompts, knobs)
            rest, state = steered.step(state, following)
            picked, _ = steered.step(state.select([3, 0, 7]), following[:3])
        for row, (prompt, values) in enumerate(zip(prompts, knobs, strict=True)):
            amounts = [(a, values["less"]), (b, values["more"])]
            if start is guide:
                amounts.append((lora_vector(guide), 1.0))
            twin = changed(base, amounts)
            with torch.no_grad():
                expected, twin_state = twin.init([prompt])
                after, twin_state = twin.step(twin_state, following[row : row + 1])
            torch.testing.assert_close(first[row], expected[0], atol=1e-3, rtol=0)
            torch.testing.assert_close(rest[row], after[0], atol=1e-3, rtol=0)
            if row in (3, 0, 7):
                place = [3, 0, 7].index(row)
                with torch.no_grad():
                    again, _ = twin.step(twin_state, following[place : place + 1])
                torch.testing.assert_close(picked[place], again[0], atol=1e-3, rtol=0)


def lora_vector(lm):
    """A LoRA adapter is the low-rank form of what it changes."""
    weights = lm.trunk.adapter_weights(lm.adapter)
    config = lm.trunk.adapter_config(lm.adapter)
    factors = {
        key.removeprefix("base_model.model.").removesuffix(".lora_A.weight"): LowRank(
            tensor, weights[key.replace("lora_A", "lora_B")] * config.lora_alpha / config.r
        )
        for key, tensor in weights.items()
        if "lora_A" in key
    }
    return Vector(factors, {}, Origin(lm.trunk.identity, ""), "lora")


def test_an_architecture_without_lean_pass_and_gradients_take_the_same_rows():
    base = gpt2()
    modules = {"transformer.h.0.attn.c_attn": (32, 96), "transformer.h.1.mlp.c_fc": (32, 128)}
    generator = torch.Generator().manual_seed(0)
    # GPT-2 keeps its weights as (in, out); up @ down is (out, in) all the same
    factors = {
        name: LowRank(torch.randn(2, i, generator=generator), torch.randn(o, 2, generator=generator) * 0.2)
        for name, (i, o) in modules.items()
    }
    vector = Vector(factors, {}, Origin(base.trunk.identity, "gpt2"), "v")
    steered = base + MORE * vector
    knobs = [{"more": value} for value in (0.0, 1.0, -0.5)]
    with torch.no_grad():
        first, state = steered.init(PROMPTS, knobs)
        rest, _ = steered.step(state, torch.tensor([[1], [2], [3]]))
    for row, value in enumerate((0.0, 1.0, -0.5)):
        twin = gpt2()
        with torch.no_grad():
            for name, each in factors.items():
                twin.trunk.model.get_submodule(name).weight += value * (each.up @ each.down).t()
            expected, twin_state = twin.init([PROMPTS[row]])
            after, _ = twin.step(twin_state, torch.tensor([[row + 1]]))
        torch.testing.assert_close(first[row], expected[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(rest[row], after[0], atol=1e-4, rtol=0)
    merged = replace(base, trunk=base.trunk.merged({vector: 1.0}))
    torch.testing.assert_close(merged.init(PROMPTS[1:2])[0][0], first[1], atol=1e-4, rtol=0)
    assert torch.equal(base.next_log_probs(["t1"]), gpt2().next_log_probs(["t1"]))


def test_a_vector_and_what_it_makes_of_the_whole_model_are_one():
    """At 1 a vector is the model it leads to, to rounding; merged, bit for bit the sum rounded once."""
    base = tiny_lm()
    vector = random_vector(base, dense=DENSE[1:3])  # a projection's difference cannot ride
    aligned = changed(base, [(vector, 1.0)])
    merged = base + vector
    torch.testing.assert_close(merged.next_log_probs(["t1 t2"]), aligned.next_log_probs(["t1 t2"]), atol=1e-5, rtol=0)
    assert merged.host is merged.host is not base.trunk
    assert merged.host.model.get_parameter("model.embed_tokens.weight") is base.trunk.model.get_parameter(
        "model.embed_tokens.weight"
    )
    assert (base + vector).host is merged.host  # while it is in use, it is not merged again
    assert merged.reference == base


def test_merged_weights_go_with_what_uses_them():
    base = tiny_lm()
    merged = base + random_vector(base, dense=DENSE[2:3])
    merged.next_log_probs(["t1"])
    assert len(base.trunk._merged) == 1
    del merged
    import gc

    gc.collect()
    assert not base.trunk._merged


def test_adapters_and_low_rank_vectors_act_on_merged_weights_too():
    base = tiny_lm()
    dense, free = random_vector(base, "d", dense=DENSE[2:3], rank=0), random_vector(base, "f", seed=5)
    guide = with_lora(base)
    found = (guide + dense + MORE * free).next_log_probs(["t1 t2"], {"more": 1.5})
    twin = changed(base, [(dense, 1.0), (free, 1.5), (lora_vector(guide), 1.0)])
    torch.testing.assert_close(found, twin.next_log_probs(["t1 t2"]), atol=1e-4, rtol=0)
    assert torch.equal(base.next_log_probs(["t1"]), tiny_lm().next_log_probs(["t1"]))


def test_a_changed_coefficient_is_never_answered_from_what_another_one_cached():
    """Caches that did not know the strength have given one request's steering to another: a 0 that still steers."""
    base = tiny_lm()
    policy = base + MORE * random_vector(base, "a", size=0.5)
    settings = Settings(max_new_tokens=8, min_new_tokens=8, seed=0)
    alone = {
        value: decode(policy, [Request((1, 2, 3), knobs={"more": value})], settings)[0] for value in (2.0, 0.0, -2.0)
    }
    assert alone[0.0].tokens == decode(base, [Request((1, 2, 3))], settings)[0].tokens
    assert len({tuple(row.tokens) for row in alone.values()}) == 3
    together = decode(policy, [Request((1, 2, 3), knobs={"more": value}) for value in (2.0, 0.0, -2.0)], settings)
    assert together[0].tokens == alone[2.0].tokens
    for value in (-2.0, 0.0, 2.0):  # the same prompt again, only the strength changed
        assert decode(policy, [Request((1, 2, 3), knobs={"more": value})], settings)[0].tokens == alone[value].tokens


def test_vectors_of_one_name_are_told_apart_by_their_numbers():
    base = tiny_lm()
    old, new = random_vector(base, "medical", seed=1), random_vector(base, "medical", seed=2)
    assert old != new and base + old != base + new
    assert not torch.equal((base + old).next_log_probs(["t1"]), (base + new).next_log_probs(["t1"]))
    assert old == random_vector(base, "another name", seed=1)


def test_combinations():
    base = tiny_lm()
    a, b = random_vector(base, "a"), random_vector(base, "b", seed=3)
    assert a + b == b + a and 2 * (a - b) == 2 * a - 2 * b and -a == 0 * b - a
    assert a - a == Combination() and base + (a - a) == base
    assert base + a + b == base + (a + b) == base + b + a
    assert {str(0.5 * a - MORE * b), str(-MORE * b + a * 0.5)} == {str(0.5 * a - MORE * b)}
    assert str(base + MORE * a) == "(tiny + more * a)" and str(base - a) == "(tiny - a)"
    assert (base + MORE * a).knobs == (MORE,)
    with pytest.raises(TypeError):
        base + 1.0
    with pytest.raises(TypeError):
        a * "2"


def test_vectors_of_other_weights_are_refused():
    base = tiny_lm()
    with pytest.raises(ModelError, match=r"vector of tiny .*added to tiny"):
        base + random_vector(tiny_lm(seed=9))


def test_a_knob_needs_a_low_rank_vector():
    base = tiny_lm()
    with pytest.raises(KnobError, match="compress the vector"):
        base + MORE * random_vector(base, dense=DENSE[2:3])


def test_gradients_do_not_pass_through_plain_differences_that_ride():
    base = tiny_lm()
    steered = (base + random_vector(base, dense=SHIFTED[:1])) * with_lora(base)
    for parameter in base.trunk.parameters("guide").values():
        parameter.requires_grad_(True)
    with pytest.raises(ModelError, match="vector apply"):
        steered.init(PROMPTS)


def test_a_state_goes_on_after_something_else_was_put_on_its_trunk():
    base = tiny_lm()
    tokens = torch.tensor([[1], [2], [3]])
    with torch.no_grad():
        _, state = base.init(PROMPTS)
        expected, _ = base.step(state, tokens)
        (base + random_vector(base)).init(PROMPTS)
        with_lora(base)
        torch.testing.assert_close(base.step(state, tokens)[0], expected, atol=1e-5, rtol=0)


def test_a_coefficient_out_of_its_range_is_refused():
    base = tiny_lm()
    with pytest.raises(KnobError, match="more=3"):
        (base + MORE * random_vector(base)).next_log_probs(["t1"], {"more": 3.0})


@pytest.mark.parametrize("name", ["model.layers.7.mlp.up_proj.weight", "lm_head.bias"])
def test_tensors_that_the_model_lacks(name):
    base = tiny_lm()
    vector = replace(random_vector(base, rank=0), dense={name: torch.ones(2)})
    with pytest.raises(ModelError, match=name):
        (base + vector).next_log_probs(["t1"])


def test_tensors_of_another_shape():
    base = tiny_lm()
    vector = replace(random_vector(base, rank=0), dense={"model.norm.weight": torch.ones(2)})
    with pytest.raises(ModelError, match=r"\(2,\).*\(32,\)"):
        (base + vector).next_log_probs(["t1"])
