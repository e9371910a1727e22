import pytest
import torch

from trimtab.benchmarks.setup import RANK, Setup, _first_layers
from trimtab.errors import ConfigError, ModelError

IDS = [[3, 4, 5], [6, 7, 8]]


def said(policy):
    with torch.no_grad():
        return policy.init(IDS)[0]


def test_the_guide_steers_and_its_merged_copy_says_the_same(bench):
    assert float((said(bench.lora) - said(bench.base)).abs().max()) > 1e-3
    torch.testing.assert_close(said(bench.tuned), said(bench.lora), atol=1e-4, rtol=0)


def test_two_guides_differ_and_have_the_asked_rank(bench):
    assert float((said(bench.lora) - said(bench.second_lora)).abs().max()) > 1e-3
    for guide in (bench.lora, bench.second_lora):
        weights = bench.base.trunk.adapter_weights(guide.adapter)
        assert len(weights) == 2 * 2 * 7  # two factors, two layers, seven linear layers in each
        assert all(w.shape[0] == RANK for name, w in weights.items() if "lora_A" in name)


def test_copies_have_their_own_weights(bench):
    torch.testing.assert_close(said(bench.untuned), said(bench.base), atol=1e-5, rtol=0)
    models = [bench.base.trunk.model, bench.plain, bench.plain_untuned, bench.untuned.trunk.model]
    assert len({model.get_input_embeddings().weight.data_ptr() for model in models}) == len(models)


def test_models_of_the_baselines_are_not_frozen(bench):
    assert all(p.requires_grad for m in (bench.plain, bench.plain_tuned, bench.plain_guide) for p in m.parameters())


def test_the_small_guide_is_the_first_layers_with_the_head(bench):
    assert bench.guide_layers == 1 and bench.guide.trunk.model.config.num_hidden_layers == 1
    ids = torch.tensor(IDS)
    with torch.no_grad():
        whole = _first_layers(bench.plain, 2)(ids).logits
        torch.testing.assert_close(whole, bench.plain(ids).logits)
        states = bench.plain(ids, output_hidden_states=True).hidden_states[1]
        expected = bench.plain.lm_head(bench.plain.model.norm(states))
        torch.testing.assert_close(bench.plain_guide(ids).logits, expected)


def test_prompts_are_equally_long_and_differ(bench):
    prompts = bench.prompts(5, 7)
    assert [len(prompt) for prompt in prompts] == [7] * 5
    assert len(bench.prompts(1, 300)[0]) == 300
    assert len(bench.long_prompt) == 64 - bench.tokens  # the context of the tiny model is 64


def test_every_decode_has_its_length(bench):
    rows = bench.decode(bench.base, bench.prompts(2), 3, n=2)
    assert [len(row.tokens) for row in rows] == [3] * 4


@pytest.mark.parametrize("wrong", [{"tokens": 1}, {"tokens": -3}, {"repeats": 0}])
def test_settings_that_measure_nothing_are_refused(wrong):
    with pytest.raises(ConfigError, match=str(next(iter(wrong.values())))):
        Setup(**wrong)


def test_more_tokens_than_the_context_are_refused(tiny_lm_folder):
    with pytest.raises(ConfigError, match="at most 56"):
        _ = Setup(str(tiny_lm_folder), tokens=57).base


def test_an_unknown_model_is_refused():
    with pytest.raises(ModelError, match="no-such-model"):
        _ = Setup("no-such-model").base
