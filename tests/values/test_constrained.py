"""Multipliers rise while a constraint is violated and fall again, each prompt's by its own rows."""

import math

import pytest
import torch

from trimtab.decoding.boundary import Texts
from trimtab.decoding.search import search
from trimtab.decoding.shape import blockwise, chunk_beam
from trimtab.errors import ConfigError
from trimtab.policies.toy import Table
from trimtab.values import Chunk, Constrained, LogRatio, PerToken, RewardValue

COIN = Table.of({"": {"a": 0.5, "c": 0.5}})
COUNT = RewardValue(lambda completions, **_: [float(text.count("a")) for text in completions])
CALM = RewardValue(lambda completions, **_: [text.count("c") / max(len(text.split()), 1) for text in completions])


def chunk(*rows):
    """Make a chunk of rows of words a (0) and c (1)."""
    counts = torch.tensor([len(row) for row in rows])
    tokens = torch.tensor([["ac".index(word) for word in row.ljust(int(counts.max()), "a")] for row in rows])
    nothing = torch.zeros(len(rows))
    return Chunk(tokens, counts, torch.zeros(len(rows), dtype=torch.bool), {}, nothing)


def test_multipliers_by_hand():
    """Two prompts with a threshold of 0.5 on the share of c, rate 2; three rows of the first, one of the second."""
    value = Constrained(COUNT, ((CALM, 0.5),), rate=2.0)
    state = value.start([[0], [1]], COIN.vocabulary, ()).select(torch.tensor([0, 0, 0, 1]))
    scores, state = state.extend(chunk("aa", "ac", "cc", "aa"))
    assert scores.tolist() == [2.0, 1.0, 0.0, 2.0] and state.multipliers.flatten().tolist() == [0.0] * 4
    # The first two of the first prompt go on: shares 0 and 0.5 lack 0.5 and 0, 0.25 in the mean: lambda = 2 * 0.25.
    # The second prompt's one row lacks 0.5: lambda = 2 * 0.5.
    state = state.select(torch.tensor([0, 1, 3]))
    scores, state = state.extend(chunk("cc", "c", "aa"))
    assert state.multipliers.flatten().tolist() == [0.5, 0.5, 1.0]
    # aacc: 2 a, share 1/2; acc: 1 a, share 2/3; aaaa: 4 a, share 0
    assert scores.tolist() == pytest.approx([2 + 0.5 * 0, 1 + 0.5 / 6, 4 - 1.0 * 0.5])
    # Both rows of the first prompt go on, lacking 0 and -1/6: 0.5 - 2 / 12 = 1/3. The second: 1 + 2 * 0.5 = 2.
    scores, state = state.extend(chunk("a", "c", ""))
    assert state.multipliers.flatten().tolist() == pytest.approx([1 / 3, 1 / 3, 2.0])
    # Multipliers do not fall below 0: a row of c alone.
    _, calm = value.start([[0]], COIN.vocabulary, ()).extend(chunk("cccc"))
    assert calm.extend(chunk("c"))[1].multipliers.tolist() == [[0.0]]


def test_the_constrained_search_meets_the_threshold_and_the_plain_one_does_not():
    """Tokens a gain 1 each, the share of c shall be at least 0.5; both tokens are among 16 but for 2^-15. Rate 20:

    ====  =================  ==========================================  =====  =============================
    step  lambda             scores of going on with a and with c        kept   lambda after
    1     0                  1, 0                                        a      0 + 20 (0.5 - 0) = 10
    2     10                 2 - 5 = -3, 1 + 0 = 1                       c      10 + 20 (0.5 - 0.5) = 10
    3     10                 2 - 10 / 6 = 0.33, 1 + 10 / 6 = 2.67        c      10 + 20 (0.5 - 2/3) = 6.67
    4     6.67               2 + 0 = 2, 1 + 6.67 / 4 = 2.67              c      6.67 + 20 (0.5 - 0.75) = 1.67
    5     1.67               2 + 0.17 = 2.17, 1 + 0.5 = 1.5              a      1.67 + 20 (0.5 - 0.6) < 0: 0
    6     0                  3, 2                                        a
    ====  =================  ==========================================  =====  =============================
    """
    settings = {"max_new_tokens": 6, "seed": 0}
    (plain,) = search(COIN, "a", COUNT, blockwise(16, 1), **settings)
    assert plain.best.text == "a a a a a a"  # no c at all
    (found,) = search(COIN, "a", Constrained(COUNT, ((CALM, 0.5),), rate=20.0), blockwise(16, 1), **settings)
    assert found.best.text == "a c c c a a" and found.hypotheses[0][1] == pytest.approx(3.0)
    kept = [node.score for node in found.trace.nodes if node.kept]
    assert kept == pytest.approx([1, 1, 1 + 10 / 6, 1 + 20 / 3 / 4, 2 + 5 / 3 / 10, 3], abs=1e-4)


