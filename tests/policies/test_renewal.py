"""The lean pass keeps copies of weights: whatever changes them must be seen, or the model must not go through it."""

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig
from transformers import LlamaForCausalLM

from trimtab.errors import ModelError
from trimtab.policies.family import knows
from trimtab.policies.lm import LM
from trimtab.policies.lowrank import Factors
from trimtab.testing import tiny_lm, with_lora

PROMPT = [1, 2, 3]


def adapted(rank=2, names=("a",)):
    lm = tiny_lm()
    for seed, name in enumerate(names):
        with_lora(lm, name, seed=seed, config=LoraConfig(r=rank, target_modules="all-linear"))
    return lm


def found(policy):
    with torch.no_grad():
        return policy.init([PROMPT])[0][0]


def expected(lm, adapter=None):
    """What transformers and peft give."""
    lm.trunk._activate(() if adapter is None else (adapter,))
    with torch.no_grad():
        return lm.trunk.model(input_ids=torch.tensor([PROMPT])).logits[0, -1].log_softmax(-1)


def close(a, b):
    return torch.allclose(a, b, atol=1e-4)


def train_in_place(lm, **settings):
    parameters = list(lm.trunk.parameters("a").values())
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, lr=0.3, **settings)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for parameter in parameters:
        parameter.requires_grad_(False)


@pytest.mark.parametrize("settings", [{}, {"fused": True}, {"foreach": True}], ids=str)
def test_every_optimiser_is_seen(settings):
    """A fused one changes tensors without torch counting it."""
    lm = adapted()
    guide = replace(lm, adapter="a")
    before = found(guide)
    train_in_place(lm, **settings)
    assert not close(found(guide), before) and close(found(guide), expected(lm, "a"))
    train_in_place(lm, **settings)
    assert close(found(guide), expected(lm, "a"))


def test_scales_replaced_weights_and_moves_are_seen():
    lm = adapted()
    guide = replace(lm, adapter="a")
    found(guide)
    for module in lm.trunk.model.modules():
        if hasattr(module, "scale_layer"):
            module.scale_layer(3.0)
    assert close(found(guide), expected(lm, "a"))
    projection = lm.trunk.model.model.layers[0].mlp.down_proj.get_base_layer()
    projection.weight = torch.nn.Parameter(projection.weight.detach() * 2, requires_grad=False)
    assert close(found(lm), expected(lm))


def test_an_interruption_while_adapters_are_read_leaves_everything_as_it_was(monkeypatch):
    lm = adapted(names=("a", "b"))
    first, second = (replace(lm, adapter=name) for name in ("a", "b"))
    before, calls, of = found(first), [], Factors.of

    def interrupted(*args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return of(*args, **kwargs)

    monkeypatch.setattr(Factors, "of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        found(second)
    monkeypatch.undo()
    assert torch.equal(found(first), before) and close(found(second), expected(lm, "b"))


def test_more_ranks_than_fit_take_turns():
    lm = adapted(rank=300, names=("a", "b"))
    for name in ("a", "b", "a", None, "b"):
        assert close(found(replace(lm, adapter=name)), expected(lm, name))
    base = found(lm)
    assert torch.equal(base, found(tiny_lm()))  # bit for bit, whatever was read beside it


def test_an_adapter_that_is_not_there_is_not_the_base():
    with pytest.raises(ModelError, match="'typo'"):
        found(replace(adapted(), adapter="typo"))


def test_what_hangs_on_a_model_is_run():
    """Adapters that were active before, hooks, replaced forwards, float64: all of this runs through transformers."""
    hooked, wrapped, doubled, peft = (tiny_lm().trunk.model for _ in range(4))
    hooked.model.layers[0].register_forward_hook(lambda module, given, out: out)
    wrapped.model.layers[1].mlp.forward = wrapped.model.layers[1].mlp.forward
    doubled.to(torch.float64)
    peft.add_adapter(LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    assert not any(map(knows, (hooked, wrapped, doubled, peft)))
    assert knows(tiny_lm().trunk.model) and isinstance(hooked, LlamaForCausalLM)
    vocabulary = tiny_lm().vocabulary
    with torch.no_grad():
        wanted = peft(input_ids=torch.tensor([PROMPT])).logits[0, -1].log_softmax(-1)
    assert close(found(LM.of(peft, vocabulary)), wanted)


def test_models_and_adapters_may_be_made_in_inference_mode():
    with torch.inference_mode():
        lm = adapted()
        assert torch.isfinite(found(replace(lm, adapter="a"))).all()
