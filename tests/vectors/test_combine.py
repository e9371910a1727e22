"""Sums, TIES, DARE and interpolation against numbers worked out by hand."""

import math

import pytest
import torch
from peft.utils.merge_utils import ties as peft_ties

from trimtab.errors import ConfigError, KnobError, ModelError
from trimtab.policies.knob import Knob
from trimtab.policies.vector import LowRank, Origin, Vector
from trimtab.testing import tiny_lm, with_lora
from trimtab.vectors.combine import dare, inner, realise, slerp, ties
from trimtab.vectors.extract import between
from trimtab.vectors.whole import whole

HERE = Origin("base", "somewhere")


def vector(*values, name="x", origin=HERE):
    return Vector({}, {name: torch.tensor(values)}, origin, name)


def factors(*, rank=2, out=4, into=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return LowRank(torch.randn(rank, into, generator=generator), torch.randn(out, rank, generator=generator))


def low(module="lin", **shape):
    return Vector({module: factors(**shape)}, {}, HERE, module)


# -- sums ----------------------------------------------------------------------------------------------------------


def test_low_rank_sums_are_exact_without_cross_terms():
    """Adding A's and B's on their own would give B1 A2 + B2 A1 too."""
    a, b = low(seed=1, rank=2), low(seed=2, rank=3)
    one = realise(0.7 * a - 2.0 * b)
    expected = 0.7 * a.low_rank["lin"].dense() - 2.0 * b.low_rank["lin"].dense()
    assert one.low_rank["lin"].rank == 5 and not one.dense
    torch.testing.assert_close(one.low_rank["lin"].dense(), expected, atol=1e-6, rtol=1e-5)


def test_modules_of_one_alone_and_plain_differences():
    a, b = low("a"), Vector({"b": factors(seed=3)}, {"x": torch.tensor([1.0, 2.0]), "y": torch.ones(1)}, HERE, "b")
    c = vector(10.0, 20.0)
    one = realise(2.0 * a + 3.0 * b + 0.5 * c)
    assert set(one.low_rank) == {"a", "b"} and list(one.dense) == ["x", "y"]
    assert one.dense["x"].tolist() == [3 * 1 + 5, 3 * 2 + 10] and one.dense["y"].tolist() == [3]
    torch.testing.assert_close(one.low_rank["b"].dense(), 3 * b.low_rank["b"].dense())


def test_both_forms_of_one_module_add_up():
    a, b = low(), vector(*torch.ones(4, 3).tolist(), name="lin.weight")
    one = realise(2.0 * a - b)
    torch.testing.assert_close(whole(one)["lin.weight"], 2 * a.low_rank["lin"].dense() - 1)
    assert list(whole(one)) == ["lin.weight"] and len(whole(one)) == 1


def test_a_sum_is_the_sum_of_the_models():
    base = tiny_lm()
    guide = with_lora(base, "summed")
    a, b = between(guide, base), between(tiny_lm(seed=1), base)
    one = realise(0.5 * a + 0.25 * b)
    name = "model.layers.0.mlp.up_proj"
    expected = 0.5 * a.low_rank[name].dense() + 0.25 * b.dense[f"{name}.weight"]
    torch.testing.assert_close(whole(one)[f"{name}.weight"], expected)


def test_a_sum_says_where_it_comes_from():
    a = vector(1.0, origin=Origin("base", "somewhere", "medical", "expert"))
    b = vector(2.0, origin=Origin("base", "somewhere", "legal", "expert"))
    origin = realise(a + b).origin
    assert (
        origin.base == "base" and origin.level == "expert" and set(origin.domain.split(" + ")) == {"medical", "legal"}
    )


def test_what_is_asked_for_is_computed_then():
    class Reading(dict):
        def __getitem__(self, name):
            raise AssertionError("read too early")

    lazy = Vector({}, Reading(x=None), HERE, "lazy")
    lazy.__dict__["digest"] = "known"
    one = realise(2.0 * lazy)
    assert "x" in one.dense and len(one.dense) == 1
    with pytest.raises(AssertionError, match="too early"):
        one.dense["x"]
    with pytest.raises(KeyError):
        one.dense["y"]


def test_what_cannot_be_summed():
    a = vector(1.0)
    with pytest.raises(KnobError, match="bind the knob"):
        realise(Knob("w") * a)
    with pytest.raises(ModelError, match="nothing is left"):
        realise(a - a)
    with pytest.raises(ModelError, match=r"elsewhere[^a]*\n.*one base|somewhere.*elsewhere|elsewhere.*somewhere"):
        realise(a + vector(2.0, origin=Origin("other", "elsewhere")))


# -- TIES ----------------------------------------------------------------------------------------------------------


def test_ties_by_hand():
    """Top half of six values each, then signs, then means over those that agree.

    a = 6 -5  4 -1  .5  .1  -> 6 -5  4  0  0  0
    b = 2  7 -8  9  .5  .1  -> 0  7 -8  9  0  0
    sums: 6, 2, -4, 9 -> signs + + - +;  means: 6, 7, -8, 9: disagreeing values are left out, not averaged in
    """
    a, b = vector(6.0, -5.0, 4.0, -1.0, 0.5, 0.1), vector(2.0, 7.0, -8.0, 9.0, 0.5, 0.1)
    assert ties(a + b, density=0.5).dense["x"].tolist() == [6, 7, -8, 9, 0, 0]
    # all values: 6 + 2 agree, then as above; -1 is outvoted by 9
    assert ties(a + b, density=1.0).dense["x"].tolist() == pytest.approx([4, 7, -8, 9, 0.5, 0.1])


def test_ties_weighs_after_signs_are_elected():
    """-3 outvotes 2, though 10 * 2 would outvote -3; the mean is over one vector: 1 * -3."""
    assert ties(10 * vector(2.0) + vector(-3.0), density=1.0).dense["x"].tolist() == [-3]
    # both agree: (10 * 2 + 1 * 3) / 2
    assert ties(10 * vector(2.0) + vector(3.0), density=1.0).dense["x"].tolist() == [11.5]


def test_a_subtracted_vector_votes_for_the_other_sign():
    # 2 and -(5) = -5: minus wins, and the mean is over -5 alone
    assert ties(vector(2.0) - vector(5.0), density=1.0).dense["x"].tolist() == [-5]


def test_ties_trims_over_the_whole_vector_not_tensor_by_tensor():
    """The three largest of six values are all in one tensor; trimming each tensor would keep values of both."""
    a = Vector({}, {"big": torch.tensor([7.0, -8.0, 9.0]), "small": torch.tensor([1.0, 2.0, 3.0])}, HERE, "a")
    merged = ties(1.0 * a, density=0.5)
    assert merged.dense["big"].tolist() == [7, -8, 9] and merged.dense["small"].tolist() == [0, 0, 0]


def test_ties_on_one_tensor_is_that_of_peft():
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(30, 20, generator=generator) for _ in range(3)]
    vectors = [Vector({}, {"x": tensor}, HERE, f"v{i}") for i, tensor in enumerate(tensors)]
    found = ties(0.5 * vectors[0] + 2.0 * vectors[1] + vectors[2], density=0.3).dense["x"]
    expected = peft_ties(tensors, torch.tensor([0.5, 2.0, 1.0]), 0.3)
    torch.testing.assert_close(found, expected)


