"""Plans of a search: what they are made of, and that every setting arrives."""

from typing import get_args

import pytest

from trimtab.decoding import (
    Sampling,
    SearchPlan,
    Settings,
    Uncertain,
    chunk_beam,
    deal,
    rad,
    rejection,
    search,
    sentences,
    vas,
)
from trimtab.decoding.search_plan import build_plan, build_shape, build_value
from trimtab.errors import ConfigError, VocabularyError
from trimtab.policies.knob import Knob
from trimtab.policies.search_method import Method
from trimtab.policies.search_settings import SearchSettings
from trimtab.policies.toy import Table
from trimtab.values import LogRatio, PrefixValue, RewardValue

TABLES = {name: Table.random(6, seed=seed, end="t5", name=name) for seed, name in enumerate("abc")}
PLAN = SearchPlan(LogRatio(TABLES["b"], TABLES["c"]), chunk_beam(2, 3, 2))


@pytest.mark.parametrize(
    "changed",
    [
        {"max_new_tokens": 3},
        {"min_new_tokens": 7},
        {"stop": ("t2",)},
        {"stop_ids": (2,)},
        {"seed": 9},
        {"temperature": 0.0},
        {"top_k": 2},
        {"top_p": 0.3},
        {"min_p": 0.5},
        {"repetition_penalty": 5.0},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_every_setting_arrives(changed):
    plain = {"max_new_tokens": 12, "seed": 1}
    own = {name: value for name, value in changed.items() if name in Settings.__dataclass_fields__}
    sampling = Sampling(**{name: value for name, value in changed.items() if name not in own})
    found = PLAN.find(TABLES["a"], ["t1", "t3 t2"], Settings(sampling, **{**plain, **own}))
    asked = {**plain, **changed}
    asked["stop"] = (*asked.get("stop", ()), *asked.pop("stop_ids", ()))
    assert found == search(TABLES["a"], ["t1", "t3 t2"], PLAN.value, PLAN.shape, **asked)
    assert found != PLAN.find(TABLES["a"], ["t1", "t3 t2"], Settings(**plain))


def test_knobs_arrive():
    policy = TABLES["a"] * TABLES["b"] ** Knob("w", 1.0)
    settings = Settings(max_new_tokens=8, seed=1)
    without = PLAN.find(policy, ["t1"], settings, {"w": 0.0})
    assert [each.best.token_ids for each in without] == [
        each.best.token_ids for each in PLAN.find(TABLES["a"], ["t1"], settings)
    ]
    assert without != PLAN.find(policy, ["t1"], settings)


def test_every_method_has_a_shape():
    for method in get_args(Method):
        settings = SearchSettings(method=method, value="b / c", beams=2, branches=3, chunk=2, threshold=0.5)
        plan = build_plan(settings, TABLES.__getitem__)
        assert plan.value == PLAN.value
        assert search(TABLES["a"], "t1", plan.value, plan.shape, max_new_tokens=4, seed=0)[0].hypotheses


@pytest.mark.parametrize(
    ("method", "more", "shape"),
    [
        ("chunk_beam", {"beams": 2, "branches": 3, "chunk": 2}, PLAN.shape),
        ("chunk_beam", {"chunk": "sentence"}, chunk_beam(chunk=sentences())),
        ("rejection", {"threshold": 2, "chunk": "entropy:1.5"}, rejection(2.0, 4, Uncertain(1.5))),
        ("deal", {}, deal(4, 4, 5, 1.0)),
        ("deal", {"beams": 2, "chunk": "7", "likelihood": 0.5}, deal(2, 4, 7, 0.5)),
        ("rad", {}, rad(4)),
        ("vas", {"branches": 7, "weight": 0.0}, vas(7, 0.0)),
    ],
)
def test_every_number_arrives_where_it_counts(method, more, shape):
    assert build_shape(SearchSettings(method=method, value="b / c", **more)) == shape


@pytest.mark.parametrize("chunk", ["paragraph", "entropy:", "entropy:0", "-3", ""])
def test_chunks_that_end_nowhere_are_told_before_a_model_is_loaded(chunk):
    with pytest.raises(ConfigError, match=r"chunk|entropy"):
        build_plan(SearchSettings(method="smc", value="nobody", chunk=chunk), TABLES.__getitem__)


def test_values_are_made_of_texts():
    assert build_value("b / c", TABLES.__getitem__) == PLAN.value
    assert build_value("a", TABLES.__getitem__) == PrefixValue(TABLES["a"])
    assert isinstance(build_value("reward:repetition", TABLES.__getitem__), RewardValue)
    with pytest.raises(ConfigError, match="applause"):
        build_value("reward:applause", TABLES.__getitem__)
    with pytest.raises(VocabularyError):
        build_value("a / other", {**TABLES, "other": Table.random(5, seed=0)}.__getitem__)
