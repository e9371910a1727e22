"""Vectors on siblings of their base."""

import pytest
import torch

from trimtab.errors import ModelError
from trimtab.policies.vector import LowRank, Origin, Vector
from trimtab.vectors.sibling import transferred

VECTOR = Vector(
    {"lin": LowRank(torch.ones(1, 3), torch.ones(2, 1))},
    {"norm.weight": torch.ones(4)},
    Origin("aaaa", "old/base"),
    "v",
)
SHAPES = {"lin.weight": (2, 3), "norm.weight": (4,), "other.weight": (9,)}


def test_a_transfer_warns_and_names_both():
    with pytest.warns(UserWarning, match=r"old/base \(aaaa\) is used on new/base \(bbbb\)"):
        moved = transferred(VECTOR, "bbbb", "new/base", shapes=SHAPES)
    assert (moved.origin.base, moved.origin.source) == ("bbbb", "new/base") and "transferred from" in moved.origin.made
    assert moved.low_rank is VECTOR.low_rank and moved != VECTOR


def test_its_own_base_is_no_sibling():
    assert transferred(VECTOR, "aaaa", "moved/base") is VECTOR


@pytest.mark.parametrize("shapes", [{"lin.weight": (2, 4)}, {"norm.weight": (5,)}, {"lin.weight": None}])
def test_other_shapes_are_no_sibling(shapes):
    with pytest.raises(ModelError, match=next(iter(shapes))):
        transferred(VECTOR, "bbbb", "new/base", shapes={**SHAPES, **shapes})
