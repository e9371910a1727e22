"""What transformers keeps, as a value: random operations against plain lists, whether keys and values or tokens."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.policies.padded import Padded

HEADS, SIZE = 2, 3
OPERATIONS = ["extend", "select", "rollback", "join"]


def as_keys(numbers):
    return numbers[:, None, :, None].expand(-1, HEADS, -1, SIZE).clone()


def padded_of(lists, *, keyed, filler=-7.0):
    """Build rows whose keys are the numbers, whose values are the negated numbers; padding holds junk."""
    lengths = torch.tensor([len(row) for row in lists])
    width = int(lengths.max())
    mask = None if bool((lengths == width).all()) else torch.arange(width) >= (width - lengths)[:, None]
    rows = torch.tensor([[filler] * (width - len(row)) + row for row in lists], dtype=torch.float32)
    if not keyed:
        return Padded(lengths, width, mask, [], rows.long())
    return Padded(lengths, width, mask, [(as_keys(rows), -as_keys(rows))], None)


def extended(rows, block):
    """Append a block of numbers, as transformers does."""
    block, grown = torch.tensor(block, dtype=torch.float32), rows.longer(len(block[0]))
    layers = [(torch.cat([k, as_keys(block)], 2), torch.cat([v, -as_keys(block)], 2)) for k, v in rows.layers]
    tokens = None if rows.tokens is None else torch.cat([rows.tokens, block.long()], 1)
    return Padded(grown.lengths, grown.width, grown.mask, layers, tokens)


def read(rows):
    """Return the numbers that each row holds: its last slots, which are all that is not masked."""
    mask = torch.ones((len(rows), rows.width), dtype=torch.bool) if rows.mask is None else rows.mask
    last = torch.arange(rows.width) >= rows.width - rows.lengths[:, None]
    assert torch.equal(mask, last) and bool(mask.any(0)[0])
    if rows.tokens is not None:
        return [row[kept].tolist() for row, kept in zip(rows.tokens, mask, strict=True)]
    ((keys, values),) = rows.layers
    found = [key[0, kept, 0].int().tolist() for key, kept in zip(keys, mask, strict=True)]
    for key, value, kept, numbers in zip(keys, values, mask, found, strict=True):
        assert torch.equal(key[:, kept], as_keys(torch.tensor([numbers], dtype=torch.float32))[0])
        assert torch.equal(value[:, kept], -key[:, kept])
    return found


@pytest.mark.parametrize("keyed", [True, False])
@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    operations=st.lists(
        st.tuples(st.sampled_from(["extend", "select", "rollback", "join"]), st.randoms()), max_size=20
    ),
)
def test_any_operations_leave_all_rows_right(keyed, lengths, operations):
    """Every value made on the way is read again after every later operation."""
    last = 0

    def take(count):
        nonlocal last
        last += count
        return list(range(last - count + 1, last + 1))

    lists = [take(length) for length in lengths]
    known = [(padded_of(lists, keyed=keyed), lists)]
    for name, random in operations:
        rows, lists = random.choice(known)
        if name == "extend":
            block = [take(2) for _ in lists]
            made = extended(rows, block), [row + more for row, more in zip(lists, block, strict=True)]
        elif name == "join":
            other, others = random.choice(known)
            made = rows.join(other), lists + others
        elif name == "rollback":
            drops = [min(random.choice([0, 0, 1, len(row) - 1]), len(row) - 1) for row in lists]
            left = [row[: len(row) - drop] for row, drop in zip(lists, drops, strict=True)]
            made = rows.rollback(torch.tensor(drops)), left
        else:
            index = [random.randrange(len(lists)) for _ in range(random.randint(1, 4))]
            made = rows.select(torch.tensor(index)), [lists[i] for i in index]
        if len(made[1]) <= 8:
            known.append(made)
        for rows, expected in known:
            assert read(rows) == expected


def test_a_rolled_back_nan_is_gone():
    """What is masked has no weight, but no weight times NaN is NaN."""
    rows = padded_of([[1.0, 2.0], [3.0, float("nan")]], keyed=True)
    back = rows.rollback(torch.tensor([0, 1]))
    assert all(bool(torch.isfinite(tensor).all()) for layer in back.layers for tensor in layer)
    wider = back.join(padded_of([[4.0, 5.0, 6.0]], keyed=True))
    assert all(bool(torch.isfinite(tensor).all()) for layer in wider.layers for tensor in layer)
    assert wider.mask.tolist() == [[False, True, True], [False, False, True], [True, True, True]]
