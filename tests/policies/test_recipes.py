"""What holds for every recipe: strengths may be knobs, bad input is refused. Numbers are in tests/oracles."""

import inspect
import math

import pytest
import torch

from trimtab.errors import ConfigError, VocabularyError
from trimtab.policies import recipes
from trimtab.policies.expression import parse
from trimtab.policies.knob import Knob
from trimtab.policies.recipes import (
    anchored,
    cfg,
    contrastive,
    dera,
    detoxigen,
    dexperts,
    eft,
    genarm,
    ipa,
    mod,
    proxy_tuning,
)
from trimtab.policies.toy import Table


def table(name, *probabilities):
    return Table.of({"": dict(zip("abc", probabilities, strict=True))}, name=name)


BASE = table("base", 0.5, 0.3, 0.2)
GUIDE = table("guide", 0.2, 0.3, 0.5)
TUNED = table("tuned", 0.5, 0.25, 0.25)
UNTUNED = table("untuned", 0.25, 0.5, 0.25)

BUILDERS = {
    "ipa": lambda w: ipa(BASE, GUIDE, w),
    "anchored": lambda w: anchored(BASE, TUNED, UNTUNED, w),
    "eft": lambda w: eft(BASE, TUNED, UNTUNED, w),
    "proxy_tuning": lambda w: proxy_tuning(BASE, TUNED, UNTUNED, w),
    "dera": lambda w: dera(BASE, GUIDE, w),
    "contrastive": lambda w: contrastive(BASE, GUIDE, beta=w),
    "cfg": lambda w: cfg(BASE, GUIDE, w),
    "dexperts": lambda w: dexperts(BASE, TUNED, UNTUNED, w),
    "mod": lambda w: mod([BASE, GUIDE], [w, 1.0]),
    "genarm": lambda w: genarm(BASE, [GUIDE], [w]),
    "detoxigen": lambda w: detoxigen(BASE, GUIDE, w),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_every_strength_may_be_a_knob(name):
    build = BUILDERS[name]
    knobbed = build(Knob("w", 1.0))
    for value in (0.5, 1.5):
        torch.testing.assert_close(
            knobbed.next_log_probs(["a"], {"w": value}), build(value).next_log_probs(["a"]), atol=1e-5, rtol=1e-5
        )
    assert knobbed.reference == BASE


def test_lists_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="2 policies and 1 weights"):
        mod([BASE, GUIDE], [1.0])
    with pytest.raises(ConfigError, match="no policies"):
        mod([], [])
    with pytest.raises(ConfigError, match="1 policies and 2 weights"):
        genarm(BASE, [GUIDE], [1.0, 2.0])


@pytest.mark.parametrize("top_p", [0.0, -0.1, 1.1, math.nan])
def test_shares_out_of_range_are_refused(top_p):
    with pytest.raises(ConfigError, match="top_p"):
        dexperts(BASE, TUNED, UNTUNED, 1, top_p)
    with pytest.raises(ConfigError, match="alpha"):
        contrastive(BASE, GUIDE, alpha=top_p)


@pytest.mark.parametrize("name", ["ipa", "dera", "cfg", "contrastive", "detoxigen"])
def test_other_tokens_are_refused(name):
    other = Table.of({"": {"x": 0.5, "y": 0.3, "z": 0.2}}, name="other")
    recipe = {"ipa": ipa, "dera": dera, "cfg": cfg, "contrastive": contrastive, "detoxigen": detoxigen}[name]
    with pytest.raises(VocabularyError):
        recipe(BASE, other, 0.5)


def test_every_recipe_is_in_this_table():
    public = {name for name, value in vars(recipes).items() if inspect.isfunction(value) and name[0] != "_"}
    assert {name for name in public if vars(recipes)[name].__module__ == recipes.__name__} == set(BUILDERS)


@pytest.mark.parametrize("name", BUILDERS)
def test_every_docstring_has_the_same_parts(name):
    text = inspect.getdoc(vars(recipes)[name])
    places = [text.index(part) for part in ("Args:", "Returns:", "Raises:", "Example:", "Reference:", "Deviations:")]
    assert places == sorted(places)


@pytest.mark.parametrize("name", BUILDERS)
def test_every_recipe_can_be_written_as_an_expression(name):
    strength = Knob("w", 0.5)
    policy = BUILDERS[name](strength)
    models = {leaf.name: leaf for leaf in (BASE, GUIDE, TUNED, UNTUNED)}
    assert parse(str(policy), models, {"w": strength}) == policy
