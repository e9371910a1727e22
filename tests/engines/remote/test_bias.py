"""Steering by bias: with every token listed it is the product, and with some of them it says how much of it."""

import httpx2
import pytest
import torch

from trimtab.decoding import Request, Sampling, SearchPlan, Settings, best_of_n
from trimtab.engines import REMOTE_BIAS, explain, generate, search
from trimtab.engines.base import drain
from trimtab.engines.remote import BiasEngine
from trimtab.engines.remote.listing import list_biases
from trimtab.errors import ConfigError, EndpointError, KnobError, PolicyError, PromptError, UsageError
from trimtab.policies.knob import Knob
from trimtab.policies.toy import Table
from trimtab.testing import tiny_lm
from trimtab.values import LogRatio

BASE, GUIDE, UNTUNED = (Table.random(8, seed=seed, end="t7", name=f"s{seed}") for seed in range(3))
W = Knob("w", 1.0, min=-2.0, max=3.0)
STEERING = (GUIDE / UNTUNED) ** W
PRODUCT = BASE * STEERING
PROMPTS = ["t0 t1", "t2", "t2"]


def engine_of(service, steering=STEERING, **settings):
    return BiasEngine(service.client(), "toy", steering, **settings)


@pytest.fixture(params=[{"most": 0, "ids": False}, {"most": 0}, {}], ids=["text", "prompts by id", "ids"])
def service(request, serve):
    return serve(BASE, **request.param)


def test_with_every_token_listed_it_is_the_product(service):
    knobs = [{"w": 2.0}, {}, {"w": -1.0}]
    engine = engine_of(service)
    assert engine.m == 8 and explain(PRODUCT, engine.abilities).verdict == "exact"
    found = generate(engine, PROMPTS, Settings(Sampling(0.0), max_new_tokens=8), n=2, knobs=knobs)
    expected = PRODUCT.generate(PROMPTS, n=2, max_new_tokens=8, temperature=0.0, knobs=knobs)
    for one, other in zip(found, expected, strict=True):
        assert (one.prompt, one.text, one.finish_reason) == (other.prompt, other.text, other.finish_reason)
        assert set(one.listed) <= {1.0} and len(one.listed) == len(one.token_ids)
        assert (one.log_probs, one.reference_log_probs, one.kl) == ((), (), ())
    assert {answer.finish_reason for answer in found} == {"length", "end"}


def test_what_it_draws_has_the_distribution_of_the_product(serve):
    base, guide, untuned = (Table.random(5, seed=seed, contexts=False, name=f"p{seed}") for seed in range(3))
    exact = (base * guide / untuned).next_log_probs(["t0"])[0].exp().tolist()
    engine = engine_of(serve(base, most=0), guide / untuned)
    answers = generate(engine, ["t0"], Settings(max_new_tokens=1, seed=0), n=400)
    seen = [sum(answer.token_ids == (token,) for answer in answers) for token in range(5)]
    chi_square = sum((count - 400 * p) ** 2 / (400 * p) for count, p in zip(seen, exact, strict=True))
    assert sum(seen) == 400 and chi_square < 18.5  # 99.9 % of 4 degrees of freedom


def test_a_seed_repeats_answers_whatever_runs_beside(serve):
    settings = Settings(max_new_tokens=5, seed=4)
    alone = generate(engine_of(serve(BASE)), PROMPTS[1:2], settings, n=3)
    assert generate(engine_of(serve(BASE), rows=3), PROMPTS, settings, n=3)[3:6] == alone
    beside = generate(engine_of(serve(BASE)), PROMPTS, settings, n=3)
    assert beside[3:6] == alone != beside[6:]


def test_requests_join_while_others_run_and_may_be_let_go(serve):
    engine = engine_of(serve(BASE), rows=4)
    endless = Settings(Sampling(0.0), max_new_tokens=6)
    first = engine.submit(Request((0,), n=2, knobs={"w": -1.0}), endless)
    engine.step()
    second = engine.submit(Request((2,), n=2), endless)
    third = engine.submit(Request((1,), n=2), endless)
    engine.step()
    engine.cancel(first)
    updates = []
    while engine.busy:
        updates += engine.step()
    told = {(update.ticket, update.number): update.answer for update in updates}
    assert len(told) == 6
    assert told[first, 0].finish_reason == "cancelled" and len(told[first, 0].token_ids) == 2
    for ticket, prompt in ((second, "t2"), (third, "t1")):
        (expected,) = PRODUCT.generate(prompt, max_new_tokens=6, temperature=0.0)
        assert told[ticket, 0].token_ids == told[ticket, 1].token_ids == expected.token_ids
    assert engine.step() == []


