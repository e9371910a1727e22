"""Caches as values: random operations against plain lists, and real models whose old states are stepped again."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.errors import StateError
from trimtab.policies import attention, cache, shared, slots
from trimtab.policies.advance import step
from trimtab.policies.cache import Rows
from trimtab.policies.slots import Slots
from trimtab.testing import tiny_lm

HEADS, SIZE = 2, 3


class Numbers:
    """Tokens as numbers that never come twice."""

    def __init__(self):
        self.last = 0

    def take(self, count):
        self.last += count
        return list(range(self.last - count + 1, self.last + 1))


def as_keys(numbers):
    return numbers[:, None, :, None].expand(-1, HEADS, -1, SIZE).clone()


def rows_of(lists, *, filler=-7.0, lanes=1, room=2):
    """Build rows whose keys are the numbers, whose values are the negated numbers; past the rows' ends is junk."""
    lengths = torch.tensor([len(row) for row in lists])
    width = int(lengths.max())
    filled = [row + [filler] * (width - len(row)) for row in lists]
    keys = as_keys(torch.tensor(filled, dtype=torch.float32))
    return Rows(lengths, lengths, None, Slots.holding([keys, -keys], lengths, lanes=lanes, room=room))


def extended(rows, block):
    """Append a block of numbers, as the forward pass does."""
    block = torch.tensor(block, dtype=torch.float32)
    grown = rows.grown(block.shape[1])
    ((keys, values),) = grown.layers(grown.width)
    for row, (end, numbers) in enumerate(zip(grown.ends.tolist(), as_keys(block), strict=True)):
        keys[row, :, end - block.shape[1] : end] = numbers
        values[row, :, end - block.shape[1] : end] = -numbers
    return grown


def read(rows):
    """Return the numbers that each row holds, in order."""
    seen = rows.seen(rows.width)
    ((keys, values),) = rows.layers(rows.width)
    assert keys.shape == (len(rows), HEADS, rows.width, SIZE)
    if rows.shared is not None:
        seen = torch.cat([rows.shared.seen, seen], 1)
        common = list(rows.shared.copies())
        keys, values = torch.cat([common[0], keys], 2), torch.cat([common[1], values], 2)
    assert seen.sum(1).tolist() == rows.lengths.tolist()
    found = []
    for key, value, kept in zip(keys, values, seen, strict=True):
        numbers = key[0, kept, 0]
        assert torch.equal(key[:, kept], as_keys(numbers[None])[0]) and torch.equal(value[:, kept], -key[:, kept])
        found.append(numbers.int().tolist())
    return found


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["extend", "extend", "select", "fork", "rollback", "join"]), st.randoms()), max_size=24
)


def operate(name, random, known, numbers):
    """Do one operation to rows that are known already, and to their lists."""
    rows, lists = random.choice(known)
    count = len(lists)
    if name == "extend":
        size = random.choice([1, 1, 2, 19])
        block = [numbers.take(size) for _ in range(count)]
        return extended(rows, block), [row + more for row, more in zip(lists, block, strict=True)]
    if name == "join":
        other, others = random.choice(known)
        return (rows.join(other), lists + others) if count + len(others) <= 12 else (rows, lists)
    if name == "rollback":
        dropped = [random.choice([0, 0, 1, 3, len(row) - 1, 12]) for row in lists]
        dropped = [min(drop, len(row) - 1) for drop, row in zip(dropped, lists, strict=True)]
        return rows.rollback(torch.tensor(dropped)), [
            row[: len(row) - drop] for row, drop in zip(lists, dropped, strict=True)
        ]
    index = [random.randrange(count) for _ in range(random.randint(1, 5))]
    if name == "fork":
        index = [i for i in range(min(count, 4)) for _ in range(2)]
    return rows.select(torch.tensor(index)), [lists[i] for i in index]


