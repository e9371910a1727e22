"""Prompts that rows have in common: who belongs to whom, when sharing pays, and that nothing is copied."""

import pytest
import torch

from trimtab.policies import shared
from trimtab.policies.shared import Shared
from trimtab.testing import tiny_lm


def prompts_of(lanes, *, width=4, prompts=3):
    keys = torch.arange(prompts * width, dtype=torch.float32).view(prompts, 1, width, 1)
    return Shared([keys, -keys], None, torch.full((prompts,), width), torch.tensor(lanes))


@pytest.mark.parametrize("lanes", [[0, 0, 1, 2], [2, 0, 1, 0, 2, 2], [1, 1, 1]])
def test_what_is_gathered_by_prompt_and_scattered_again_is_the_same(lanes):
    prompts = prompts_of(lanes).select(torch.arange(len(lanes)))
    x = torch.randn(len(lanes), 2, 3, 5)
    by_prompt = prompts.gather(x)
    most = max(map(lanes.count, lanes))
    assert by_prompt.shape == (len(set(lanes)), 2, 3 * most, 5)
    for place, lane in enumerate(sorted(set(lanes))):
        mine = x[torch.tensor(lanes) == lane].transpose(0, 1).reshape(2, -1, 5)
        assert torch.equal(by_prompt[place, :, : mine.shape[1]], mine)
    assert torch.equal(prompts.scatter(by_prompt), x)


def test_prompts_without_rows_are_dropped():
    picked = prompts_of([0, 1, 1, 2]).select(torch.tensor([3, 0, 3]))
    assert picked.lane.tolist() == [1, 0, 1] and picked.lengths.tolist() == [4, 4]
    assert picked.tensors[0].flatten().tolist() == [0, 1, 2, 3, 8, 9, 10, 11]


def test_joined_prompts_are_padded_on_the_left():
    both = prompts_of([0, 0], width=2, prompts=1).join(prompts_of([0, 0], width=3, prompts=1))
    assert both.lane.tolist() == [0, 0, 1, 1] and both.lengths.tolist() == [2, 3]
    assert both.seen().tolist() == [[False, True, True]] * 2 + [[True] * 3] * 2
    assert both.tensors[0].flatten().tolist() == [0, 0, 1, 0, 1, 2]


def test_sharing_pays_where_many_slots_are_saved_and_prompts_have_about_as_many_rows_each():
    long = {"width": 1000, "prompts": 2}
    assert not prompts_of([0, 0, 1, 1], **long).pays  # saves 2 x 1000 of the 2048 that are asked
    assert prompts_of([0, 0, 0, 1, 1], **long).pays  # saves 3 x 1000; 2 prompts of up to 3 rows hold 5
    assert prompts_of([0, 0, 0, 1], width=2000, prompts=2).pays  # 2 prompts of up to 3 rows: 6 places for 4 rows
    assert not prompts_of([0] * 9 + [1, 2, 3], width=1000, prompts=4).pays  # 36 places for 12 rows


def test_a_forked_prompt_is_held_once_until_few_rows_are_left(monkeypatch):
    monkeypatch.setattr(shared, "_WORTH", 60)
    lm = tiny_lm()
    with torch.no_grad():
        _, state = lm.init([[1] * 20])
        before = state.parts[0].state.stacks[0].rows
        forked = state.fork(5)
        rows = forked.parts[0].state.stacks[0].rows
        assert rows.width == 0 and rows.extent == 20
        assert rows.shared.tensors[0].data_ptr() == before.layers[0][0].data_ptr()
        tokens = torch.tensor([[2], [3], [4], [5], [6]])
        found, stepped = lm.step(forked, tokens)
        one, _ = lm.step(state, tokens[2:3])
        assert torch.allclose(found[2], one[0], atol=1e-4)
        few = stepped.select([0, 4])
        assert few.parts[0].state.stacks[0].rows.shared is None
        assert torch.allclose(
            lm.step(few, tokens[:2])[0], lm.step(stepped, tokens[[0, 2, 2, 2, 1]])[0][[0, 4]], atol=1e-4
        )


def test_short_prompts_are_copied():
    lm = tiny_lm()
    with torch.no_grad():
        _, state = lm.init([[1, 2, 3]])
    assert state.fork(4).parts[0].state.stacks[0].rows.shared is None
