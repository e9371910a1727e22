"""A step in fixed shapes gives what the plain step gives, here run without a graph; graphs themselves need a GPU."""

from dataclasses import replace

import pytest
import torch

from trimtab.decoding.pool import decode
from trimtab.decoding.request import Request, Settings
from trimtab.policies import attention, cache, shared, slots
from trimtab.policies.family import knows
from trimtab.policies.graph import FixedStep, Graphs
from trimtab.policies.lm import LM
from trimtab.testing import tiny_lm, with_lora

PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9]]


def adapted():
    lm = tiny_lm()
    with_lora(lm, "a")
    return lm


@pytest.mark.parametrize("forked", [True, False])
@pytest.mark.parametrize("ragged", [True, False])
def test_fixed_shapes_give_what_growing_ones_give(ragged, forked, monkeypatch):
    monkeypatch.setattr(shared, "_WORTH", 1)
    for module in (attention, cache, shared, slots):
        monkeypatch.setattr(module, "CHUNK", 4)
    lm = adapted()
    leaves = [lm, replace(lm, adapter="a")]
    with torch.no_grad():
        _, state = lm.trunk.init(leaves, PROMPTS if ragged else [[i, 2, 3, 4, 5] for i in range(3)])
        if forked:
            state = state.select(torch.tensor([0, 0, 2, 2]))
            assert state.stacks[0].rows.shared is not None
            state = state.select(torch.tensor([0, 2, 3]))
        for token in range(6):
            tokens = torch.tensor([[token], [token + 1], [token + 2]])
            grown = state.stacks[0].rows.grown(1)
            fixed = FixedStep(lm.trunk._decoder, grown, state.stacks[0].scales)
            found = fixed.run(grown, tokens.repeat_interleave(2, 0))
            seen = grown.seen(grown.width)[:, None, :, None]
            keys = [layer[0] * seen for layer in grown.layers(grown.width)]
            expected, state = lm.trunk.step(state, tokens)
            torch.testing.assert_close(found.view(3, 2, 1, -1).transpose(0, 1), expected, atol=1e-4, rtol=0)
            for mine, theirs in zip(keys, state.stacks[0].rows.layers(grown.width), strict=True):
                torch.testing.assert_close(mine, theirs[0] * seen, atol=1e-5, rtol=0)


def test_processors_do_not_capture():
    lm = tiny_lm()
    with torch.no_grad():
        _, state = lm.trunk.init([lm], PROMPTS)
        lm.trunk.step(state, torch.tensor([[1], [2], [3]]))
        grown = state.stacks[0].rows.grown(1)
        assert Graphs().run(lm.trunk._decoder, grown, state.stacks[0].scales, torch.tensor([[1], [2], [3]])) is None


@pytest.mark.gpu
def test_captured_steps_give_what_plain_ones_give():
    lm = adapted()
    lm.trunk.model.to("cuda")
    lm = LM.of(lm.trunk.model, lm.vocabulary)
    requests = [Request(tuple(prompt)) for prompt in PROMPTS]
    settings = Settings(max_new_tokens=40, min_new_tokens=40, seed=0)
    captured = decode(lm, requests, settings)
    assert lm.trunk._graphs._fixed is not None
    lm.trunk._graphs._broken = True
    plain = decode(lm, requests, settings)
    for a, b in zip(captured, plain, strict=True):
        assert a.log_probs == pytest.approx(b.log_probs, abs=1e-3)
    assert knows(lm.trunk.model)