def test_stop_texts_end_answers(service):
    settings = Settings(Sampling(0.0), max_new_tokens=8)
    (whole,) = generate(engine_of(service), ["t2"], settings)
    stop = " ".join(whole.text.split()[1:3])
    (found,) = generate(engine_of(service), ["t2"], Settings(Sampling(0.0), max_new_tokens=8, stop=(stop,)))
    (expected,) = PRODUCT.generate("t2", max_new_tokens=8, temperature=0.0, stop=stop)
    assert (found.text, found.token_ids, found.finish_reason) == (expected.text, expected.token_ids, "stop")


def test_a_transformer_steers_with_its_cache(serve):
    base, guide, untuned = (tiny_lm(seed=seed, name=f"lm{seed}") for seed in range(3))
    policy = base * guide / untuned
    found = generate(
        engine_of(serve(base), guide / untuned), ["t1 t2", "t3"], Settings(Sampling(0.0), max_new_tokens=9), n=2
    )
    expected = policy.generate(["t1 t2", "t3"], n=2, max_new_tokens=9, temperature=0.0)
    assert [answer.token_ids for answer in found] == [answer.token_ids for answer in expected]


def test_it_can_be_searched_on(serve):
    engine = engine_of(serve(BASE))
    plan = SearchPlan(LogRatio(GUIDE, UNTUNED), best_of_n(4))
    (found,) = search(engine, "t0", plan, Settings(max_new_tokens=4, seed=0), knobs={"w": 0.5})
    assert len(found.hypotheses) == 4


def test_one_call_a_token_and_answer(serve):
    engine = engine_of(serve(BASE, several=False))
    before = engine.meter
    answers = generate(engine, PROMPTS, Settings(max_new_tokens=5, seed=0), n=2)
    used = engine.meter - before
    assert used.calls == sum(len(answer.token_ids) for answer in answers)


# -- which tokens are listed ----------------------------------------------------------------------------------------


def test_those_that_move_most_are_listed_and_the_others_keep_their_share():
    # Even stand-in, e^r = 8, 1, 1, 2: without the first the mean is 4/3, so the first gets log(8 / (4/3)) = log 6.
    steering = torch.tensor([[8.0, 1.0, 1.0, 2.0]]).log()
    (listing,) = list_biases(steering, torch.full((1, 4), 0.25), 1)
    assert listing.bias == {0: pytest.approx(1.7918, abs=1e-4)}
    # Moved: |8 - 4/3| = 20/3 of it is listed; 1/3 + 1/3 + 2/3 = 4/3 is not. 20 / 24.
    assert listing.share == pytest.approx(5 / 6, abs=1e-6)


def test_a_large_ratio_on_what_nobody_says_is_not_worth_a_place():
    steering = torch.tensor([[0.0, 5.0, -0.8, 0.0]])
    likely = torch.tensor([[0.6, 1e-7, 0.4, 0.0]])
    (listing,) = list_biases(steering, likely, 1)
    assert list(listing.bias) == [2]


def test_all_tokens_are_exact_whatever_they_are():
    steering = torch.tensor([[0.0, -torch.inf, 3.0], [1.0, 1.0, 1.0]])
    first, second = list_biases(steering, torch.full((2, 3), 1 / 3), 3)
    assert first.bias[1] == -100.0 and first.bias[2] - first.bias[0] == pytest.approx(3.0)
    assert first.share == second.share == 1.0


def test_where_only_the_listed_are_possible_all_others_stay_low():
    steering = torch.tensor([[0.0, -torch.inf, -torch.inf, -torch.inf]])
    (listing,) = list_biases(steering, torch.full((1, 4), 0.25), 1)
    assert listing.bias[0] > 40 and 0.99 < listing.share <= 1.0


def test_biases_are_from_minus_to_plus_100():
    steering = torch.tensor([[0.0, 500.0, -500.0]])
    (listing,) = list_biases(steering, torch.tensor([[0.5, 0.0, 0.5]]), 3)
    assert all(-100 <= value <= 100 for value in listing.bias.values())