def test_ties_takes_low_rank_vectors_and_tensors_that_one_alone_changes():
    a, b = low(), vector(*torch.full((4, 3), 0.01).tolist(), name="lin.weight")
    c = vector(50.0)
    merged = ties(a + b + c, density=1.0)
    assert not merged.low_rank and list(merged.dense) == ["lin.weight", "x"] and merged.dense["x"].tolist() == [50]
    product = a.low_rank["lin"].dense()
    agreeing = (product + 0.01) / 2
    expected = torch.where(product > 0, agreeing, torch.where(product + 0.01 >= 0, 0.01, product))
    torch.testing.assert_close(merged.dense["lin.weight"], expected)


@pytest.mark.parametrize("density", [0.01, 0.2, 0.5, 0.999, 1.0])
def test_the_threshold_is_the_exact_order_statistic(density):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(1000, generator=generator) * 10.0 ** torch.randint(-20, 5, (1000,), generator=generator)
    kept = ties(1.0 * Vector({}, {"a": values[:300], "b": values[300:]}, HERE), density=density)
    count = int(density * 1000)
    assert sum(int(kept.dense[name].count_nonzero()) for name in "ab") == count
    smallest = min(
        float(kept.dense[name][kept.dense[name] != 0].abs().min()) for name in "ab" if kept.dense[name].any()
    )
    assert smallest == float(values.abs().sort(descending=True).values[count - 1])


