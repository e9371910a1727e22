"""Adapters of mixes: made once, and let go when there are too many."""

from pathlib import Path

import torch

from trimtab.engines.vllm.adapters import Adapters
from trimtab.engines.vllm.mixes import Mixes
from trimtab.policies.vector import LowRank, Origin, Vector


def adapters(tmp_path, most):
    vector = Vector({"lin": LowRank(torch.ones(1, 2), torch.ones(2, 1))}, {}, Origin("base", "here"), "a")
    return Adapters(Mixes({"medical": vector}, tmp_path), "base", most=most)


def test_a_mix_is_made_once_and_the_oldest_idle_ones_go(tmp_path):
    held = adapters(tmp_path, 2)
    first, second = held.of({"medical": 0.1}, ()), held.of({"medical": 0.2}, ())
    assert held.of({"medical": 0.1}, ()) is first
    third = held.of({"medical": 0.3}, ())
    assert not Path(second.lora_path).exists() and len([*tmp_path.iterdir()]) == 2
    again = held.of({"medical": 0.2}, ())
    assert len({each.lora_int_id for each in (first, second, third, again)}) == 4


def test_adapters_in_use_stay(tmp_path):
    held = adapters(tmp_path, 1)
    used = [held.of({"medical": value}, ()) for value in (0.1,)]
    used.append(held.of({"medical": 0.2}, {each.lora_int_id for each in used}))
    held.of({"medical": 0.3}, {each.lora_int_id for each in used})
    assert all(Path(each.lora_path).exists() for each in used)
    held.of({"medical": 0.4}, ())
    assert len([*tmp_path.iterdir()]) == 1


def test_policies_without_vectors_have_none():
    assert Adapters(None, "base").of({}, ()) is None
