"""Parts of vectors by layer and by module."""

import pytest

from trimtab.errors import ConfigError
from trimtab.testing import tiny_lm, with_lora
from trimtab.vectors.combine import realise
from trimtab.vectors.extract import between
from trimtab.vectors.mask import layer_of, only


@pytest.fixture(scope="module")
def dense():
    return between(tiny_lm(seed=1), tiny_lm())


@pytest.fixture(scope="module")
def low():
    base = tiny_lm()
    return between(with_lora(base), base)


def test_layers(dense, low):
    for vector in (dense, low):
        part = only(vector, layers=[1])
        names = [*part.low_rank, *part.dense]
        assert len(names) == 7 and all(".layers.1." in name for name in names)
    assert set(only(dense, layers=range(2)).dense) == {name for name in dense.dense if ".layers." in name}


def test_modules(dense, low):
    assert len(only(dense, modules=["q_proj"]).dense) == 2
    assert len(only(dense, modules=["*.mlp.*"]).dense) == 6
    assert set(only(dense, modules=["lm_head", "embed_*"]).dense) == {"lm_head.weight", "model.embed_tokens.weight"}
    assert list(only(low, layers=[0], modules=["?_proj"]).low_rank) == [
        f"model.layers.0.self_attn.{each}_proj" for each in "qkvo"
    ]


def test_parts_add_up(low):
    first, second = (only(low, layers=[number]) for number in (0, 1))
    assert realise(first + second) == low
    assert first != second and "7 of 14 modules" in first.origin.made


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"layers": [2]}, r"layer 2.*\n.*\[0, 1\]"),
        ({"layers": [-1]}, "layer -1"),
        ({"modules": ["q_porj"]}, r"'q_porj'.*\n.*q_proj"),
        ({"layers": [0], "modules": ["lm_head"]}, "fit both"),
        ({"layers": []}, "fit both"),
        ({"modules": []}, "fit both"),
    ],
)
def test_parts_that_are_nothing(dense, settings, told):
    with pytest.raises(ConfigError, match=told):
        only(dense, **settings)


def test_numbers_of_layers():
    assert [layer_of(name) for name in ("h.3.attn.c_attn", "model.layers.10.mlp", "model.layers.2", "proj2.x")] == [
        3,
        10,
        2,
        None,
    ]