# -- DARE ----------------------------------------------------------------------------------------------------------


def test_dare_drops_and_rescales():
    values = torch.randn(10_000, generator=torch.Generator().manual_seed(0)) + 5
    v = Vector({}, {"x": values}, HERE)
    found = dare(2.0 * v, density=0.25).dense["x"]
    kept = found != 0
    torch.testing.assert_close(found[kept], values[kept] * 2 / 0.25)
    # 2500 expected; the standard deviation is sqrt(10000 * .25 * .75) = 43
    assert abs(int(kept.sum()) - 2500) < 5 * 43
    assert dare(2.0 * v, density=1.0).dense["x"].tolist() == (2 * values).tolist()


def test_dare_is_the_same_whenever_and_in_whatever_order_it_is_asked_for():
    a = Vector({}, {"x": torch.ones(100), "y": torch.ones(100)}, HERE, "a")
    b = Vector({}, {"x": torch.full((100,), 3.0)}, HERE, "b")
    merged = dare(a + b, seed=4)
    first = merged.dense["x"]
    assert not torch.equal(merged.dense["y"], first)
    assert torch.equal(merged.dense["x"], first) and torch.equal(dare(b + a, seed=4).dense["x"], first)
    assert not torch.equal(dare(a + b, seed=5).dense["x"], first)
    # each has its own mask: of 100 values some come from a alone (2), b alone (6), both (8) and none
    assert set(first.tolist()) == {0.0, 2.0, 6.0, 8.0}
    state = torch.random.get_rng_state()
    merged.dense["x"]
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("method", [ties, dare])
@pytest.mark.parametrize("density", [0.0, -0.1, 1.1, float("nan")])
def test_densities_out_of_range(method, density):
    with pytest.raises(ConfigError, match="density"):
        method(1.0 * vector(1.0), density=density)


# -- interpolation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0.0, 0.25, 0.5, 1.0, 1.5])
def test_slerp_between_perpendicular_vectors_is_a_circle(t):
    found = realise(slerp(vector(3.0, 0.0), vector(0.0, 3.0), t)).dense["x"].tolist()
    assert found == pytest.approx([3 * math.cos(t * math.pi / 2), 3 * math.sin(t * math.pi / 2)], abs=1e-5)


def test_slerp_at_60_degrees():
    """Halfway at 60 degrees both have sin(30) / sin(60) = 1 / sqrt(3)."""
    a, b = vector(1.0, 0.0), vector(0.5, math.sqrt(0.75))
    for _, coefficient in slerp(a, b, 0.5).parts:
        assert coefficient.constant == pytest.approx(1 / math.sqrt(3))


def test_slerp_is_over_the_whole_vector_and_keeps_low_rank():
    a, b = low(seed=1), low(seed=2)
    assert realise(slerp(a, b, 0.3)).low_rank["lin"].rank == 4
    assert inner(a, b) == pytest.approx(float((a.low_rank["lin"].dense() * b.low_rank["lin"].dense()).sum()), rel=1e-5)
    assert inner(low("one"), low("other")) == 0


def test_slerp_along_one_direction_is_a_line():
    assert realise(slerp(vector(1.0, 1.0), vector(3.0, 3.0), 0.5)).dense["x"].tolist() == pytest.approx([2, 2])


def test_slerp_needs_an_arc():
    with pytest.raises(ConfigError, match=r"180\.00 degrees"):
        slerp(vector(1.0, 2.0), vector(-1.0, -2.0), 0.5)
    with pytest.raises(ConfigError, match="t=nan"):
        slerp(vector(1.0), vector(2.0), float("nan"))
    with pytest.raises(ModelError, match="all zero"):
        slerp(vector(0.0), vector(2.0), 0.5)
    with pytest.raises(ModelError, match="one base"):
        slerp(vector(1.0), vector(2.0, origin=Origin("other", "elsewhere")), 0.5)
