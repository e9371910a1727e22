"""The lean pass gives what transformers gives: for every architecture of the family, padded, with adapters."""

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from trimtab.errors import StateError
from trimtab.policies.advance import init, step
from trimtab.policies.decoder import Decoder
from trimtab.policies.family import knows
from trimtab.policies.lm import LM
from trimtab.policies.vocabulary import Vocabulary
from trimtab.testing import check_pair, check_policy, tiny_lm, with_lora

SHAPE = {
    "vocab_size": 13,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "initializer_range": 0.3,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "llama with biases, head size 16": lambda: LlamaForCausalLM(
        LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True, head_dim=16)
    ),
    "llama3 rotations": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, rope_parameters=LLAMA3)),
    "one head each": lambda: LlamaForCausalLM(LlamaConfig(**{**SHAPE, "num_key_value_heads": 4})),
    "tied": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=None)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=8)),
}
PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11]]


def lm(model):
    """Wrap a model whose biases and norms are random too, so that leaving one out is seen."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return LM.of(model, Vocabulary.of_pieces([f"t{i}" for i in range(13)]))


def adapted(lm, name, *, seed, targets="all-linear", rank=2, **settings):
    return with_lora(lm, name, seed=seed, config=LoraConfig(r=rank, lora_alpha=3, target_modules=targets, **settings))


def reference(model, stream):
    """Logits after every token of one stream, from transformers itself, without cache or padding."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([stream])).logits[0]


@pytest.mark.parametrize("name", MODELS)
def test_it_is_transformers(name):
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    policy = lm(model)
    assert knows(model)
    following = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    with torch.no_grad():
        first, state = init([policy], PROMPTS)
        rest, _ = step([policy], state, following)
    for row, prompt in enumerate(PROMPTS):
        expected = reference(model, [*prompt, *following[row].tolist()]).log_softmax(-1)
        torch.testing.assert_close(first[0][row], expected[len(prompt) - 1], atol=1e-4, rtol=0)
        torch.testing.assert_close(rest[0][row], expected[len(prompt) :], atol=1e-4, rtol=0)


def test_rows_of_several_adapters_are_one_forward(monkeypatch):
    """base, two adapters of different rank and targets and a view: one pass, equal to transformers' one by one."""
    torch.manual_seed(0)
    base = lm(MODELS["llama"]().eval())
    trunk, model = base.trunk, base.trunk.model
    a = adapted(base, "a", seed=1)
    b = adapted(base, "b", seed=2, targets=["q_proj", "v_proj", "up_proj"], rank=3)
    seen = replace(a, view=replace(a.view, prefix=(9, 8)))
    leaves = [base, a, b, seen]
    calls = []
    run = Decoder._run
    monkeypatch.setattr(Decoder, "_run", lambda self, *args: calls.append(args) or run(self, *args))
    following = torch.tensor([[1, 2], [3, 4], [5, 6]])
    with torch.no_grad():
        first, state = init(leaves, PROMPTS)
        rest, state = step(leaves, state, following)
        assert len(calls) == 2
        for place, leaf in enumerate(leaves):
            trunk._activate(tuple(leaf.loads))
            for row, prompt in enumerate(PROMPTS):
                stream = [*leaf.view.prefix, *prompt, *following[row].tolist()]
                expected = reference(model, stream).log_softmax(-1)[-3:]
                torch.testing.assert_close(first[place][row], expected[0], atol=1e-4, rtol=0)
                torch.testing.assert_close(rest[place][row], expected[1:], atol=1e-4, rtol=0)


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"use_rslora": True}, {"lora_bias": True}])
def test_adapters_of_other_kinds_give_the_same_either_way(settings):
    torch.manual_seed(0)
    base = lm(MODELS["llama with biases, head size 16"]().eval())
    guide = adapted(base, "guide", seed=1, **settings)
    with torch.no_grad():
        (first,), _ = init([guide], [[1, 2, 3]])
        base.trunk._activate(("guide",))
        expected = reference(base.trunk.model, [1, 2, 3]).log_softmax(-1)[-1]
    torch.testing.assert_close(first[0], expected, atol=1e-4, rtol=0)
    check_pair(base, guide, PROMPTS)


def test_an_adapter_that_is_trained_is_read_again():
    base = tiny_lm()
    guide = adapted(base, "guide", seed=1)
    with torch.no_grad():
        before = guide.init(PROMPTS)[0]
        for parameter in base.trunk.parameters("guide").values():
            parameter.mul_(2)
        after = guide.init(PROMPTS)[0]
        base.trunk._activate(("guide",))
        expected = reference(base.trunk.model, PROMPTS[0]).log_softmax(-1)[-1]
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after[0], expected, atol=1e-4, rtol=0)


def test_weights_that_are_changed_are_read_again():
    base = tiny_lm()
    with torch.no_grad():
        base.init(PROMPTS)
        base.trunk.model.model.layers[1].mlp.up_proj.weight.mul_(2)
        after = base.init(PROMPTS)[0]
    torch.testing.assert_close(after[0], reference(base.trunk.model, PROMPTS[0]).log_softmax(-1)[-1], atol=1e-4, rtol=0)


def test_positions_past_the_first_table():
    base = lm(MODELS["llama"]().eval())
    stream = torch.randint(0, 13, (1100,), generator=torch.Generator().manual_seed(0)).tolist()
    with torch.no_grad():
        found = base.init([stream])[0]
    torch.testing.assert_close(found[0], reference(base.trunk.model, stream).log_softmax(-1)[-1], atol=1e-4, rtol=0)


def test_a_state_made_without_gradients_is_not_stepped_with_them():
    base = tiny_lm()
    guide = adapted(base, "guide", seed=1)
    with torch.no_grad():
        _, state = guide.init(PROMPTS)
    for parameter in base.trunk.parameters("guide").values():
        parameter.requires_grad_(True)
    with pytest.raises(StateError, match="made without gradients"):
        guide.step(state, torch.tensor([[1], [2], [3]]))


def test_gradients_reach_the_adapter():
    base = tiny_lm()
    guide = adapted(base, "guide", seed=1)
    parameters = base.trunk.parameters("guide")
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    _, state = guide.init(PROMPTS)
    guide.step(state, torch.tensor([[1], [2], [3]]))[0].sum().backward()
    assert all(parameter.grad is not None for parameter in parameters.values())


def test_other_architectures_go_through_transformers():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=13, n_positions=64, n_embd=16, n_layer=1, n_head=2))
    assert not knows(model)
    for name, changed in (("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}),):
        assert not knows(LlamaForCausalLM(LlamaConfig(**SHAPE, **changed))), name
    assert not knows(MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=4)))


def test_every_law_holds_in_bfloat16_to_its_rounding():
    base = tiny_lm()
    base.trunk.model.to(torch.bfloat16)
    check_policy(LM.of(base.trunk.model, base.vocabulary), PROMPTS, tolerance=0.3)
