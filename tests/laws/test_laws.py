"""Every law of the algebra and of decoding, on toy tables and on real transformers with random weights."""

import pytest
import torch
from peft import LoraConfig
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from trimtab.decoding.pool import decode
from trimtab.decoding.request import Bounds, Request, Settings
from trimtab.policies.knob import Knob
from trimtab.policies.lm import LM
from trimtab.policies.toy import Table
from trimtab.policies.view import View
from trimtab.policies.vocabulary import Vocabulary
from trimtab.testing import check_pair, check_policy, enumerated_kl, tiny_lm, with_lora

PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9], [2, 2]]


def llama():
    return tiny_lm()


def uncached():
    return tiny_lm(cached=False)


def viewed():
    return LM(tiny_lm().trunk, view=View(prefix=(3, 1)), label="viewed")


def adapted():
    return with_lora(tiny_lm(), config=LoraConfig(r=2, target_modules="all-linear", lora_dropout=0.5))


def product_on_one_trunk():
    base = tiny_lm()
    return base * with_lora(base) ** 0.7


def views_on_one_trunk():
    base = tiny_lm()
    return base * (LM(base.trunk, view=View(prefix=(3, 1)), label="persona") / base) ** Knob("w", 1.5)


def product_of_trunks():
    return tiny_lm() * tiny_lm(seed=1, name="guide", columns=16) ** -0.5


def of(model, size=13):
    words = [f"t{i}" for i in range(size)]
    return LM.of(model, Vocabulary.of_pieces(words, end=words[-1]))


def gpt2():
    torch.manual_seed(0)
    return of(
        GPT2LMHeadModel(
            GPT2Config(vocab_size=13, n_positions=64, n_embd=16, n_layer=2, n_head=2, initializer_range=0.4)
        )
    )


def sliding():
    """A window of four tokens, shorter than some prompts."""
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=13,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        sliding_window=4,
        initializer_range=0.4,
    )
    return of(MistralForCausalLM(config))


def bloom():
    torch.manual_seed(0)
    return of(BloomForCausalLM(BloomConfig(vocab_size=13, hidden_size=16, n_layer=2, n_head=2, initializer_range=0.4)))


def mamba():
    torch.manual_seed(0)
    return of(
        MambaForCausalLM(
            MambaConfig(vocab_size=13, hidden_size=16, state_size=4, num_hidden_layers=2, initializer_range=0.4)
        )
    )


def table():
    return Table.random(13, seed=0)


def table_product():
    return Table.random(13, seed=0, end="t12") * Table.random(13, seed=1) ** Knob("w", -0.4)


POLICIES = [
    table,
    table_product,
    llama,
    uncached,
    viewed,
    adapted,
    product_on_one_trunk,
    views_on_one_trunk,
    product_of_trunks,
    gpt2,
    sliding,
    bloom,
    mamba,
]


@pytest.mark.parametrize("make", POLICIES)
def test_policy_laws(make):
    check_policy(make(), PROMPTS)


def test_pair_laws_on_tables():
    check_pair(Table.random(13, seed=0), Table.random(13, seed=1), PROMPTS)


def test_pair_laws_on_one_trunk():
    base = tiny_lm()
    check_pair(base, with_lora(base), PROMPTS)


def test_pair_laws_on_two_trunks():
    check_pair(tiny_lm(), tiny_lm(seed=1), PROMPTS)


def test_a_cached_lm_equals_its_uncached_twin():
    cached, uncached_twin = tiny_lm(), tiny_lm(cached=False)
    assert cached.trunk.keeps_cache and not uncached_twin.trunk.keeps_cache
    tokens = torch.tensor([[1, 2], [3, 4], [5, 6], [7, 8]])
    (_, a), (_, b) = cached.init(PROMPTS), uncached_twin.init(PROMPTS)
    torch.testing.assert_close(cached.step(a, tokens)[0], uncached_twin.step(b, tokens)[0], atol=1e-4, rtol=0)


def test_recurrent_models_are_run_without_cache_and_attention_models_with():
    assert not mamba().trunk.keeps_cache
    assert gpt2().trunk.keeps_cache and bloom().trunk.keeps_cache


def test_the_kl_meter_agrees_with_enumeration():
    # E over answers of the sum of per-step KLs = KL of the answer distributions (chain rule); the expectation is
    # estimated from 4,000 answers, whose standard error here is below 0.02 nats.
    base, guide = Table.random(4, seed=0), Table.random(4, seed=1)
    policy = base * guide
    rows = decode(policy, [Request((0,), n=4000)], Settings(max_new_tokens=3, seed=0), bounds=Bounds(rows=4000))
    measured = torch.tensor([row.kl for row in rows]).sum(1)
    assert abs(measured.mean().item() - enumerated_kl(policy, base, [0], 3)) < 4 * measured.std().item() / 4000**0.5


def test_a_broken_policy_fails_the_laws():
    """The laws can fail: a cache whose positions are off by one is caught."""
    broken = gpt2()
    forward = broken.trunk.model.forward

    def shifted(*args, **kwargs):
        if kwargs.get("position_ids") is not None:
            kwargs["position_ids"] = kwargs["position_ids"] + (kwargs["position_ids"] > 2)
        return forward(*args, **kwargs)

    broken.trunk.model.forward = shifted
    with pytest.raises(AssertionError, match="differ by"):
        check_policy(broken, PROMPTS)
