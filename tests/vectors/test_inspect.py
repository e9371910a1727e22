"""Norms by layer and kind."""

import math

import pytest
import torch

from trimtab.policies.vector import LowRank, Origin, Vector
from trimtab.vectors.inspect import norms


def test_norms_by_hand():
    """|up down| of ones (2, 1) and ones (1, 3) is that of six ones, sqrt(6); their root mean square is 1."""
    low = {"model.layers.1.q_proj": LowRank(torch.ones(1, 3), torch.ones(2, 1))}
    dense = {
        "model.norm.weight": torch.tensor([3.0, -4.0]),
        "model.layers.0.q_proj.bias": torch.tensor([2.0]),
        "model.layers.0.q_proj.weight": torch.full((2, 2), 0.5),
    }
    found = {each.name: each for each in norms(Vector(low, dense, Origin("", "")))}
    assert list(found) == sorted(found)
    q = found["model.layers.1.q_proj.weight"]
    assert (q.layer, q.kind, q.rank, q.size) == (1, "q_proj", 1, 6)
    assert q.norm == pytest.approx(math.sqrt(6)) and q.rms == pytest.approx(1)
    norm = found["model.norm.weight"]
    assert (norm.layer, norm.kind, norm.norm, norm.rank) == (None, "norm", 5.0, None)
    assert found["model.layers.0.q_proj.bias"].kind == "q_proj.bias"
    assert found["model.layers.0.q_proj.weight"].norm == 1.0
