"""Players on an engine: the base's own costs, what KL is estimated from, and where it is not known."""

import math
from dataclasses import replace

import pytest

from trimtab.decoding.request import Settings
from trimtab.decoding.sampling import Sampling
from trimtab.decoding.search_plan import SearchPlan
from trimtab.decoding.shape import best_of_n
from trimtab.engines.base import REFERENCE
from trimtab.engines.local import LocalEngine
from trimtab.engines.turns import Turns
from trimtab.evaluation.compare import compare, compare_players
from trimtab.evaluation.engine_player import EnginePlayer
from trimtab.evaluation.measure import ESTIMATED_KL
from trimtab.evaluation.report import write_report
from trimtab.evaluation.table import tabulate
from trimtab.policies.knob import Knob
from trimtab.policies.toy import Table
from trimtab.policies.view import View
from trimtab.rewards import FunctionReward, Length
from trimtab.values import RewardValue

BASE = Table.of({"": {"good": 0.5, "bad": 0.5}, "bad": {"good": 0.2, "bad": 0.8}}, name="base")
GUIDE = Table.of({"": {"good": 0.8, "bad": 0.2}}, name="guide")
POLICY = BASE * GUIDE ** Knob("strength", 1.0)
JUDGE = FunctionReward(lambda completions, **_: [float(text.split().count("good")) for text in completions], "goods")
SETTINGS = Settings(max_new_tokens=2, seed=1)


class Twofold:
    """Runs a policy and its reference side by side, and tells neither KL nor costs under the reference."""

    def __init__(self, policy, log=None):
        self.own, self.reference = (LocalEngine(each, metered=False) for each in (policy, policy.reference))
        self.base, self.closed, self.scored = policy.reference, False, 0
        self.vocabulary, self.abilities = policy.vocabulary, self.own.abilities
        self.tickets = {}

    @property
    def busy(self):
        return self.own.busy or self.reference.busy

    def submit(self, request, settings, *, stream=False):
        asked = REFERENCE in request.knobs
        engine = self.reference if asked else self.own
        ticket = engine.submit(replace(request, knobs={}) if asked else request, settings, stream=stream)
        self.tickets[engine, ticket] = len(self.tickets)
        return len(self.tickets) - 1

    def cancel(self, ticket):
        for (engine, own), mine in self.tickets.items():
            if mine == ticket:
                engine.cancel(own)

    def step(self):
        updates = []
        for engine in (self.own, self.reference):
            for update in engine.step() if engine.busy else ():
                answer = update.answer and replace(update.answer, reference_log_probs=(), kl=())
                updates.append(replace(update, ticket=self.tickets[engine, update.ticket], answer=answer))
        return updates

    def score(self, texts):
        self.scored += len(texts)
        return [
            tuple(
                self.base.init([[*prompt, *answer[:place]]])[0][0, token].item() for place, token in enumerate(answer)
            )
            for prompt, answer in texts
        ]

    def close(self):
        self.closed = True


@pytest.fixture
def engine():
    return Twofold(POLICY)


def players(engine, **steered):
    made = {
        name: EnginePlayer("base * guide^strength", BASE.vocabulary, lambda: engine, **each)
        for name, each in steered.items()
    }
    return {"base": EnginePlayer("base", BASE.vocabulary, lambda: engine), **made}


def run(asked, **changes):
    arguments = {"reward": Length(2), "judges": [JUDGE], "settings": SETTINGS, "n": 400} | changes
    return compare_players(asked, ["bad", "good bad"], **arguments)


OWN = {"knobs": frozenset({"strength"})}


