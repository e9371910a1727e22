"""Token-wise searches: weight 0 is sampling, values tilt it as the papers' formulas say, read or looked up alike."""

import math
from collections import Counter
from dataclasses import dataclass

import pytest
import torch

from trimtab.decoding import Candidates, args, cd, fudge, rad, search, vas
from trimtab.decoding.trace import Node, Trace
from trimtab.decoding.trail import MOST
from trimtab.errors import ConfigError, PolicyError, PromptError, RewardError, VocabularyError
from trimtab.policies.advance import sequence_log_probs
from trimtab.policies.knob import Knob
from trimtab.policies.toy import Table
from trimtab.policies.trunk import Trunk
from trimtab.testing import tiny_lm, with_lora
from trimtab.values import LogRatio, PerToken, PrefixValue, RewardValue, Sum

BASE = Table.random(6, seed=0, end="t5", name="base")
TUNED, UNTUNED = (Table.random(6, seed=seed, end="t5", name=f"table{seed}") for seed in (1, 2))
VALUE = LogRatio(TUNED, UNTUNED)
GUIDED = BASE * (TUNED / UNTUNED) ** Knob("w", 0.5)
PROMPTS = ["t1 t2", "t3", "t1 t2"]
DRAWS = 4000


def ids(answer):
    return list(answer.token_ids)


def last_word(rewards):
    """Reward texts by their last word."""
    return RewardValue(lambda completions, **_: [rewards[text.split()[-1]] for text in completions])


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a)


def chi_square(counts, shares):
    total = sum(counts.values())
    assert set(counts) <= set(shares)
    return sum((counts[key] - total * share) ** 2 / (total * share) for key, share in shares.items())


@dataclass(frozen=True)
class Reading:
    """A value that has to read every candidate, though the one inside need not."""

    value: object

    granularity, additive = "token", False

    @property
    def leaves(self):
        return self.value.leaves

    def watched(self, running):
        return self.value.watched(running)

    def start(self, prompts, vocabulary, watched):
        return ReadingState(self.value.start(prompts, vocabulary, watched))


@dataclass(frozen=True)
class ReadingState:
    state: object

    def select(self, rows):
        return ReadingState(self.state.select(rows))

    def extend(self, chunk):
        scores, state = self.state.extend(chunk)
        return scores, ReadingState(state)

    def ahead(self, tokens, heard):
        return None


# -- weight 0 is sampling --------------------------------------------------------------------------------------------