def test_fewer_tokens_are_further_from_the_product(serve):
    base, guide, untuned = (Table.random(30, seed=seed, contexts=False, name=f"q{seed}") for seed in range(3))
    shares = []
    for m in (1, 5, 30):
        engine = engine_of(serve(base, most=0), guide / untuned, m=m)
        (answer,) = generate(engine, ["t0"], Settings(max_new_tokens=1, seed=0))
        shares.append(answer.listed[0])
    assert 0 < shares[0] < shares[1] < shares[2] == 1.0


# -- refusals and failures ------------------------------------------------------------------------------------------


def test_endpoints_and_settings_that_do_not_do_are_refused(serve):
    with pytest.raises(EndpointError, match="a bias on 0 tokens") as error:
        engine_of(serve(BASE, biases=0))
    assert "RemoteEngine" in error.value.hint
    with pytest.raises(EndpointError, match="a bias on 1 tokens") as error:
        engine_of(serve(BASE, biases=4), m=5)
    assert error.value.hint == "pass m=1 or less"
    for m in (0, True, 2.5):
        with pytest.raises(ConfigError, match="m="):
            engine_of(serve(BASE), m=m)
    with pytest.raises(ConfigError, match="rows=0"):
        engine_of(serve(BASE), rows=0)
    with pytest.raises(UsageError, match="as what steers"):
        engine_of(serve(BASE), serve(GUIDE, most=3).remote())


def test_requests_that_cannot_be_served_are_refused(serve):
    engine = engine_of(serve(BASE))
    for request, settings, error in (
        (Request((0,), knobs={"v": 1.0}), Settings(), KnobError),
        (Request((0,), knobs={"w": 9.0}), Settings(), KnobError),
        (Request((99,)), Settings(), PromptError),
        (Request((0,)), Settings(Sampling(top_k=2)), ConfigError),
        (Request((0,)), Settings(min_new_tokens=2), ConfigError),
    ):
        with pytest.raises(error):
            engine.submit(request, settings)
    assert not engine.busy
    with pytest.raises(PolicyError, match="every exponent 0"):
        engine_of(serve(BASE)).submit(Request((0,), knobs={"w": 0.0}), Settings())


def test_what_breaks_an_answer_breaks_that_one_alone(serve):
    service = serve(BASE)
    engine = engine_of(service)
    service.faults.append((400, b'{"error": {"message": "logit_bias is too long"}}'))
    (told,) = drain(engine, [(Request((0,), n=3), Settings(max_new_tokens=3, seed=0))])
    errors = [update.error for update in told if update.error is not None]
    assert len(errors) == 1 and "a bias on 8 tokens that was refused" in errors[0].given
    assert "too long" in errors[0].given and errors[0].hint == "pass a smaller m="
    assert sum(update.answer.finish_reason in ("length", "end") for update in told) == 2
    service.faults += [httpx2.ReadTimeout("slow", request=httpx2.Request("POST", "http://toy"))]
    with pytest.raises(EndpointError, match="in time"):
        generate(engine, ["t0"], Settings(max_new_tokens=3))
    service.faults += [(401, b"")]
    with pytest.raises(ConfigError, match="status 401"):
        generate(engine, ["t0"], Settings(max_new_tokens=3))
    service.faults += [(429, b"")]
    assert len(generate(engine, ["t0"], Settings(max_new_tokens=3))) == 1


def test_a_token_that_is_no_text_is_an_error(serve):
    service = serve(BASE, ids=False, most=0)
    engine = engine_of(service)
    service.edit = lambda route, body, answer: answer | {"choices": [{"text": "\ufffd", "finish_reason": "length"}]}
    with pytest.raises(EndpointError, match="half a character"):
        generate(engine, ["t0"], Settings(max_new_tokens=3))


def test_a_steering_that_is_broken_is_named(serve):
    nan = float("nan")
    broken = Table.of({"": {f"t{i}": 0.125 for i in range(8)}, "t1": {f"t{i}": nan for i in range(8)}}, end="t7")
    engine = engine_of(serve(BASE), broken)
    with pytest.raises(PolicyError, match="NaN"):
        generate(engine, ["t1"], Settings(max_new_tokens=3))


def test_its_abilities_say_how_many_tokens(serve):
    abilities = engine_of(serve(BASE), m=3).abilities
    assert (abilities.name, abilities.biases) == (REMOTE_BIAS.name, 3)
    assert explain(PRODUCT, abilities).verdict == "approximate by bias"
    assert "3 tokens" in explain(PRODUCT, abilities).worst.reason