def test_an_estimate_is_near_the_exact_kl_and_says_that_it_is_one(engine, tmp_path):
    found = run(players(engine, steered=OWN), knobs={"strength": 2.0, "other": 1.0})
    base, steered = found.results
    exact = compare(
        {"base": BASE, "steered": POLICY},
        ["bad", "good bad"],
        reward=Length(2),
        judges=[JUDGE],
        settings=SETTINGS,
        n=400,
        knobs={"strength": 2.0},
    ).results[1]
    assert base.kl == 0.0 and base.estimated and steered.estimated and not exact.estimated
    assert steered.kl == pytest.approx(exact.kl, rel=0.15) and steered.proposal_kl == steered.kl
    assert steered.kl != exact.kl and all(answer.kl == () for answer in steered.answers)
    assert [a.token_ids for a in steered.answers] == [
        a.token_ids for a in exact.answers
    ]  # the toy engine is the local one
    for one, two in zip(steered.answers, exact.answers, strict=True):
        assert one.reference_log_probs == pytest.approx(two.reference_log_probs, abs=1e-6)
    assert steered.perplexity == pytest.approx(exact.perplexity, abs=1e-6)
    assert engine.scored == 800  # the base's answers are not read again

    table = tabulate(found, [ESTIMATED_KL], {})
    assert table.lines[1].numbers["KL, estimated"].mean == pytest.approx(steered.kl)
    assert "an estimate" in table.to_dict()["measures"][0]["note"] and found.to_dict()["results"][1]["estimated"]
    page = write_report(tmp_path / "report.html", found).read_text()
    assert "KL to the base, estimated" in page and "exact" not in page and "log-ratio" in page


@pytest.mark.parametrize(
    "settings",
    [
        replace(SETTINGS, sampling=Sampling(temperature=0.5)),
        replace(SETTINGS, sampling=Sampling(top_p=0.9)),
        replace(SETTINGS, sampling=Sampling(repetition_penalty=1.2)),
        replace(SETTINGS, min_new_tokens=1),
    ],
)
def test_kl_is_not_known_where_tokens_were_not_drawn_from_the_policy(engine, settings):
    found = run(players(engine, steered=OWN), settings=settings, n=2)
    assert [(result.kl, result.proposal_kl) for result in found.results] == [(None, None)] * 2
    assert all(math.isfinite(result.perplexity) for result in found.results)
    assert tabulate(found, [ESTIMATED_KL], {}).lines[1].numbers["KL, estimated"] is None


def test_each_answer_is_the_best_of_a_search_of_its_own(engine):
    plan = SearchPlan(
        RewardValue(FunctionReward(lambda completions, **_: [float("bad" in c) for c in completions], "bads")),
        best_of_n(4),
    )
    asked = players(engine, steered=OWN, searched=OWN | {"search": plan}, best={"search": plan})
    _, steered, searched, best = run(asked, n=20).results
    assert searched.searched and searched.kl is searched.proposal_kl is None and best.kl is None
    assert (steered.proposed, searched.proposed) == (80, 320)
    assert len({answer.text for answer in searched.answers}) > 1  # other random numbers for each
    assert searched.reward == best.reward == 1.0 and math.isfinite(searched.perplexity)
    assert all("bad" in answer.text for answer in best.answers)
    assert best.answers[0].reference_log_probs == best.answers[0].log_probs  # the base proposed them


def test_a_text_before_the_prompt_is_seen_by_who_answers_alone(engine):
    seen = {"view": View(tuple(BASE.vocabulary.encode("good")))}
    prompts = ["bad"] * 1
    asked = players(engine, shown=seen)
    found = compare_players(asked, prompts, reward=Length(2), judges=[JUDGE], settings=SETTINGS, n=4).results[1]
    assert {answer.prompt for answer in found.answers} == {"bad"}
    texts = [(BASE.vocabulary.encode("bad"), answer.token_ids) for answer in found.answers]
    assert [answer.reference_log_probs for answer in found.answers] == engine.score(texts)
    own = [((*BASE.vocabulary.encode("good"), *ids), tokens) for ids, tokens in texts]
    for answer, costs in zip(found.answers, engine.score(own), strict=True):
        assert answer.log_probs == pytest.approx(costs, abs=1e-6)


def test_engines_take_turns():
    started = []
    turns = Turns(lambda policy: started.append(Twofold(policy)) or started[-1])
    one, two = turns.of(POLICY), turns.of(BASE)
    assert started == []
    assert one() is one() and len(started) == 1
    second = two()
    assert [each.closed for each in started] == [True, False]
    turns.close()
    turns.close()
    assert second.closed and len(started) == 2