SETTINGS = [
    {},
    {"temperature": 0},
    {"temperature": 0.7, "repetition_penalty": 1.4},
    {"top_p": 0.8, "min_new_tokens": 5},
    {"min_p": 0.2, "stop": "t3"},
    {"stop": [2, "t4 t1"]},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("value", [VALUE, Reading(VALUE)], ids=["looked up", "read"])
@pytest.mark.parametrize("policy", [BASE, GUIDED], ids=["base", "guided"])
def test_weight_0_is_sampling(policy, value, settings):
    """With the same random numbers, among all tokens and among k: with top_k=k the same cuts come first."""
    for k, top_k in ((None, 0), (3, 3), (4, 3)):
        shared = {"max_new_tokens": 9, "seed": 3, "top_k": top_k, **settings}
        found = search(policy, PROMPTS, value, Candidates(k, weight=0.0), **shared)
        assert [each.best for each in found] == policy.generate(PROMPTS, **shared)
        if k is None and not settings:  # tokens are drawn from the policy itself
            for each in found:
                assert each.kl == pytest.approx(each.best.kl, abs=1e-6)


def test_only_the_k_likeliest_are_drawn():
    dice = Table.of({"": {"a": 0.4, "b": 0.3, "c": 0.2, "d": 0.1}})
    found = search(dice, ["a"] * DRAWS, last_word(dict.fromkeys("abcd", 1.0)), args(2), max_new_tokens=1, seed=0)
    counts = Counter(each.best.text for each in found)
    assert chi_square(counts, {"a": 4 / 7, "b": 3 / 7}) < 10.8  # one in a thousand with 1 degree of freedom
    # KL(q || p) = log 1/0.7 when q is p without what was cut; the policy's own is 0
    assert found[0].kl == pytest.approx((math.log(1 / 0.7),), abs=1e-6) and found[0].best.kl == (0.0,)


# -- the papers' formulas --------------------------------------------------------------------------------------------

ABC = Table.of({"": {"a": 0.5, "b": 0.3, "c": 0.2}})


@pytest.mark.parametrize(
    ("k", "weight", "best"),
    [
        (2, 1.0, "a"),  # log .5 = -.693 over log .3 + .4 = -.804
        (2, 2.0, "b"),  # log .3 + .8 = -.404
        (3, 1.0, "c"),  # log .2 + 2 = .391
        (1, 9.0, "a"),  # no choice
    ],
)
def test_args_takes_the_best_sum_of_log_probability_and_reward(k, weight, best):
    rewards = last_word({"a": 0.0, "b": 0.4, "c": 2.0})
    (found,) = search(ABC, "a", rewards, args(k, weight), temperature=0, max_new_tokens=3)
    assert found.best.text == " ".join([best] * 3)
    assert found.hypotheses[0][1] == {"a": 0.0, "b": pytest.approx(0.4), "c": 2.0}[best]
    assert len(found.trace.nodes) == 3 * k and [node.depth for node in found.trace.nodes[::k]] == [0, 1, 2]
    assert found.kl == pytest.approx([-math.log({"a": 0.5, "b": 0.3, "c": 0.2}[best])] * 3, abs=1e-6)


def test_args_divides_the_whole_score_by_the_temperature():
    """softmax of (log .5, log .3 + .4) / .5: weights .25 and .09 e^.8 = .200299; so a has .555178."""
    rewards = last_word({"a": 0.0, "b": 0.4, "c": 2.0})
    found = search(ABC, ["a"] * DRAWS, rewards, args(2), temperature=0.5, max_new_tokens=1, seed=0)
    assert chi_square(Counter(each.best.text for each in found), {"a": 0.555178, "b": 0.444822}) < 10.8
    assert found[0].kl[0] == pytest.approx(kl((0.555178, 0.444822), (0.5, 0.3)), abs=1e-5)


def test_rad_clamps_rewards():
    """Rewards -3 and 5 count as 0 and 1: weights .5 and .3 e^2 = 2.216717; so b has .815954."""
    rewards = last_word({"a": -3.0, "b": 5.0, "c": 0.5})
    found = search(ABC, ["a"] * DRAWS, rewards, rad(2, weight=2.0), max_new_tokens=1, seed=1)
    assert chi_square(Counter(each.best.text for each in found), {"a": 0.184046, "b": 0.815954}) < 10.8
    assert found[0].kl[0] == pytest.approx(kl((0.184046, 0.815954), (0.5, 0.3)), abs=1e-5)
    assert {node.score for node in found[0].trace.nodes} == {-3.0, 5.0}  # told as they are


def test_fudge_gives_the_posterior():
    """P(A) of aa, ab, ba, bb is .9, .2, .5, .1; so of a .3 * .9 + .7 * .2 = .41, and of b .9 * .5 + .1 * .1 = .46.

    The joint .6 * .3 * .9 = .162, .6 * .7 * .2 = .084, .4 * .9 * .5 = .18 and .4 * .1 * .1 = .004 sums to P(A) = .43.
    """
    table = Table.of({"": {"s": 1.0}, "s": {"a": 0.6, "b": 0.4}, "a": {"a": 0.3, "b": 0.7}, "b": {"a": 0.9, "b": 0.1}})
    right = {"a": 0.41, "b": 0.46, "a a": 0.9, "a b": 0.2, "b a": 0.5, "b b": 0.1}
    value = RewardValue(lambda completions, **_: [math.log(right[text]) for text in completions])
    found = search(table, ["s"] * DRAWS, value, fudge(k=None), max_new_tokens=2, seed=0)
    joint = {"a a": 0.162 / 0.43, "a b": 0.084 / 0.43, "b a": 0.18 / 0.43, "b b": 0.004 / 0.43}
    assert chi_square(Counter(each.best.text for each in found), joint) < 16.3  # 3 degrees of freedom
    first = kl((0.246 / 0.43, 0.184 / 0.43), (0.6, 0.4))
    second = {"a": kl((0.27 / 0.41, 0.14 / 0.41), (0.3, 0.7)), "b": kl((0.45 / 0.46, 0.01 / 0.46), (0.9, 0.1))}
    for each in found[:20]:
        assert each.kl == pytest.approx((first, second[each.best.text[0]]), abs=1e-5)


def test_cd_over_all_tokens_is_the_product():
    base, head = tiny_lm(), tiny_lm(seed=5, name="value")
    product = base * head**0.7
    for settings in ({}, {"temperature": 0.8, "min_new_tokens": 4}, {"temperature": 0}):
        shared = {"max_new_tokens": 8, "seed": 2, **settings}
        found = search(base, PROMPTS, PrefixValue(head), cd(weight=0.7), **shared)
        answers = product.generate(PROMPTS, **shared)
        assert [ids(each.best) for each in found] == [ids(answer) for answer in answers]
        if not settings:  # answers' meters are of the unwarped product, those of choices of what is drawn from
            for each, answer in zip(found, answers, strict=True):
                assert each.kl == pytest.approx(answer.kl, abs=1e-4)
        first = [node for node in found[0].trace.nodes if node.depth == 0]
        values = torch.tensor([node.score for node in sorted(first, key=lambda node: int(node.text[1:]))])
        if len(values) == base.vocabulary.size:  # an early end is no candidate
            tilted = (base.next_log_probs(PROMPTS[:1])[0] + 0.7 * values).log_softmax(-1)
            assert torch.allclose(tilted, product.next_log_probs(PROMPTS[:1])[0], atol=1e-4)


def test_a_constant_added_to_all_values_changes_nothing():
    shifted = Sum(((1.0, VALUE), (1.0, RewardValue(lambda completions, **_: [7.0] * len(completions)))))
    plain, other = (search(BASE, PROMPTS, v, vas(4), max_new_tokens=9, seed=0) for v in (VALUE, shifted))
    assert [each.best for each in plain] == [each.best for each in other]


# -- values that are looked up, and values that read -----------------------------------------------------------------


def looked_up():
    base = tiny_lm()
    tuned, other = with_lora(base), tiny_lm(seed=3, name="other")
    pair, head = LogRatio(tuned, base), PrefixValue(tiny_lm(seed=5, name="value"))
    guided = base * (tuned / base) ** 0.5
    return {
        "head": (base, head),
        "pair that reads": (other, pair),
        "pair that is heard": (guided, pair),
        "sum": (base, Sum(((0.5, head), (2.0, pair)))),
        "per token": (guided, PerToken(Sum(((1.0, pair),)))),
    }


@pytest.mark.parametrize("name", ["head", "pair that reads", "pair that is heard", "sum", "per token"])
def test_looking_up_is_reading(name):
    policy, value = looked_up()[name]
    shared = {"max_new_tokens": 7, "seed": 1}
    found = search(policy, PROMPTS, value, cd(5), **shared)
    for max_rows in (64, 4):  # all candidates of a step at once, and four by four
        read = search(policy, PROMPTS, Reading(value), cd(5), max_rows=max_rows, **shared)
        for a, b in zip(found, read, strict=True):
            assert ids(a.best) == ids(b.best) and a.hypotheses[0][1] == pytest.approx(b.hypotheses[0][1], abs=1e-4)
            assert [node.text for node in a.trace.nodes] == [node.text for node in b.trace.nodes]
            scores = [[node.score for node in each.trace.nodes] for each in (a, b)]
            assert scores[0] == pytest.approx(scores[1], abs=1e-4)


@pytest.mark.parametrize("policy", [BASE, GUIDED], ids=["read", "heard"])
def test_scores_are_those_of_whole_answers(policy):
    for each in search(policy, PROMPTS, VALUE, cd(4), max_new_tokens=8, seed=5):
        ((answer, score),) = each.hypotheses
        prompt = BASE.vocabulary.encode(answer.prompt)
        both = [float(sequence_log_probs(model, [prompt], [ids(answer)])[0].sum()) for model in (TUNED, UNTUNED)]
        assert score == pytest.approx(both[0] - both[1], abs=1e-4)
        kept = [node for node in each.trace.nodes if node.kept]
        assert kept[-1].score == score and kept[-1].finish == answer.finish_reason
        assert len(kept) == len(each.kl) == len(answer.token_ids)
        assert [node.parent for node in kept] == [None, *(node.number for node in kept[:-1])]


def count_forwards(monkeypatch):
    """Count the forwards of each trunk, by their rows."""
    counted, step = {}, Trunk.step

    def counting(self, state, tokens):
        counted.setdefault(self.identity, []).append(tuple(tokens.shape))
        return step(self, state, tokens)

    monkeypatch.setattr(Trunk, "step", counting)
    return counted


def test_forwards_per_token(monkeypatch):
    """N = 2 prompts, k = 3, 4 tokens: the last token is not fed, as in sampling."""
    counted, base, head = count_forwards(monkeypatch), tiny_lm(), tiny_lm(seed=5, name="value")
    shared = {"max_new_tokens": 4, "min_new_tokens": 4, "seed": 0}
    search(base, PROMPTS[:2], PrefixValue(head), args(3), **shared)
    assert counted == {base.trunk.identity: [(2, 1)] * 3, head.trunk.identity: [(2, 1)] * 3}
    counted.clear()
    search(base, PROMPTS[:2], Reading(PrefixValue(head)), args(3), **shared)
    assert counted == {base.trunk.identity: [(2, 1)] * 3, head.trunk.identity: [(6, 1)] * 4}
    counted.clear()
    search(base, PROMPTS[:2], Reading(PrefixValue(head)), args(3), max_rows=4, **shared)
    assert counted == {
        base.trunk.identity: [(2, 1)] * 3,
        head.trunk.identity: [(4, 1), (2, 1), (2, 1)] * 3 + [(4, 1), (2, 1)],
    }
    counted.clear()
    asked = []
    value = RewardValue(lambda completions, **_: [asked.append(len(completions)) or 0.0] * len(completions))
    search(base, PROMPTS[:2], value, args(3), **shared)
    assert counted == {base.trunk.identity: [(2, 1)] * 3} and asked == [6] * 4


def test_a_pair_that_guides_is_not_run_again(monkeypatch):
    base = tiny_lm()
    tuned = with_lora(base)
    counted = count_forwards(monkeypatch)
    search(base * (tuned / base) ** 0.5, "t1", LogRatio(tuned, base), cd(5), max_new_tokens=4, min_new_tokens=4, seed=0)
    assert counted == {base.trunk.identity: [(1, 1)] * 3}


# -- prompts, rows and random numbers --------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [VALUE, Reading(VALUE)], ids=["looked up", "read"])
def test_a_prompt_finds_the_same_alone_and_with_others(value):
    together = search(BASE, PROMPTS[:2], value, cd(3), max_new_tokens=9, seed=7)
    alone = [search(BASE, prompt, value, cd(3), max_new_tokens=9, seed=7)[0] for prompt in PROMPTS[:2]]
    one_by_one = search(BASE, PROMPTS[:2], value, cd(3), max_new_tokens=9, seed=7, max_rows=1)
    for a, b, c in zip(together, alone, one_by_one, strict=True):
        assert ids(a.best) == ids(b.best) == ids(c.best)


def test_the_seed_decides():
    first, again, other = (search(BASE, PROMPTS, VALUE, cd(4), max_new_tokens=20, seed=seed) for seed in (0, 0, 1))
    assert first == again != other


def test_every_prompt_has_its_own_knobs():
    knobs = [{"w": 0.0}, {"w": 2.0}, {"w": -1.0}]
    together = search(GUIDED, ["t1", "t2", "t3"], VALUE, cd(4), max_new_tokens=6, seed=0, knobs=knobs)
    for prompt, setting, each in zip(["t1", "t2", "t3"], knobs, together, strict=True):
        (alone,) = search(GUIDED, prompt, VALUE, cd(4), max_new_tokens=6, seed=0, knobs=setting)
        assert ids(each.best) == ids(alone.best)


def test_answers_end_where_they_may():
    short = RewardValue(lambda completions, **_: [-float(len(text.split())) for text in completions])
    (found,) = search(BASE, "t1", short, args(6, 50.0), temperature=0, min_new_tokens=3, max_new_tokens=9)
    assert len(found.best.token_ids) == 4 and found.best.finish_reason == "end"
    (found,) = search(BASE, "t1", short, args(6, -50.0), temperature=0, max_new_tokens=9)
    assert len(found.best.token_ids) == 9 and found.best.finish_reason == "length"
    rewards = last_word({"a": 0.0, "b": 1.0, "c": 0.0})
    (found,) = search(ABC, "a", rewards, args(3, 50.0), temperature=0, max_new_tokens=9, min_new_tokens=2, stop="b")
    assert len(found.best.token_ids) == 3 and found.best.finish_reason == "stop"
    assert found.best.text.split() == ["b", "b"] and found.trace.nodes[-2].finish == "stop"


# -- traces ----------------------------------------------------------------------------------------------------------


def test_traces_show_the_likeliest_of_very_many_candidates():
    wide = Table.random(MOST + 50, seed=0, contexts=False)
    rarest = wide.next_log_probs(["t0"])[0].argmin()
    value = last_word({f"t{i}": float(i == rarest) for i in range(wide.vocabulary.size)})
    (found,) = search(wide, "t0", value, cd(weight=50.0), temperature=0, max_new_tokens=2)
    assert ids(found.best) == [rarest] * 2
    assert len(found.trace.nodes) == 2 * (MOST + 1) and found.trace.nodes[MOST].kept


def test_deep_traces_print():
    nodes = [Node(i, i - 1 if i else None, i, "t", 1, 0.5, 1, None) for i in range(1500)]
    lopsided = [*nodes, Node(1500, None, 0, "u", 1, math.nan, 0, None), Node(1501, None, 0, "v", 1, 0.1, 0, None)]
    assert [node.text for level, node in Trace(tuple(lopsided)).walk() if not level] == ["t", "v", "u"]
    assert str(Trace(tuple(nodes))).count("\n") == 1499


# -- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"top_k": 0}, "k=0"),
        ({"top_k": -3}, "k=-3"),
        ({"weight": math.nan}, "weight=nan"),
        ({"weight": math.inf}, "weight=inf"),
        ({"clamp": (1.0, 0.0)}, "clamp"),
        ({"clamp": (math.nan, 0.0)}, "clamp"),
    ],
)
def test_settings_that_make_no_sense(wrong, told):
    with pytest.raises(ConfigError, match=told):
        Candidates(**wrong)