def test_an_initial_multiplier_counts_at_the_first_boundary():
    """One boundary: "a a" scores 2 - 0.5 m, "a c" 1, "c c" 0.5 m; m = 3 prefers c."""
    value = Constrained(COUNT, ((CALM, 0.5),), initial=3.0)
    (found,) = search(COIN, "a", value, blockwise(64, 2), max_new_tokens=2, seed=0)
    assert found.best.text == "c c" and found.hypotheses[0][1] == pytest.approx(1.5)


def test_several_constraints_have_a_multiplier_each():
    short = RewardValue(lambda completions, **_: [-float(len(text.split())) for text in completions])
    value = Constrained(COUNT, ((CALM, 0.5), (short, -2.0)), rate=1.0)
    state = value.start([[0]], COIN.vocabulary, ())
    _, state = state.extend(chunk("aac"))  # lacks 0.5 - 1/3 and -2 + 3
    scores, state = state.extend(chunk("c"))
    assert state.multipliers.tolist() == [pytest.approx([1 / 6, 1.0])]
    assert float(scores) == pytest.approx(2 + 0 / 6 + 1.0 * (-4 + 2))


@pytest.mark.parametrize("ends", [2, Texts(("t0", "t3"))], ids=["tokens", "texts"])
def test_a_prompt_finds_the_same_alone_and_with_others(ends):
    base, tuned, untuned = (Table.random(6, seed=seed, end="t5", name=f"table{seed}") for seed in range(3))
    pair = LogRatio(tuned, untuned)
    length = RewardValue(lambda completions, **_: [float(len(text.split())) for text in completions])
    value = Constrained(length, ((PerToken(pair), 0.2), (pair, 1.0)), rate=3.0)
    prompts = ["t1 t2", "t3", "t4 t4 t4"]
    for policy in (base, base * (tuned / untuned) ** 0.5):
        assert (value.watched([base, tuned, untuned]) == (tuned, untuned)) and value.granularity == "prefix"
        together = search(policy, prompts, value, chunk_beam(2, 3, ends), max_new_tokens=10, seed=7)
        alone = [search(policy, p, value, chunk_beam(2, 3, ends), max_new_tokens=10, seed=7)[0] for p in prompts]
        assert together == alone


def test_an_answer_that_a_constraint_cannot_score_is_left_out():
    def fussy(completions, **_):
        if any(text.startswith("c") for text in completions):
            raise ValueError("not c")
        return [0.0] * len(completions)

    value = Constrained(COUNT, ((RewardValue(fussy), 0.5),), rate=1.0)
    with pytest.warns(UserWarning, match="goes on without it"):
        (found,) = search(COIN, "a", value, blockwise(16, 1), max_new_tokens=3, seed=0)
    assert all(answer.text.startswith("a") for answer, _ in found.hypotheses)
    assert not any(math.isnan(score) for _, score in found.hypotheses)


@pytest.mark.parametrize(
    "wrong",
    [
        {"constraints": ()},
        {"constraints": ((CALM, math.nan),)},
        {"constraints": ((CALM, math.inf),)},
        {"rate": 0.0},
        {"rate": -1.0},
        {"rate": math.nan},
        {"initial": -0.5},
        {"initial": math.nan},
    ],
)
def test_constraints_that_make_no_sense(wrong):
    with pytest.raises(ConfigError):
        Constrained(**{"primary": COUNT, "constraints": ((CALM, 0.5),), **wrong})
