import json
import math

import pytest

from trimtab.decoding.request import Settings
from trimtab.errors import ConfigError, PromptError
from trimtab.evaluation import compare
from trimtab.policies.toy import Table
from trimtab.rewards import FunctionReward, Keywords, Length

BASE = Table.of({"": {"good": 0.5, "bad": 0.5}}, name="base")
GUIDE = Table.of({"": {"good": 0.8, "bad": 0.2}}, name="guide")
REWARD = Length(2)
JUDGE = FunctionReward(lambda completions, **_: [float(text.split().count("good")) for text in completions], "goods")


def run(policies, prompts=("bad", "good bad"), **changes):
    arguments = {"reward": REWARD, "judges": [JUDGE], "settings": Settings(max_new_tokens=2, seed=1), "n": 200}
    return compare(policies, prompts, **(arguments | changes))


def test_every_number_of_a_table_policy_is_what_exact_enumeration_gives():
    found = run({"base": BASE, "tailored": BASE * GUIDE})
    base, tailored = found.results
    assert (base.name, tailored.name, found.base) == ("base", "tailored", base)
    # Uniform base: every token costs ln 2 whoever samples it, so the perplexity under the base is 2.
    assert base.perplexity == pytest.approx(2.0) and tailored.perplexity == pytest.approx(2.0)
    # The product is (.8, .2) at every step: KL = .8 ln 1.6 + .2 ln .4
    assert base.kl == 0.0
    assert tailored.kl == pytest.approx(0.8 * math.log(1.6) + 0.2 * math.log(0.4), abs=1e-6)
    # Two tokens an answer: 2 * .5 and 2 * .8 good ones; 400 answers, standard error of the mean below 0.036
    assert base.judges["goods"] == pytest.approx(1.0, abs=0.15)
    assert tailored.judges["goods"] == pytest.approx(1.6, abs=0.15)
    assert base.reward == 1.0  # two words where two are asked for
    assert base.length == 2.0
    # One word pair an answer, of which four are different
    assert base.distinct_2 == pytest.approx(4 / 400)
    assert tailored.tokens_per_second > 0


def test_answers_pair_up_by_place():
    found = run({"base": BASE, "tailored": BASE * GUIDE}, n=3)
    for result in found.results:
        assert [answer.prompt for answer in result.answers] == ["bad"] * 3 + ["good bad"] * 3
        assert len(result.rewards) == 6


def test_a_policy_with_another_reference_is_measured_under_the_base():
    other = Table.of({"": {"good": 0.999, "bad": 0.001}}, name="other")
    _, result = run({"base": BASE, "other": other}).results
    assert result.kl == 0.0  # to its own reference, itself
    assert result.perplexity == pytest.approx(2.0)  # under the base; under itself it would be near 1


def test_the_same_seed_gives_the_same_answers():
    first, again, another = (
        run({"base": BASE}, settings=Settings(max_new_tokens=4, seed=seed), n=4).base.answers for seed in (1, 1, 2)
    )
    assert first == again != another


def test_it_turns_into_json():
    found = json.loads(json.dumps(run({"base": BASE}, n=1).to_dict()))
    assert found["judges"] == ["goods"] and found["results"][0]["answers"][0]["prompt"] == "bad"


def test_a_judge_that_is_the_reward_is_refused():
    with pytest.raises(ConfigError, match="shares length"):
        run({"base": BASE}, judges=[Keywords(("good",)), Length(2)])


def test_no_policies_and_no_prompts_are_refused():
    with pytest.raises(ConfigError, match="no policies"):
        run({})
    with pytest.raises(PromptError, match="no prompts"):
        run({"base": BASE}, prompts=[])