def test_more_candidates_than_tokens_are_refused():
    with pytest.raises(ConfigError, match="k=7 candidates out of 6"):
        search(BASE, "t1", VALUE, args(7))


def test_values_of_finished_answers_are_refused():
    value = RewardValue(lambda completions, **_: [0.0] * len(completions), finished_only=True)
    for each in (value, Sum(((1.0, VALUE), (1.0, value)))):
        with pytest.raises(ConfigError, match="best_of_n"):
            search(BASE, "t1", each, args(3))


def test_values_over_other_tokens_are_refused():
    other = Table.of({"": dict.fromkeys(["u0", "u1", "u2", "u3", "u4", "u5"], 1 / 6)})
    for value in (LogRatio(other, other), PrefixValue(other)):
        with pytest.raises(VocabularyError):
            search(BASE, "t1", value, args(3))


def test_no_prompts_are_refused():
    with pytest.raises(PromptError):
        search(BASE, [], VALUE, args(3))


def test_a_candidate_that_cannot_be_scored_is_left_out_with_a_warning():
    def fussy(completions, **_):
        if any("t4" in text for text in completions):
            raise ValueError("not t4")
        return [1.0] * len(completions)

    with pytest.warns(UserWarning, match="goes on without it"):
        found = search(BASE, PROMPTS, RewardValue(fussy), args(6), max_new_tokens=9, seed=0)
    assert all("t4" not in each.best.text for each in found)
    for each in found:
        missing = [node for node in each.trace.nodes if math.isnan(node.score)]
        assert {node.text for node in missing} == {"t4"} and not any(node.kept for node in missing)


