"""Prompts that rows have in common: who belongs to whom, when sharing pays, and that nothing is copied."""

from weakref import ref

import pytest
import torch

from trimtab.decoding.pool import Pool
from trimtab.decoding.request import Bounds, Request, Settings
from trimtab.policies import attention, cache, shared, slots
from trimtab.policies.advance import init, step
from trimtab.policies.shared import Shared, pays
from trimtab.testing import tiny_lm


class Whole:
    """What prompts were forked from."""


@pytest.fixture
def chunks_of_four(monkeypatch):
    for module in (attention, cache, shared, slots):
        monkeypatch.setattr(module, "CHUNK", 4)


def prompts_of(lanes, *, chunks=1, prompts=3):
    keys = torch.arange(prompts * 4 * chunks, dtype=torch.float32).view(prompts, 1, 4 * chunks, 1)
    whole = ref(Whole())
    origins = tuple((whole, lane) for lane in range(prompts))
    return Shared([keys, -keys], torch.full((prompts,), chunks), origins, torch.tensor(lanes))


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
    assert picked.lane.tolist() == [1, 0, 1] and picked.chunks.tolist() == [1, 1]
    assert picked.tensors[0].flatten().tolist() == [0, 1, 2, 3, 8, 9, 10, 11]


@pytest.mark.usefixtures("chunks_of_four")
def test_a_prompt_without_a_whole_chunk_is_no_longer_shared_when_it_is_alone(monkeypatch):
    """Joined to rows of its own, which share nothing, it would be attended to in no chunks at all."""
    monkeypatch.setattr(shared, "_WORTH", 1)
    lm = tiny_lm()
    with torch.no_grad():
        _, short = lm.init([[1, 2, 3]])
        _, long = lm.init([[1, 2, 3, 4, 5]])
        both = short.join(long.fork(3))
        assert both.parts[0].state.stacks[0].rows.shared.width == 4
        again = both.select([0, 0, 0])
        assert again.parts[0].state.stacks[0].rows.shared is None
        side_by_side = lm.init([[1, 2, 3], [1, 2, 3, 4, 5]])[1]
        with_holes = lm.step(short, torch.tensor([[4, 5]]))[1].rollback([3])
        for state in (side_by_side, with_holes):
            assert state.select([0, 0, 0]).parts[0].state.stacks[0].rows.shared is None
        joined = short.join(again)
        assert torch.allclose(
            lm.step(joined, torch.tensor([[7]] * 4))[0], lm.step(short, torch.tensor([[7]]))[0], atol=1e-4
        )


@pytest.mark.usefixtures("chunks_of_four")
def test_joined_prompts_have_chunks_of_their_own(monkeypatch):
    monkeypatch.setattr(shared, "_WORTH", 1)
    both = prompts_of([0, 0], chunks=1, prompts=1).join(prompts_of([0, 0], chunks=2, prompts=1))
    assert (
        both.lane.tolist() == [0, 0, 1, 1] and both.chunks.tolist() == [1, 2] and both.before.tolist() == [4, 4, 8, 8]
    )
    assert both.seen.tolist() == [[True] * 4 + [False] * 4] * 2 + [[True] * 8] * 2
    assert both.tensors[0].flatten().tolist() == [0, 1, 2, 3, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7]


def test_the_same_prompt_is_joined_to_itself(monkeypatch):
    monkeypatch.setattr(shared, "_WORTH", 1)
    first = prompts_of([0, 0, 1, 1], prompts=2)
    both = first.join(first.select(torch.tensor([2, 0, 2])))
    assert both.lane.tolist() == [0, 0, 1, 1, 1, 0, 1] and both.tensors is first.tensors
    other = first.join(prompts_of([0, 0], prompts=1))
    assert other.lane.tolist() == [0, 0, 1, 1, 2, 2] and len(other.origins) == 3
    assert prompts_of([0, 0, 0, 0], prompts=1).join(prompts_of([0, 1, 2])) is None  # 4 prompts x 4 > 2 x 7 rows
    monkeypatch.setattr(shared, "_WORTH", 100)
    assert first.join(first) is None


def test_sharing_pays_where_many_slots_are_saved_and_prompts_have_about_as_many_rows_each():
    assert not pays(torch.tensor([0, 0, 1, 1]), 1000)  # saves 2 x 1000 of the 2048 that are asked
    assert pays(torch.tensor([0, 0, 0, 1, 1]), 1000)  # saves 3 x 1000; 2 prompts of up to 3 rows: 6 places for 5 rows
    assert pays(torch.tensor([3, 3, 3, 1]), 2000)  # 6 places for 4 rows, whatever the prompts' numbers
    assert not pays(torch.tensor([0] * 9 + [1, 2, 3]), 1000)  # 36 places for 12 rows


@pytest.mark.usefixtures("chunks_of_four")
@pytest.mark.parametrize(("rows", "n"), [(8, 24), (32, 96), (3, 9)])
def test_a_prompt_with_more_answers_than_rows_is_held_once(rows, n, monkeypatch):
    monkeypatch.setattr(shared, "_WORTH", 16)
    pool, held = Pool(tiny_lm(), bounds=Bounds(rows=rows)), []
    pool.submit(Request(tuple([1, 2] * 8), n=n), Settings(max_new_tokens=12, seed=0))
    while pool.busy:
        pool.step()
        if pool._running is not None and len(pool._running) > 2:
            (part,) = pool._running.fed.state.parts
            held.append(part.state.stacks[0].rows.shared)
    assert held and all(each is not None and len(each.chunks) == 1 for each in held)


@pytest.mark.usefixtures("chunks_of_four")
def test_nan_in_a_shared_prompt_stays_in_its_rows(monkeypatch):
    monkeypatch.setattr(shared, "_WORTH", 1)
    lm = tiny_lm()
    with torch.no_grad():
        lm.trunk.model.get_input_embeddings().weight[5] = torch.nan
        states = [init([lm], [prompt], check=False)[1].fork(3) for prompt in ([1, 5, 2, 3], [4, 2, 6, 1])]
        state = states[0].join(states[1])
        assert state.parts[0].state.stacks[0].rows.shared is not None
        _, state = step([lm], state, torch.tensor([[1], [2], [3], [1], [5], [3]]), check=False)
        state = state.rollback([5, 5, 5, 5, 4, 5])  # what broke the fifth row is forgotten
        (log_probs,), _ = step([lm], state, torch.tensor([[7]] * 6), check=False)
        assert log_probs.isnan().all(-1).flatten().tolist() == [True, True, True, False, False, False]
        again = torch.stack([lm.init([[4, 2, 6, 1, *more, 7]])[0][0] for more in ([1], [], [3])])
    assert torch.allclose(log_probs[3:, 0], again, atol=1e-4)


@pytest.mark.usefixtures("chunks_of_four")
def test_a_forked_prompt_is_held_once_until_few_rows_are_left(monkeypatch):
    monkeypatch.setattr(shared, "_WORTH", 60)
    lm = tiny_lm()
    with torch.no_grad():
        _, state = lm.init([[1] * 22])
        before = state.parts[0].state.stacks[0].rows
        forked = state.fork(5)
        rows = forked.parts[0].state.stacks[0].rows
        assert rows.width == 2 and rows.shared.width == 20
        assert rows.shared.tensors[0].data_ptr() == before.slots.tensors[0].data_ptr()
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
