import json
import math

import pytest

from trimtab.engines.base import AS_REFERENCE, REFERENCE
from trimtab.engines.vllm.plan import VARIABLE, Plan, factors, knobs_in, plan_of_environment
from trimtab.errors import ConfigError, KnobError, PolicyError
from trimtab.policies.knob import Exponent, Knob
from trimtab.policies.mixture import mix
from trimtab.policies.toy import Table

STRENGTH, CARE = Knob("strength", 1.0, min=0.0, max=3.0), Knob("care", 0.5, min=-1.0)
PLAN = Plan(
    ("base", "guide", "untuned"),
    (Exponent.of(1.0), Exponent.of(STRENGTH) + CARE * STRENGTH, -Exponent.of(STRENGTH)),
    100,
)


def test_exponents_follow_the_knobs_of_a_request():
    assert PLAN.weights({}) == (1.0, 1.5, -1.0)
    assert PLAN.weights({"strength": 2, "care": -1.0}) == (1.0, 0.0, -2.0)  # 2 + -1 * 2


def test_an_lm_is_floored_unless_no_request_can_divide_by_it():
    assert PLAN.floored == (False, True, True)  # care may be negative
    assert Plan(("a",), (Exponent.of(STRENGTH),), 1).floored == (False,)
    assert Plan(("a",), (Exponent.of(Knob("free")),), 1).floored == (True,)


def test_it_survives_json_with_open_ranges():
    text = PLAN.to_json()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert Plan.from_json(text) == PLAN


@pytest.mark.parametrize(
    "given",
    [
        {"strenght": 1.0},
        {"strength": math.nan},
        {"strength": math.inf},
        {"strength": -0.1},
        {"strength": 3.1},
        {"strength": "1"},
        {"strength": True},
        {"strength": None},
        {"strength": [1.0]},
        {"strength": {"strength": 1.0}},
        {"strength": 10**400},
        {"strength": 10**5000},
        {"care": 1e39},  # finite here, infinite in float32
    ],
)
def test_knobs_that_are_unknown_or_no_numbers_in_range_are_refused(given):
    with pytest.raises(KnobError):
        PLAN.weights(given)


def test_a_product_of_nothing_is_refused():
    with pytest.raises(PolicyError, match="every exponent 0"):
        Plan(("a",), (Exponent.of(STRENGTH),), 1).weights({"strength": 0.0})


def test_factors_are_the_lms_of_a_product_in_its_order():
    base, guide = Table.random(3, seed=0, name="base"), Table.random(3, seed=1, name="guide")
    assert factors(base) == ((base, Exponent.of(1.0)),)
    assert factors(base * guide**0.5 / base**0.25) == ((base, Exponent.of(0.75)), (guide, Exponent.of(0.5)))
    with pytest.raises(ConfigError, match="product of LMs"):
        factors(base * mix((0.5, base), (0.5, guide)))


def test_vllms_own_extra_arguments_are_no_knobs():
    assert knobs_in({"kv_transfer_params": {}, "strength": 1}) == {"strength": 1}
    assert knobs_in(None) == {}


def test_a_server_without_a_plan_says_how_to_start_it(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(ConfigError, match="trimtab vllm"):
        plan_of_environment()
    monkeypatch.setenv(VARIABLE, PLAN.to_json())
    assert plan_of_environment() == PLAN


def test_the_reference_is_asked_for_alone_and_by_nobody_who_sends_numbers():
    knob = Knob("strength", 1.0, min=-1.0, max=2.0)
    plan = Plan(("guide", "base"), (Exponent.of(knob), Exponent.of(1.0)), 100, reference=1)
    assert plan.weights(AS_REFERENCE) == (0.0, 1.0) == Plan.from_json(plan.to_json()).weights(AS_REFERENCE)
    for given in ({REFERENCE: 1}, {REFERENCE: 1.0}, {REFERENCE: "1"}, {**AS_REFERENCE, "strength": 1.0}):
        with pytest.raises(KnobError):
            plan.weights(given)
    with pytest.raises(PolicyError, match="metered=True"):
        Plan(("base",), (Exponent.of(1.0),), 100).weights(AS_REFERENCE)
    assert not REFERENCE.isidentifier()  # so no policy file has a knob of this name
