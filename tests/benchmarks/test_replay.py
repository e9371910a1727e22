"""A replayed value leads the same search to the same answers."""

import pytest

from trimtab.benchmarks.replay import Recorded, Replayed, Tape
from trimtab.decoding.search import search
from trimtab.decoding.shape import chunk_beam
from trimtab.policies.toy import Table
from trimtab.values import LogRatio


@pytest.mark.parametrize("prompts", ["t1", ["t1", "t2 t3"]])
def test_a_replayed_search_is_the_recorded_one(prompts):
    base, tuned, untuned = (Table.random(6, seed=seed, end="t5") for seed in range(3))
    value, tape = LogRatio(tuned, untuned), Tape()
    settings = {"max_new_tokens": 7, "min_new_tokens": 7, "seed": 0}
    plain = search(base, prompts, value, chunk_beam(2, 3, 2), **settings)
    recorded = search(base, prompts, Recorded(value, tape), chunk_beam(2, 3, 2), **settings)
    replayed = search(base, prompts, Replayed(tape), chunk_beam(2, 3, 2), **settings)
    assert len(tape.scores) == 4
    assert [each.hypotheses for each in recorded] == [each.hypotheses for each in plain]
    assert [each.hypotheses for each in replayed] == [each.hypotheses for each in plain]
