"""Warps against hand-derived numbers and against the transformers library; picks against their distribution."""

import math

import pytest
import torch
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from trimtab.decoding.sampling import Sampling, Warps, choose, distribution, nucleus, pick, uniforms, warp
from trimtab.errors import ConfigError

P = torch.tensor([[0.5, 0.25, 0.15, 0.1]])


def probs(**settings):
    return warp(P.log(), Warps.of([Sampling(**settings)])).softmax(-1)[0].tolist()


def test_temperature_one_half_squares():
    # squares .25 .0625 .0225 .01, sum .345
    assert probs(temperature=0.5) == pytest.approx([0.7246, 0.1812, 0.0652, 0.0290], abs=1e-4)


def test_top_k_keeps_two():
    assert probs(top_k=2) == pytest.approx([2 / 3, 1 / 3, 0, 0])


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    # .5 + .25 = .75 < .8 <= .9: three tokens
    assert probs(top_p=0.8) == pytest.approx([0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0])
    assert probs(top_p=1e-9) == pytest.approx([1, 0, 0, 0])


def test_min_p_is_relative_to_the_likeliest():
    assert probs(min_p=0.25) == pytest.approx([0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0])


def test_the_repetition_penalty_raises_to_a_power():
    # token 0 seen: .5^2 = .25, so weights .25 .25 .15 .1, sum .75
    seen = torch.tensor([[True, False, False, False]])
    got = warp(P.log(), Warps.of([Sampling(repetition_penalty=2.0)]), seen).softmax(-1)[0].tolist()
    assert got == pytest.approx([1 / 3, 1 / 3, 0.2, 0.4 / 3])


def test_the_order_of_warps_is_that_of_transformers():
    torch.manual_seed(0)
    log_probs = torch.randn(7, 3000).mul(2).log_softmax(-1)
    ids = torch.randint(0, 3000, (7, 5))
    seen = torch.zeros(7, 3000, dtype=torch.bool).scatter(1, ids, True)
    expected = log_probs
    for processor in (
        RepetitionPenaltyLogitsProcessor(1.3),
        TemperatureLogitsWarper(0.8),
        TopKLogitsWarper(900),
        TopPLogitsWarper(0.9),
        MinPLogitsWarper(0.01),
    ):
        expected = processor(ids, expected)
    settings = Warps.of([Sampling(temperature=0.8, top_k=900, top_p=0.9, min_p=0.01, repetition_penalty=1.3)] * 7)
    torch.testing.assert_close(warp(log_probs, settings, seen).softmax(-1), expected.softmax(-1))


def test_a_flat_distribution_needs_more_than_the_head_of_the_nucleus():
    flat = torch.zeros(1, 5000).log_softmax(-1)
    assert nucleus(flat, 0.9).sum().item() == pytest.approx(4500, abs=1)


def test_greedy_ignores_the_random_number():
    assert choose(P.log(), Warps.of([Sampling(temperature=0)]), torch.tensor([0.99])).tolist() == [0]


def test_picks_invert_the_cumulative_distribution():
    # cumulative .5 .75 .9 1
    draws = torch.tensor([0.0, 0.4999, 0.5001, 0.76, 0.91, 0.99999], dtype=torch.float64)
    assert pick(P.expand(6, 4), draws).tolist() == [0, 0, 1, 2, 3, 3]


def test_cut_tokens_are_never_picked():
    weights = torch.tensor([[-math.inf, 0.0, -math.inf]]).expand(3, 3)
    assert pick(weights.exp(), torch.tensor([0.0, 0.5, 0.999999], dtype=torch.float64)).tolist() == [1, 1, 1]


def test_frequencies_match_probabilities():
    draws = uniforms(0, [1, 2], 0, 0, 20_000)[:, 0]
    counts = torch.bincount(pick(P.expand(20_000, 4), draws), minlength=4)
    expected = P[0] * 20_000
    assert ((counts - expected) ** 2 / expected).sum().item() < 16.3  # chi-square, 3 degrees of freedom, p = 0.001


def test_random_numbers_depend_on_the_request_alone():
    first = uniforms(3, [1, 2], 0, 1, 5)
    assert torch.equal(first, uniforms(3, [1, 2], 0, 1, 5))
    assert torch.equal(first[:3], uniforms(3, [1, 2], 0, 1, 3))  # a longer answer starts like a shorter one
    others = [(4, [1, 2], 0, 1), (3, [1, 3], 0, 1), (3, [1, 2], 1, 1), (3, [1, 2], 0, 0)]
    assert not any(torch.equal(first, uniforms(*other, 5)) for other in others)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": -1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_k": -1},
        {"top_p": 0},
        {"top_p": 1.1},
        {"min_p": 1.0},
        {"min_p": -0.1},
        {"repetition_penalty": 0},
        {"repetition_penalty": math.nan},
    ],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        Sampling(**settings)


def test_every_row_has_its_own_settings():
    rows = [Sampling(), Sampling(temperature=0.5), Sampling(top_k=2), Sampling(top_p=0.8), Sampling(min_p=0.25)]
    together = warp(P.log().expand(5, 4), Warps.of(rows)).softmax(-1)
    alone = torch.cat([warp(P.log(), Warps.of([row])).softmax(-1) for row in rows])
    torch.testing.assert_close(together, alone)


def test_picks_are_those_of_the_slow_cumulative_sum():
    generator = torch.Generator().manual_seed(0)
    probs = (torch.randn(64, 1000, generator=generator) * 3).softmax(-1)
    probs[:, 100:700] = 0  # whole chunks without probability
    draws = torch.rand(64, generator=generator, dtype=torch.float64)
    cumulative = probs.double().cumsum(-1)
    expected = [int((row > u * row[-1]).nonzero()[0]) for row, u in zip(cumulative, draws, strict=True)]
    assert pick(probs, draws).tolist() == expected


def test_the_largest_draw_still_picks_a_possible_token():
    probs = torch.zeros(1, 600)
    probs[0, :300] = 1 / 300
    assert pick(probs, torch.tensor([1 - 2.0**-53], dtype=torch.float64)).item() == 299
    assert pick(probs.flip(1), torch.tensor([0.0], dtype=torch.float64)).item() == 300


def test_the_distribution_of_a_greedy_row_is_one_token():
    both = distribution(P.log().expand(2, 4), Warps.of([Sampling(temperature=0), Sampling()]))
    torch.testing.assert_close(both, torch.tensor([[1.0, 0, 0, 0], [0.5, 0.25, 0.15, 0.1]]))