@pytest.mark.parametrize("k", [1, 3])
def test_a_value_that_scores_no_candidate(k):
    def broken(completions, **_):
        raise ValueError("never")

    with pytest.warns(UserWarning), pytest.raises(RewardError):
        search(BASE, "t1", RewardValue(broken), args(k), max_new_tokens=2, seed=0)

    def partial(prompts, completions, **_):
        if "t3" in prompts:
            raise ValueError("not for t3")
        return [0.0] * len(completions)

    with pytest.warns(UserWarning, match="not for t3"), pytest.raises(RewardError, match="candidates for 't3'"):
        search(BASE, PROMPTS, RewardValue(partial), args(k), max_new_tokens=2, seed=0)


def test_impossible_tokens():
    never = Table.of({"": {"a": 0.5, "b": 0.5, "c": 0.0}}, name="never")
    (found,) = search(ABC, "a", LogRatio(never, ABC), cd(3), max_new_tokens=30, seed=0)  # c is worth -inf
    assert "c" not in found.best.text and {node.score for node in found.trace.nodes if node.text == "c"} == {-math.inf}
    with pytest.raises(RewardError, match="inf"):
        search(ABC, "a", LogRatio(ABC, never), cd(3), max_new_tokens=3, seed=0)
    (found,) = search(ABC, "a", LogRatio(ABC, never), Candidates(3, 50.0, (-1.0, 9.0)), max_new_tokens=1, seed=0)
    assert found.best.text == "c"
    with pytest.raises(RewardError, match="-inf"):
        nothing = RewardValue(lambda completions, **_: [-1.0] * len(completions))
        search(ABC, "a", Sum(((1e39, nothing),)), cd(3), max_new_tokens=3, seed=0)


def test_a_policy_that_breaks_says_which_leaf():
    rotten = Table.of({"": {"t0": 0.5, "t1": 0.5}, "t1": {"t0": math.nan, "t1": math.nan}}, name="rotten")
    value = RewardValue(lambda completions, **_: [0.0] * len(completions))
    for each in (value, LogRatio(rotten, rotten)):
        with pytest.raises(PolicyError, match="rotten"):
            search(rotten, ["t1", "t0"], each, args(2), max_new_tokens=4, seed=0)
