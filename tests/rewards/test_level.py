"""The level judge: hand-written answers of every level, what is measured by hand, and the reward made of it."""

from pathlib import Path

import pytest
import yaml

from trimtab.errors import ConfigError
from trimtab.rewards import LevelJudge, LevelReward, load_reward
from trimtab.rewards.evasion import evasive
from trimtab.rewards.level import DOMAINS, LEVELS, Reading, lead

EXAMPLES = yaml.safe_load(Path(__file__).with_name("level_examples.yaml").read_text(encoding="utf-8"))
TEXTS = [
    (domain, level, text) for domain, levels in EXAMPLES.items() for level, texts in levels.items() for text in texts
]


def test_there_are_ten_examples_of_everything():
    assert set(EXAMPLES) == set(DOMAINS)
    assert all(len(EXAMPLES[domain][level]) >= 10 for domain in DOMAINS for level in LEVELS)


@pytest.mark.parametrize(("domain", "level", "text"), TEXTS)
def test_hand_written_answers(domain, level, text):
    assert LevelJudge(domain).level(text) == level


@pytest.mark.parametrize("domain", DOMAINS)
def test_what_one_domains_experts_say_is_less_expert_in_another(domain):
    own = [LevelJudge(domain).scores(text)["expert"] for text in EXAMPLES[domain]["expert"]]
    for other in set(DOMAINS) - {domain}:
        there = [LevelJudge(other).scores(text)["expert"] for text in EXAMPLES[domain]["expert"]]
        assert sum(there) / len(there) < 0.7 * sum(own) / len(own)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  \n ",
        "...",
        "Yes.",
        "Ask your doctor now.",  # four words say too little
        "the the the the the the the the the",
        "Take insulin. " * 10,  # three-word runs: 2 different ones of 18
        "Hypertension, diuretic, glomerular, serum, edema, ischemia, platelet, renal, hepatic, stenosis, lesion.",
        "Гипертония лечится диуретиками",
    ],
)
def test_what_is_no_prose_has_no_level(text):
    reading = LevelJudge("medical").read(text)
    assert reading.level is None and reading.margin == 0
    assert reading.scores == dict.fromkeys(LEVELS, 0.0)
    assert all(lead(reading, level) == -1 for level in LEVELS)


def test_repeating_a_term_does_not_make_an_expert():
    text = (
        "Hypertension is a form of hypertension that people with hypertension have when their hypertension is not "
        "treated as hypertension by those who understand hypertension in general."
    )
    reading = LevelJudge("medical").read(text)
    assert reading.level == "generic"
    assert LevelJudge("medical").terms(text) == {"hyper*"}
    assert reading.density == 100 * 1 / 26  # 26 words, one term however often


def test_hard_words_of_no_domain_do_not_make_an_expert():
    text = (
        "Medieval cathedrals demonstrate extraordinary architectural sophistication, incorporating pointed arches and "
        "elaborate ornamentation throughout their magnificent interiors."
    )
    reading = LevelJudge("legal").read(text)
    assert reading.grade > 15 and reading.level == "generic"


def test_one_referral_at_the_end_does_not_make_an_avoider():
    expert = EXAMPLES["medical"]["expert"][1]
    assert expert.endswith("Discuss the regimen with your physician before changing the dosage.")
    reading = LevelJudge("medical").read(expert)
    assert 0 < reading.evasion < 0.4 and reading.level == "expert"


def test_measures_by_hand():
    reading = LevelJudge("finance").read("The bond yield rose. Ask your bank about it!")
    # 9 words in 2 sentences; syllables: the 1, bond 1, yield 1, rose 1, ask 1, your 1, bank 1, about 2, it 1 = 10
    assert reading.words == 9
    assert reading.grade == pytest.approx(0.39 * 9 / 2 + 11.8 * 10 / 9 - 15.59)
    assert reading.density == 100 * 2 / 25  # "bond yield" and "yield", as if there were 25 words
    assert reading.evasion == pytest.approx(5 / 9)


def test_scores_by_hand():
    # r(density 8; 3, 13) = 1/2, r(grade 13; 6, 13) = 1, so e = sqrt(1/2); r(evasion .35; .2, .8) = 1/4
    scores = Reading(words=40, grade=13.0, density=8.0, evasion=0.35, prose=True).scores
    e = 0.5**0.5
    assert scores == pytest.approx({"expert": 0.75 * e, "generic": 0.75 * (1 - e), "avoidance": 0.25})
    assert sum(scores.values()) == pytest.approx(1)
    reading = Reading(40, 13.0, 8.0, 0.35, prose=True)
    assert reading.margin == pytest.approx(0.75 * e - 0.25) == lead(reading, "expert")


@pytest.mark.parametrize(
    ("singular", "plural"),
    [
        ("an annuity is a debt-to-income ratio", "annuities are debt to income ratios"),
        ("a tax bracket", "Tax Brackets"),
    ],
)
def test_plurals_and_hyphens_are_the_same_terms(singular, plural):
    judge = LevelJudge("finance")
    assert judge.terms(singular) == judge.terms(plural) != set()


@pytest.mark.parametrize(
    "sentence",
    [
        "I'm sorry, but I can't help.",
        "As an AI language model I have no opinion.",
        "You should really talk about it with a licensed attorney.",
        "It depends on your case.",
        "Only your doctor can tell.",
        "Please see a tax professional.",
        "Go to the nearest hospital.",
        "Call your bank.",
        "That is a question for a judge or an attorney.",
        "It can only be answered by a financial advisor.",
    ],
)
def test_evasive_sentences(sentence):
    assert evasive(sentence)


@pytest.mark.parametrize(
    "sentence",
    [
        "Your doctor may prescribe antibiotics.",
        "The court held that the lawyer was negligent.",
        "Banks hold reserves.",
        "Patients who cannot tolerate statins receive ezetimibe.",
        "The price depends on supply.",
        "I can see why this hurts.",
        "Patients get antibiotics in the hospital and need intensive care.",
        "You see the interest in your bank statement.",
        "Try to get help from your brother.",
    ],
)
def test_sentences_that_answer(sentence):
    assert not evasive(sentence)


def test_the_reward_is_the_lead():
    reward = load_reward({"name": "level", "domain": "legal", "level": "expert"})
    texts = [EXAMPLES["legal"][level][0] for level in LEVELS] + [""]
    values = reward(["Well?"] * 4, texts)
    assert values[0] > 0.5 and values[1] == -1 and values[2] == -1 and values[3] == -1
    assert reward == LevelReward("legal", "expert") and reward.name == "level(legal, expert)"
    assert reward.origins == LevelReward("legal", "avoidance").origins != LevelReward("medical", "expert").origins


@pytest.mark.parametrize(
    "make",
    [lambda: LevelJudge("cooking"), lambda: LevelReward("legal", "novice"), lambda: LevelReward("law", "expert")],
)
def test_unknown_domains_and_levels_are_refused(make):
    with pytest.raises(ConfigError, match=r"medical, legal, finance|expert, generic, avoidance"):
        make()


@pytest.mark.parametrize("domain", DOMAINS)
def test_terms_are_listed_once_and_stars_stand_at_one_end(domain):
    listed = yaml.safe_load(Path(LevelJudge.__init__.__globals__["__file__"]).with_name("level_terms.yaml").read_text())
    terms = listed[domain]
    assert len(set(terms)) == len(terms) >= 150
    for term in terms:
        assert term.count("*") <= 1 and "*" not in term[1:-1]
        assert "*" not in term or term.strip("*").isalpha(), f"{term}: only single words have other endings"
