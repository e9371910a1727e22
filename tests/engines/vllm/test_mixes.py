import pytest
import torch

from trimtab.engines.vllm.mixes import Mixes
from trimtab.errors import ConfigError, UsageError
from trimtab.policies.lora_files import read_factors
from trimtab.policies.vector import LowRank, Origin, Vector


def vector(rank, seed, *modules, dense=False):
    """Return a vector of random factors, 4 columns and 3 rows a layer."""
    draw = torch.Generator().manual_seed(seed)
    low_rank = {
        name: LowRank(torch.randn(rank, 4, generator=draw), torch.randn(3, rank, generator=draw)) for name in modules
    }
    return Vector(low_rank, {"norm.weight": torch.ones(3)} if dense else {}, Origin("base", "here"), f"v{seed}")


@pytest.fixture
def mixes(tmp_path):
    return Mixes({"medical": vector(2, 0, "one", "two"), "legal": vector(3, 1, "two")}, tmp_path / "room")


def test_every_mix_has_one_name(mixes):
    assert mixes.name({"medical": 0.7, "legal": -0.3}) == "legal:-0.3+medical:0.7"
    assert mixes.name({"legal": -0.3, "medical": 0.7000001}) == "legal:-0.3+medical:0.7"
    assert mixes.name({"legal": -0.004, "medical": 1}) == "medical:1"
    assert mixes.name({"legal": 0.0}) == ""


def test_names_are_read_back_in_their_one_spelling_alone(mixes):
    assert mixes.read("legal:-0.3+medical:0.7") == {"legal": -0.3, "medical": 0.7}
    wrong = ["medical:0.7+legal:-0.3", "medical:0.70", "medical:.7", "medical:0.701", "medical:0", "medical:nan"]
    wrong += ["medical:inf", "medical:11", "other:1", "medical", "", "+", "medical:1+", "../medical:1", "medical:1e0"]
    wrong += ["medical:0.5+medical:0.5", "medical:1_0", "medical: 1", "medical:\u0661"]
    assert [mixes.read(name) for name in wrong] == [None] * len(wrong)


def test_a_mix_is_the_exact_sum(mixes):
    folder = mixes.write({"medical": 0.7, "legal": -0.3}, "base")
    found, (medical, legal) = read_factors(folder), mixes.vectors.values()
    assert found["two"].rank == 5
    torch.testing.assert_close(found["one"].dense(), 0.7 * medical.low_rank["one"].dense())
    expected = 0.7 * medical.low_rank["two"].dense() - 0.3 * legal.low_rank["two"].dense()
    torch.testing.assert_close(found["two"].dense(), expected)
    nothing = read_factors(mixes.write({"legal": 0.001}, "base"))
    assert [factors.dense().abs().max().item() for factors in nothing.values()] == [0.0]
    assert folder.parent == mixes.room and mixes.write({"medical": 0.7}, "base") != folder


@pytest.mark.parametrize("coefficients", [{"other": 1.0}, {"medical": float("nan")}, {"medical": 10.5}])
def test_wrong_coefficients_are_refused(mixes, coefficients):
    with pytest.raises(UsageError, match="legal, medical"):
        mixes.name(coefficients)


def test_the_rank_is_the_smallest_that_vllm_offers(tmp_path):
    assert Mixes({"a": vector(2, 0, "one"), "b": vector(7, 1, "one")}, tmp_path).rank == 16
    assert Mixes({"a": vector(2, 0, "one"), "b": vector(7, 1, "two")}, tmp_path).rank == 8


def test_what_no_lora_can_hold_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="sum to 513"):
        Mixes({"a": vector(512, 0, "one"), "b": vector(1, 1, "one")}, tmp_path)
    with pytest.raises(ConfigError, match="plain differences"):
        Mixes({"a": vector(1, 0, "one", dense=True)}, tmp_path)
