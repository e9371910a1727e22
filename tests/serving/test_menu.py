"""The menu: clients name what the operator has loaded, within limits."""

import threading
import time
from collections import OrderedDict

import pytest

from trimtab.errors import ConfigError, ExpressionError, KnobError, VocabularyError
from trimtab.policies.policy_file import PolicyFile
from trimtab.policies.toy import Table
from trimtab.serving.limits import Limits
from trimtab.serving.menu import Menu, _shown, read_alias
from trimtab.serving.refusals import NotFoundError
from trimtab.values import LogRatio


@pytest.fixture
def menu(tables):
    file, models, _ = tables
    limits = Limits(policies=3, leaves=2, expression=200)
    return Menu.load("kind", PolicyFile.model_validate(file), models.__getitem__, limits, vectors={})


def test_an_alias_sets_knobs_and_the_request_goes_before_it(menu):
    assert menu.order("kind@strength=1.5", {}, None).knobs == {"strength": 1.5}
    assert menu.order("kind@strength=1.5", {"strength": 2.0}, None).knobs == {"strength": 2.0}
    assert menu.order("kind", {}, None).policy == menu.policy


@pytest.mark.parametrize(
    "model",
    [
        *("kind@", "kind@strength", "kind@strength=", "kind@strength=1,", "kind@strength=1,strength=2"),
        *("kind@strength=nan", "kind@strength=1e999", "kind@strength=--1", "kind@__class__=1", "kind@strength=4"),
        *("kind@other=1", "kind@strength=1;import os"),
    ],
)
def test_what_is_no_alias_is_refused(menu, model):
    with pytest.raises(KnobError):
        menu.order(model, {}, None)


@pytest.mark.parametrize("model", ["", "Kind", "gpt-4", "../kind", "kind/", "base", "x" * 400])
def test_unknown_models_are_not_found(menu, model):
    with pytest.raises(NotFoundError, match="kind, reference"):
        menu.order(model, {}, None)


def test_the_reference_is_the_base_and_takes_no_knobs_of_others(menu, tables):
    assert menu.order("reference", {}, None).policy == tables[1]["base"]
    with pytest.raises(ConfigError, match="a policy for the model reference"):
        menu.order("reference", {}, "base * guide")


def test_a_client_writes_policies_over_the_operators_names(menu, tables):
    base, guide = tables[1]["base"], tables[1]["guide"]
    assert menu.order("kind", {}, "base * guide^0.5").policy == base * guide**0.5
    bound = menu.order("kind", {"strength": 2.0}, "base * guide^strength")
    assert bound.knobs == {"strength": 2.0}
    with pytest.raises(KnobError):
        menu.order("kind", {"strength": 2.0}, "base * guide")


@pytest.mark.parametrize(
    "expression",
    [
        *("smollm2-135m", "/etc/passwd", "base * other", "base.__class__", "__import__('os')", "base * 'a'", ""),
        *("base *", "(" * 60 + "base", "{{ base }}", "base\x00"),
    ],
)
def test_nothing_else_can_be_named(menu, expression):
    with pytest.raises(ExpressionError):
        menu.order("kind", {}, expression)


def test_what_clients_write_is_measured_from_the_operators_base(menu, tables):
    _, models, _ = tables
    policy = menu.order("kind", {}, "guide").policy
    assert policy.reference == menu.policy.reference == models["base"]
    prompt = [[0]]
    assert policy.init(prompt)[0].equal(models["guide"].init(prompt)[0])
    assert menu.order("kind", {}, "base * guide").policy == models["base"] * models["guide"]


def test_policies_are_limited_in_length_and_models(menu, tables):
    with pytest.raises(ConfigError, match="201 characters"):
        menu.parsed("base" + " " * 197)
    file = PolicyFile.model_validate({**tables[0], "models": {"base": "base", "guide": "guide", "third": "base"}})
    third = Table.random(6, seed=3, end="t5", name="third")
    models = {**tables[1], "third": third}
    sources = iter(models.values())
    wide = Menu.load("kind", file, lambda _: next(sources, models["base"]), menu.limits, vectors={})
    with pytest.raises(ConfigError, match="runs 3 models"):
        wide.parsed("base * guide * third")


def test_the_oldest_policy_is_forgotten(menu):
    for power in range(1, 9):
        menu.parsed(f"base * guide^{power}")
        menu.parsed("base * guide^1")
    assert [*menu._parsed] == ["base * guide^7", "base * guide^8", "base * guide^1"]


class Interrupted(OrderedDict):
    """A memory in the midst of which other threads run."""

    def move_to_end(self, key, last=True):
        time.sleep(0.001)
        super().move_to_end(key, last)


def test_many_threads_may_write_policies(menu):
    failed, menu._parsed = [], Interrupted()

    def write(start):
        try:
            for i in range(20):
                menu.parsed(f"base * guide^{(start + i) % 5 + 1}")
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == [] and len(menu._parsed) == 3


def test_searches_score_by_two_of_the_models(menu, tables):
    base, guide = tables[1]["base"], tables[1]["guide"]
    assert menu.scorer("base / guide") == LogRatio(base, guide)
    assert menu.scorer(None) == menu.scorer("guide / base") == menu.value == LogRatio(guide, base)
    for wrong in ("sentiment", "base / other", "base * guide", "a.py:reward"):
        with pytest.raises(ConfigError):
            menu.scorer(wrong)


def test_without_a_value_searches_have_to_name_one(tables):
    file = PolicyFile.model_validate({key: each for key, each in tables[0].items() if key != "search"})
    menu = Menu.load("kind", file, tables[1].__getitem__, Limits(), vectors={})
    with pytest.raises(ConfigError, match="without a value"):
        menu.scorer(None)


@pytest.mark.parametrize("name", ["reference", "", "a b", "kind@1", "é", "x" * 81])
def test_names_that_clients_could_not_use_are_refused(tables, name):
    with pytest.raises(ConfigError, match="--name"):
        Menu.load(name, PolicyFile.model_validate(tables[0]), tables[1].__getitem__, Limits(), vectors={})


def test_models_have_to_speak_the_same_tokens(tables):
    other = {"base": tables[1]["base"], "guide": Table.random(7, seed=0)}
    with pytest.raises(VocabularyError):
        Menu.load("kind", PolicyFile.model_validate(tables[0]), other.__getitem__, Limits(), vectors={})


def test_strangers_see_no_folders_of_this_machine(tables):
    sources = {"models": {"base": "/home/me/secret/base", "guide": "guide"}}
    file = PolicyFile.model_validate({**tables[0], **sources, "search": None})
    models = {"/home/me/secret/base": tables[1]["base"], "guide": tables[1]["guide"]}
    menu = Menu.load("kind", file, lambda name: models.get(name) or tables[1][name], Limits(), vectors={})
    assert "secret" not in str(menu.to_dict("local", (), 20))


def test_an_alias_is_read_as_it_is_written():
    assert read_alias("a@b=-1.5e1,c=.5") == ("a", {"b": -15.0, "c": 0.5})


def test_sources_elsewhere_are_not_shown():
    shown = ["/home/me/guide", "~/guide", "../team/guide", "http://10.0.0.5:8000/v1", "org/name", "smollm2-135m"]
    assert [_shown(source) for source in shown] == [
        "guide",
        "guide",
        "guide",
        "an endpoint",
        "org/name",
        "smollm2-135m",
    ]


def test_knobs_beside_the_reference_have_to_be_there(menu):
    assert menu.order("reference@strength=1", {}, None).knobs == {}
    with pytest.raises(KnobError):
        menu.order("reference@nonsense=1", {}, None)