@pytest.fixture(params=[1, 10**6], ids=["shared", "copied"])
def worth(request):
    """Share chunks of four slots wherever any would be saved, or never."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared, "_WORTH", request.param)
        for module in (attention, cache, shared, slots):
            patch.setattr(module, "CHUNK", 4)
        yield


@pytest.mark.usefixtures("worth")
@settings(max_examples=100, deadline=None)
@given(lengths=st.lists(st.integers(1, 10), min_size=1, max_size=3), operations=OPERATIONS)
def test_any_operations_on_any_rows_leave_all_rows_right(lengths, operations):
    """Every rows value made on the way is read again after every later operation."""
    numbers = Numbers()
    lists = [numbers.take(length) for length in lengths]
    known = [(rows_of(lists), lists)]
    for name, random in operations:
        known.append(operate(name, random, known, numbers))
        for rows, expected in known:
            assert read(rows) == expected


def test_appending_shares_the_storage_and_only_the_newest_may_write_behind():
    first = rows_of([[1, 2], [3, 4]], room=8)
    second = extended(first, [[5], [6]])
    third = extended(second, [[7], [8]])
    branch = extended(first, [[9], [10]])
    assert first.slots is second.slots is third.slots and branch.slots is not first.slots
    assert read(first) == [[1, 2], [3, 4]]
    assert read(second) == [[1, 2, 5], [3, 4, 6]]
    assert read(third) == [[1, 2, 5, 7], [3, 4, 6, 8]]
    assert read(branch) == [[1, 2, 9], [3, 4, 10]]


def test_a_full_storage_gets_room_for_many_more():
    rows, copies, expected = rows_of([[1]], room=0), 0, [1]
    for number in range(2, 400):
        before = rows.slots
        rows = extended(rows, [[number]])
        copies += rows.slots is not before
        expected.append(number)
    # rooms 32, 32, 33, 49, 74, 111, 166: each at least half of what is there
    assert read(rows) == [expected] and copies <= 8


def test_newcomers_take_free_lanes_without_a_copy():
    four = rows_of([[1, 2], [3, 4], [5, 6], [7, 8]], lanes=4)
    two = four.select(torch.tensor([1, 3]))
    joined = two.join(rows_of([[9, 10]]))
    assert joined.slots is two.slots and read(joined) == [[3, 4], [7, 8], [9, 10]]
    again = two.join(rows_of([[11, 12]]))  # the lane is taken now
    assert again.slots is not two.slots
    assert read(joined)[2] == [9, 10] and read(again)[2] == [11, 12] and read(two) == [[3, 4], [7, 8]]
    grown = extended(joined.join(rows_of([[13, 14], [15, 16]])), [[1], [2], [3], [4], [5]])
    assert read(grown)[3:] == [[13, 14, 4], [15, 16, 5]]


def test_rows_begin_at_the_first_slot_and_join_without_moving():
    wide, narrow = rows_of([[1, 2, 3]], lanes=2), rows_of([[4]])
    both = wide.join(narrow)
    assert both.slots is wide.slots and both.ends.tolist() == [3, 1] and not both.even
    assert both.seen(4).tolist() == [[True, True, True, False], [True, False, False, False]]
    other = narrow.join(wide)
    assert read(both) == [[1, 2, 3], [4]] and read(other) == [[4], [1, 2, 3]] and rows_of([[1, 2], [3, 4]]).even
    ((keys, values),) = other.layers(3)  # what is masked has no weight, but no weight times NaN is NaN
    assert torch.isfinite(keys).all() and torch.isfinite(values).all()
    assert read(extended(both, [[5, 6], [7, 8]])) == [[1, 2, 3, 5, 6], [4, 7, 8]]


def test_slots_that_nobody_wrote_to_hold_zeros():
    rows = extended(rows_of([[1, 2, 3], [4, 5, 6]], lanes=4, room=40), [[7], [8]])
    for tensor in rows.slots.tensors:
        assert not tensor[:2, :, 4:].any() and not tensor[2:].any()


def test_a_hole_may_stay_in_the_middle_and_goes_when_there_are_many():
    rows = extended(rows_of([[1, 2], [3, 4]], room=80), [[5, 6], [7, 8]])
    back = extended(rows.rollback(torch.tensor([2, 1])), [[9], [10]])
    seen = [[True, True, False, False, True], [True, True, True, False, True]]
    assert back.width == 5 and back.seen(5).tolist() == seen and back.slots is rows.slots
    assert read(back) == [[1, 2, 9], [3, 4, 7, 10]] and read(rows) == [[1, 2, 5, 6], [3, 4, 7, 8]]
    widest, expected = 0, [[1, 2, 9], [3, 4, 7, 10]]
    for number in range(20, 200, 4):
        before, same = back, expected
        back = extended(back, [[number, number + 1], [number + 2, number + 3]]).rollback(torch.tensor([1, 2]))
        expected = [[*expected[0], number], expected[1]]
        widest = max(widest, back.width - max(map(len, expected)))
        assert read(back) == expected and read(before) == same
    assert widest <= 20  # spare slots: 16, or a quarter


@pytest.mark.parametrize("first", ["compact", "hole"])
def test_nan_in_one_row_stays_in_that_row(first):
    good, bad = rows_of([[1, 2], [3, 4]], room=80), rows_of([[5]])
    ((keys, values),) = bad.layers(1)
    keys.fill_(torch.nan), values.fill_(torch.nan)
    rows = extended(good.join(bad), [[6], [7], [8]])
    drop = torch.tensor([1, 0, 1]) if first == "hole" else torch.tensor([0, 0, 0])
    rows = extended(rows.rollback(drop), [[9], [10], [11]])
    kept = rows.select(torch.tensor([1, 0])).join(rows_of([[12]]))
    for picked in (rows.select(torch.tensor([0, 1])), kept, kept.select(torch.tensor([2, 1, 0]))):
        ((keys, values),) = picked.layers(picked.width)
        assert bool(torch.isfinite(keys).all() and torch.isfinite(values).all())


# -- real models -----------------------------------------------------------------------------------------------------


def fresh(lm, prompts):
    with torch.no_grad():
        return torch.cat([lm.init([prompt])[0] for prompt in prompts])


def stepped(lm, state, tokens):
    with torch.no_grad():
        log_probs, after = lm.step(state, torch.tensor(tokens))
    return log_probs[:, -1], after


def close(found, expected):
    return torch.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("cached", [True, False])
def test_an_old_state_is_stepped_again_after_its_successors(cached):
    lm = tiny_lm(cached=cached)
    with torch.no_grad():
        _, old = lm.init([[1, 2, 3], [4]])
    _, one = stepped(lm, old, [[5], [6]])
    _, two = stepped(lm, old, [[7], [8]])
    for _ in range(2):
        assert close(stepped(lm, one, [[1], [1]])[0], fresh(lm, [[1, 2, 3, 5, 1], [4, 6, 1]]))
        assert close(stepped(lm, two, [[1], [1]])[0], fresh(lm, [[1, 2, 3, 7, 1], [4, 8, 1]]))
        assert close(stepped(lm, old, [[9], [2]])[0], fresh(lm, [[1, 2, 3, 9], [4, 2]]))


@pytest.mark.usefixtures("worth")
@pytest.mark.parametrize("cached", [True, False])
def test_states_made_from_a_state_leave_it_and_each_other_alone(cached):
    lm = tiny_lm(cached=cached)
    with torch.no_grad():
        _, start = lm.init([[1, 2, 3], [4]])
    _, state = stepped(lm, start, [[5, 6], [7, 8]])
    made = {
        "select": (state.select([1]), [[4, 7, 8]]),
        "fork": (state.fork(2), [[1, 2, 3, 5, 6]] * 2 + [[4, 7, 8]] * 2),
        "rollback": (state.rollback([3, 2]), [[1, 2, 3], [4, 7]]),
        "join": (state.join(start), [[1, 2, 3, 5, 6], [4, 7, 8], [1, 2, 3], [4]]),
        "self": (state.join(state), [[1, 2, 3, 5, 6], [4, 7, 8]] * 2),
    }
    for _ in range(2):
        for made_state, prefixes in (*made.values(), (state, [[1, 2, 3, 5, 6], [4, 7, 8]]), (start, [[1, 2, 3], [4]])):
            tokens = [[i + 2] for i in range(len(prefixes))]
            expected = fresh(lm, [prefix + token for prefix, token in zip(prefixes, tokens, strict=True)])
            assert close(stepped(lm, made_state, tokens)[0], expected)


@pytest.mark.usefixtures("worth")
def test_holes_in_the_middle_are_not_seen_and_do_not_count_as_positions():
    lm = tiny_lm()
    with torch.no_grad():
        _, state = lm.init([[1, 2, 3], [4]])
    kept = [[1, 2, 3], [4]]
    for turn in range(12):  # far more than are kept as holes
        _, state = stepped(lm, state, [[5, 6, 7], [8, 9, 10]])
        drops = [3 - turn % 2, 2 + turn % 2]
        state = state.rollback([len(row) + 3 - drop for row, drop in zip(kept, drops, strict=True)])
        kept = [row + more[: 3 - drop] for row, more, drop in zip(kept, [[5, 6, 7], [8, 9, 10]], drops, strict=True)]
        expected = fresh(lm, [[*row, 11, 1] for row in kept])
        assert close(stepped(lm, state, [[11, 1], [11, 1]])[0], expected)


def test_padding_is_not_heard_of():
    lm = tiny_lm()
    with torch.no_grad():
        lm.trunk.model.get_input_embeddings().weight[0] = torch.nan
        together = lm.init([[1, 2, 3, 4], [5]])[0]
    assert close(together, fresh(lm, [[1, 2, 3, 4], [5]]))


def test_no_rows_are_no_state():
    with torch.no_grad():
        _, state = tiny_lm().init([[1, 2], [3]])
    with pytest.raises(StateError, match="at least one row"):
        state.select([])


@pytest.mark.usefixtures("worth")
@pytest.mark.parametrize("prompts", [[[1, 2, 3], [4, 5, 6]], [[1, 2, 3], [4]]], ids=["even", "ragged"])
@settings(max_examples=25, deadline=None)
@given(operations=OPERATIONS)
def test_any_operations_on_a_model_give_what_one_row_alone_gives(prompts, operations):
    lm, numbers = tiny_lm(), Numbers()
    with torch.no_grad():
        _, start = lm.init(prompts)
    known = [(start, prompts)]
    for name, random in operations[:10]:
        state, lists = random.choice(known)
        if name == "extend":
            block = [[token % 13 for token in numbers.take(random.choice([1, 3]))]] * len(lists)
            if len(block[0]) + max(map(len, lists)) > 40:
                continue
            found, state = stepped(lm, state, block)
            lists = [row + more for row, more in zip(lists, block, strict=True)]
            assert close(found, fresh(lm, lists))
        elif name == "join":
            other, others = random.choice(known)
            state, lists = state.join(other), lists + others
        elif name == "rollback":
            kept = [random.randint(1, len(row)) for row in lists]
            state, lists = state.rollback(kept), [row[:size] for row, size in zip(lists, kept, strict=True)]
        else:
            index = [random.randrange(len(lists)) for _ in range(5)] if name == "select" else [0, 0, 0, -1 % len(lists)]
            state, lists = state.select(index), [lists[i] for i in index]
        if len(lists) <= 8:
            known.append((state, lists))


def test_a_state_made_in_inference_mode_goes_on_outside_it():
    lm = tiny_lm()
    with torch.inference_mode():
        _, state = lm.init([[1, 2], [3]])
        _, inner = lm.step(state, torch.tensor([[4], [5]]))
    outer, outside = stepped(lm, inner, [[6], [7]])  # the newest rows, with room behind them that may not be written
    assert close(outer, fresh(lm, [[1, 2, 4, 6], [3, 5, 7]]))
    joined = inner.join(outside)
    assert close(stepped(lm, joined, [[1]] * 4)[0], fresh(lm, [[1, 2, 4, 1], [3, 5, 1], [1, 2, 4, 6, 1], [3, 5, 7, 1]]))
    with torch.inference_mode():  # and back
        assert close(lm.step(outside, torch.tensor([[1], [1]]))[0][:, -1], fresh(lm, [[1, 2, 4, 6, 1], [3, 5, 7, 1]]))


def test_nan_is_forgotten_however_often_rows_are_rolled_back():
    lm = broken_lm()
    with torch.no_grad():
        _, state = lm.init([[1, 2]])
        for token in (5, 3):
            _, state = step([lm], state, torch.tensor([[token]]), check=False)
        for length in (3, 2):
            state = state.rollback([length])
        assert close(lm.step(state, torch.tensor([[7]]))[0][:, -1], fresh(lm, [[1, 2, 7]]))


def broken_lm():
    """Return a model that gives NaN once it has read token 5."""
    lm = tiny_lm()
    with torch.no_grad():
        lm.trunk.model.get_input_embeddings().weight[5] = torch.nan
    return lm


def test_a_model_row_with_nan_does_not_reach_its_neighbours():
    lm = broken_lm()
    with torch.no_grad():
        log_probs, state = lm.trunk.init([lm], [[1, 2, 3], [5], [4, 6]])
        assert torch.isfinite(log_probs[0]).all(1).tolist() == [True, False, True]
        said, state = lm.trunk.step(state, torch.tensor([[7], [7], [7]]))
        assert torch.isfinite(said[0, :, -1]).all(1).tolist() == [True, False, True]
        assert close(said[0, [0, 2], -1].log_softmax(-1), fresh(lm, [[1, 2, 3, 7], [4, 6, 7]]))
        _, longer = lm.trunk.init([lm], [[1] * 9])
        joined = state.select(torch.tensor([1, 2])).join(longer)
        said, _ = lm.trunk.step(joined, torch.tensor([[8], [8], [8]]))
        assert close(said[0, 1:, -1].log_softmax(-1), fresh(lm, [[4, 6, 7, 8], [1] * 9 + [8]]))


def test_nan_that_newer_rows_have_written_does_not_reach_older_ones():
    """A short row's slots behind its end are written by its successors, and copied with those of a longer one."""
    lm, prompts = broken_lm(), [[1, 2, 3], [4, 6, 7, 8, 9, 1, 2, 3, 4]]
    with torch.no_grad():
        _, old = lm.init(prompts)
        _, other = lm.init([[2, 1]])
        step([lm], old, torch.tensor([[7, 5, 7], [7, 7, 7]]), check=False)
        cases = (
            (old, prompts),
            (old.select([1, 0]), prompts[::-1]),
            (old.join(other), [*prompts, [2, 1]]),
            (other.join(old), [[2, 1], *prompts]),
        )
        for state, lists in cases:
            found = stepped(lm, state, [[8]] * len(lists))[0]
            assert close(found, fresh(lm, [[*prompt, 8] for prompt in lists]))


