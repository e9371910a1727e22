"""Truncated decompositions: what they keep, what they leave alone, and what they report."""

from dataclasses import replace

import pytest
import torch

from trimtab.errors import ConfigError, ModelError
from trimtab.policies.vector import LowRank, Origin, Vector
from trimtab.testing import tiny_lm, with_lora
from trimtab.vectors.compress import compress
from trimtab.vectors.extract import between

Q = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def base():
    return tiny_lm()


@pytest.fixture(scope="module")
def dense(base):
    return between(tiny_lm(seed=1), base)


def of(difference, **others):
    return Vector({}, {f"{Q}.weight": difference, **others}, Origin("base", "nowhere"), "v")


def diagonal(*values):
    matrix = torch.zeros(32, 32)
    matrix[range(len(values)), range(len(values))] = torch.tensor(values)
    return matrix


@pytest.mark.parametrize(
    ("energy", "max_rank", "rank", "kept"),
    [
        # squares of 8, 4, 2 and 1 are 64, 16, 4 and 1, together 85
        (0.75, None, 1, 64 / 85),
        (0.76, None, 2, 80 / 85),
        (0.98, None, 3, 84 / 85),
        (0.99, None, 4, 1.0),
        (1.0, None, 4, 1.0),
        (0.99, 2, 2, 80 / 85),
    ],
)
def test_the_smallest_rank_with_enough_energy(base, energy, max_rank, rank, kept):
    small = compress(of(diagonal(8.0, -4.0, 2.0, 1.0)), energy=energy, max_rank=max_rank, base=base)
    (module,) = small.modules
    assert (module.module, module.rank, module.shape) == (Q, rank, (32, 32))
    assert module.energy == pytest.approx(kept) == small.energy
    expected = diagonal(*[8.0, -4.0, 2.0, 1.0][:rank])
    torch.testing.assert_close(small.vector.low_rank[Q].dense(), expected, atol=1e-5, rtol=0)
    assert small.parameters == (32 * 32, rank * 64)


def test_norms_embeddings_and_head_are_kept_as_they_were(base, dense):
    small = compress(dense, energy=0.9, base=base)
    assert set(small.vector.dense) == set(small.unchanged) == {"model.embed_tokens.weight", "lm_head.weight"}
    assert all(torch.equal(small.vector.dense[name], dense.dense[name]) for name in small.unchanged)
    assert len(small.vector.low_rank) == len(small.modules) == 14
    assert "truncated to 0.9 of" in small.vector.origin.made and small.vector.origin.base == dense.origin.base


def test_the_kept_energy_is_measured_on_the_result(base, dense):
    small = compress(dense, energy=0.8, base=base)
    whole = sum(float(each.double().square().sum()) for each in dense.dense.values())
    lost = 0.0
    for module in small.modules:
        difference = dense.dense[f"{module.module}.weight"]
        error = float((small.vector.low_rank[module.module].dense() - difference).double().square().sum())
        assert 1 - error / float(difference.double().square().sum()) == pytest.approx(module.energy, abs=1e-5)
        assert module.energy >= 0.8
        lost += error
    assert small.energy == pytest.approx(1 - lost / whole, abs=1e-5)


def test_an_exactly_low_rank_vector_gets_its_rank_back(base):
    """Sums of adapters have ranks that add up, of which compressing keeps what there is."""
    guide = with_lora(base, "compressed")
    vector = between(guide, base)
    doubled = {
        name: LowRank(torch.cat([f.down, f.down]), torch.cat([f.up, -0.5 * f.up], 1))
        for name, f in vector.low_rank.items()
    }
    small = compress(replace(vector, low_rank=doubled), energy=1.0, base=base)
    assert {factors.rank for factors in small.vector.low_rank.values()} == {2} and not small.vector.dense
    for name, factors in vector.low_rank.items():
        torch.testing.assert_close(small.vector.low_rank[name].dense(), 0.5 * factors.dense(), atol=1e-5, rtol=0)


def test_both_forms_of_one_module_become_one(base):
    both = replace(of(diagonal(2.0)), low_rank={Q: LowRank(torch.eye(1, 32), torch.eye(32, 1))})
    small = compress(both, base=base)
    torch.testing.assert_close(small.vector.low_rank[Q].dense(), diagonal(3.0))
    assert not small.vector.dense and small.modules[0].rank == 1


def test_factors_of_what_is_no_linear_layer_stay(base):
    head = replace(of(diagonal(1.0)), low_rank={"lm_head": LowRank(torch.ones(1, 32), torch.ones(13, 1))})
    small = compress(head, base=base)
    assert small.vector.low_rank["lm_head"] is head.low_rank["lm_head"] and small.unchanged == ("lm_head.weight",)


def test_the_report_can_be_written(base, dense):
    small = compress(dense, energy=0.9, base=base)
    measured = replace(small, log_prob_error=0.01).about()
    assert measured["log_prob_error"] == 0.01 and len(measured["modules"]) == 14
    assert measured["modules"][Q]["rank"] == small.vector.low_rank[Q].rank


def test_progress_is_told(base, dense):
    told = []
    compress(dense, energy=0.5, base=base, on_module=lambda done, of: told.append((done, of)))
    assert told == [(i + 1, 14) for i in range(14)]


@pytest.mark.parametrize("settings", [{"energy": 0.0}, {"energy": 1.1}, {"energy": float("nan")}, {"max_rank": 0}])
def test_numbers_out_of_range(base, dense, settings):
    with pytest.raises(ConfigError):
        compress(dense, base=base, **settings)


def test_a_base_that_is_nowhere():
    with pytest.raises(ModelError, match="nowhere"):
        compress(of(diagonal(1.0)))
