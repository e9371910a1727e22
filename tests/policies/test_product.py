"""Products: flattening, pruning, the support rules, knobs of rows, messages."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.errors import KnobError, PolicyError, VocabularyError
from trimtab.policies.knob import Exponent, Knob
from trimtab.policies.product import FLOOR
from trimtab.policies.toy import Table

PROMPTS = [[0, 1], [2], [1, 1, 0]]
A, B, C = (Table.random(5, seed=seed, name=name) for seed, name in enumerate("abc"))
exponents = st.floats(-3, 3).map(lambda x: round(x, 3))


def table(name, *probabilities):
    return Table.of({"": dict(zip("xyz", probabilities, strict=False))}, name=name)


def broken(name):
    """A table that says NaN, which Table.of lets pass."""
    return table(name, math.nan, 0.5, 0.5)


def log_probs(policy, knobs=None):
    return policy.init(PROMPTS, knobs)[0]


# -- structure -----------------------------------------------------------------------------------------------------


def test_products_flatten_to_one_list():
    product = A * (B * C**2) ** 3 / (B / C)
    # a^1, b^(3 - 1), c^(2 * 3 + 1)
    assert product.factors == ((A, Exponent.of(1.0)), (B, Exponent.of(2.0)), (C, Exponent.of(7.0)))
    assert product.leaves({}) == (A, B, C)


def test_equal_factors_merge_and_each_leaf_is_evaluated_once():
    assert A * A * A == A**3
    twin = Table.random(5, seed=1, name="b")
    assert (A * B * twin).leaves({}) == (A, B)


@pytest.mark.parametrize(
    "product",
    [A**1, A * B**0, A * B / B, (A * B) / B, A * (B / C) ** 0, A * B ** (Knob("w") - Knob("w"))],
)
def test_what_flattens_to_the_base_is_the_base(product):
    assert product == A
    assert torch.equal(log_probs(product), log_probs(A))


def test_a_knob_at_0_gives_the_base_bit_for_bit_without_evaluating_the_guide():
    product = A * B ** Knob("w")
    assert torch.equal(log_probs(product, {"w": 0.0}), log_probs(A))
    assert product.leaves({"w": torch.tensor([0.0, 0.0])}) == (A,)
    assert product.leaves({"w": torch.tensor([0.0, 0.1])}) == (A, B)
    # a guide that is not evaluated cannot break anything
    safe = table("safe", 0.2, 0.3, 0.5)
    assert torch.equal((safe * broken("bad") ** Knob("w")).next_log_probs(["x"], {"w": 0}), safe.next_log_probs(["x"]))


def test_the_reference_is_the_leftmost_leaf_even_when_it_is_divided_out():
    assert (A * B / C).reference == A
    assert ((A * B) ** 2 * C).reference == A
    assert (A / A * B).reference == A
    assert str(A / A * B) == "a^0 * b"


def test_grouping_does_not_matter():
    assert (A * B) * C == A * (B * C)
    assert (A * B) ** 2 * C == A**2 * (B**2 * C)


def test_exponents_of_exponents_stay_symbolic():
    inner, outer = Knob("inner"), Knob("outer")
    product = A * (B ** (1 - inner)) ** outer
    assert str(product) == "a * b^(-inner * outer + outer)"
    torch.testing.assert_close(
        log_probs(product, {"inner": 0.25, "outer": 2.0}), log_probs(A * B**1.5), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("product", "text"),
    [
        (A * B**1.5, "a * b^1.5"),
        (A * (B / C) ** 0.1, "a * b^0.1 / c^0.1"),
        (A**-1 * B, "a^-1 * b"),
        (A * B ** Knob("w"), "a * b^w"),
        (A * B ** -Knob("w"), "a * b^-w"),
        (A ** (1 - Knob("w")) * B ** (2 * Knob("w")), "a^(1 - w) * b^(2 * w)"),
        (A**1e-7 * B ** (1 / 3), "a^1e-07 * b^0.3333333333333333"),
    ],
)
def test_products_print_as_expressions(product, text):
    assert str(product) == text


# -- the formula ---------------------------------------------------------------------------------------------------


def test_the_formula_by_hand():
    # 0.5^2 * 0.2 / 0.4 : 0.3^2 * 0.3 / 0.3 : 0.2^2 * 0.5 / 0.3 = 0.125 : 0.09 : 0.0666...; times 600: 75 : 54 : 40
    product = table("p", 0.5, 0.3, 0.2) ** 2 * table("q", 0.2, 0.3, 0.5) / table("r", 0.4, 0.3, 0.3)
    expected = torch.tensor([[75 / 169, 54 / 169, 40 / 169]])
    torch.testing.assert_close(product.next_log_probs(["x"]).exp(), expected)


@settings(deadline=None, max_examples=30)
@given(exponents, exponents, exponents)
def test_results_are_normalised_and_order_does_not_matter(first, second, third):
    if not first or not second or not third:
        return
    one, other = log_probs(A**first * B**second * C**third), log_probs(C**third * A**first * B**second)
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.logsumexp(-1), torch.zeros(3), atol=1e-5, rtol=0)


def test_a_constant_added_to_a_factor_changes_nothing():
    product = A * B**2 / C
    said = {leaf: torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(i)) for i, leaf in enumerate((A, B, C))}
    moved = {leaf: values + 7.0 for leaf, values in said.items()}
    torch.testing.assert_close(product.combine(said, {}), product.combine(moved, {}), atol=1e-5, rtol=1e-5)


@settings(deadline=None, max_examples=20)
@given(st.lists(exponents, min_size=3, max_size=3))
def test_rows_with_their_own_knobs_equal_separate_runs(values):
    product = A * B ** Knob("w") / C ** (1 - Knob("w"))
    together = log_probs(product, [{"w": value} for value in values])
    for row, (prompt, value) in enumerate(zip(PROMPTS, values, strict=True)):
        alone = product.init([prompt], {"w": value})[0][0]
        torch.testing.assert_close(together[row], alone, atol=1e-5, rtol=1e-5)


def test_stepping_a_block_equals_one_prefill():
    product = A * B**0.5 / C
    _, state = product.init([[0, 1], [2]])
    block, _ = product.step(state, torch.tensor([[3, 4], [1, 0]]))
    torch.testing.assert_close(block[:, 1], product.init([[0, 1, 3, 4], [2, 1, 0]])[0])


# -- support -------------------------------------------------------------------------------------------------------


def test_a_zero_under_a_positive_exponent_kills_the_token():
    product = table("base", 0.5, 0.3, 0.2) * table("guide", 0.5, 0.0, 0.5)
    # 0.25 : 0 : 0.1
    torch.testing.assert_close(product.next_log_probs(["x"]).exp(), torch.tensor([[5 / 7, 0.0, 2 / 7]]))


@pytest.mark.parametrize("exponent", [-1.0, -Knob("w")])
@pytest.mark.parametrize("tail", [0.0, 1e-30])
def test_a_negative_exponent_floors_at_50_nats_under_the_row_maximum(tail, exponent):
    assert FLOOR == 50.0
    product = table("base", 0.25, 0.5, 0.25) * table("anti", 0.8, 0.2, tail) ** exponent
    log_probs = product.next_log_probs(["x"])[0]
    # z: log 0.25 - (log 0.8 - 50), x: log 0.25 - log 0.8, so they differ by 50; y: log 0.5 - log 0.2 = x + log 8
    assert (log_probs[2] - log_probs[0]).item() == pytest.approx(50.0, abs=1e-4)
    assert (log_probs[1] - log_probs[0]).item() == pytest.approx(math.log(8), abs=1e-4)


def test_a_negative_exponent_never_adds_support():
    product = table("base", 0.5, 0.5, 0.0) / table("anti", 0.5, 0.5, 0.0)
    assert product.next_log_probs(["x"])[0, 2] == -math.inf


def test_a_row_at_exponent_0_is_not_touched_by_the_guides_zeros():
    base, guide = table("base", 0.5, 0.3, 0.2), table("guide", 0.5, 0.0, 0.5)
    rows = (base * guide ** Knob("w")).init([[0], [0], [0]], [{"w": 0.0}, {"w": 1.0}, {"w": -1.0}])[0]
    torch.testing.assert_close(rows[0].exp(), torch.tensor([0.5, 0.3, 0.2]))
    torch.testing.assert_close(rows[1].exp(), torch.tensor([5 / 7, 0.0, 2 / 7]))
    assert rows[2].argmax() == 1


# -- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exponent", [1.0, -0.5, Knob("w")])
def test_nan_names_the_factor(exponent):
    with pytest.raises(PolicyError, match="NaN, \\+inf or no possible token from bad"):
        (table("good", 0.2, 0.3, 0.5) * broken("bad") ** exponent).next_log_probs(["x"])


def test_nan_is_found_in_the_only_factor_left():
    with pytest.raises(PolicyError, match="from bad"):
        (broken("bad") * table("good", 0.2, 0.3, 0.5) ** Knob("w")).next_log_probs(["x"], {"w": 0})


def test_supports_that_do_not_meet():
    with pytest.raises(PolicyError, match="no possible token"):
        (table("left", 1.0, 0.0, 0.0) * table("right", 0.0, 0.5, 0.5)).next_log_probs(["x"])


@pytest.mark.parametrize("product", [A / A, A**0, A ** Knob("w", 0.0)])
def test_a_product_of_nothing(product):
    with pytest.raises(PolicyError, match="every exponent 0"):
        log_probs(product)


def test_a_product_of_nothing_in_one_row_only():
    with pytest.raises(PolicyError, match="in every row"):
        log_probs(A ** Knob("w"), [{"w": 1.0}, {"w": 0.0}, {"w": 1.0}])


@pytest.mark.parametrize("exponent", [math.nan, math.inf, -math.inf, "2", True, None])
def test_exponents_that_are_no_numbers(exponent):
    with pytest.raises(KnobError):
        A**exponent


def test_equal_size_does_not_make_equal_tokens():
    other = Table.of({"": {f"s{i}": 0.2 for i in range(5)}}, name="other")
    for build in (lambda: A * other, lambda: A / other, lambda: A * other**0):
        with pytest.raises(VocabularyError, match="different tokens"):
            build()


def test_two_knobs_of_one_name():
    with pytest.raises(KnobError, match="two different knobs"):
        A ** Knob("w", 1.0) * B ** Knob("w", 2.0)
    assert [knob.name for knob in (A ** Knob("w") * B ** Knob("v")).knobs] == ["v", "w"]


@pytest.mark.parametrize("value", [3.5, -0.1, math.nan, math.inf])
def test_knob_values_out_of_range(value):
    with pytest.raises(KnobError, match=r"from 0\.0 to 3\.0"):
        log_probs(A * B ** Knob("w", 1.0, min=0.0, max=3.0), {"w": value})


def test_unknown_knobs_are_refused():
    with pytest.raises(KnobError, match="'v'"):
        log_probs(A * B ** Knob("w"), {"v": 1.0})
    with pytest.raises(KnobError, match="no knobs"):
        log_probs(A * B, {"v": 1.0})


def test_a_narrower_output_layer_narrows_the_product_whatever_the_knobs():
    """Two models of one tokenizer may have output layers of different width; the product has the smaller one."""
    narrow = replace(A, tokens=replace(A.tokens, size=4), label="narrow")
    product = A * narrow ** Knob("w")
    said = {A: torch.randn(2, 1, 5).log_softmax(-1), narrow: torch.randn(2, 1, 4).log_softmax(-1)}
    for value in (0.0, 1.0):
        log_probs = product.combine(said, {"w": torch.full((2,), value)})
        assert log_probs.shape == (2, 1, 4)
        torch.testing.assert_close(log_probs.logsumexp(-1), torch.zeros(2, 1), atol=1e-5, rtol=0)