def test_nan_behind_the_chunks_of_a_shared_prompt_is_not_heard_of(monkeypatch):
    monkeypatch.setattr(shared, "_WORTH", 1)
    for module in (attention, cache, shared, slots):
        monkeypatch.setattr(module, "CHUNK", 4)
    lm, prompts = broken_lm(), [[1, 2, 3, 4, 6, 7, 8, 9, 1], [4, 6, 7, 8, 9]]
    with torch.no_grad():
        _, start = lm.init(prompts)
        forked = start.select([0] * 3 + [1] * 3)
        assert forked.parts[0].state.stacks[0].rows.shared.chunks.tolist() == [2, 1]
        step(
            [lm], start, torch.tensor([[7], [5]]), check=False
        )  # behind the second prompt, in the storage it is read from
        found = stepped(lm, forked, [[8]] * 6)[0]
        assert close(found, fresh(lm, [[*prompts[row // 3], 8] for row in range(6)]))
        broken = step([lm], start, torch.tensor([[7], [5]]), check=False)[1].select([0] * 3 + [1] * 3)
        healed = broken.rollback([10] * 3 + [5] * 3)
        found = stepped(lm, healed, [[8]] * 6)[0]
        assert close(found, fresh(lm, [[*prompts[0], 7, 8]] * 3 + [[*prompts[1], 8]] * 3))


def test_a_rolled_back_token_with_nan_is_forgotten():
    lm = broken_lm()
    with torch.no_grad():
        _, start = lm.trunk.init([lm], [[1, 2, 3]])
        _, state = lm.trunk.step(start, torch.tensor([[5]]))
        said, _ = lm.trunk.step(state.rollback(torch.tensor([1])), torch.tensor([[6]]))
    assert close(said[0, :, -1].log_softmax(-1), fresh(lm, [[1, 2, 3, 6]]))
