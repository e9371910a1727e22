"""Questions, answers of three levels, what is kept, and the files; a scripted writer stands for the model."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from trimtab.errors import ConfigError, ModelError
from trimtab.policies.lm import LM
from trimtab.rewards.level import DOMAINS, LEVELS, LevelJudge
from trimtab.tasks import levels
from trimtab.tasks.level_files import read_triples, write_pairs, write_triples
from trimtab.tasks.levels import (
    Asking,
    Triple,
    as_level,
    chat_prompt,
    level_prompt,
    make_triples,
    queries,
    whole_sentences,
)
from trimtab.training.pairs import preference_pairs
from trimtab.training.small_settings import PairsSettings

TEMPLATE = (
    "{% for m in messages %}{{ m.role }} : {{ m.content }} <end> {% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)
GOOD = {
    "expert": "Arterial stenosis reflects progressive atherosclerotic degeneration of the endothelial tissue, which "
    "precipitates myocardial ischemia in patients with hyperlipidemia.",
    "generic": "It means that the tubes of the heart are too tight. Eat well and walk a lot.",
    "avoidance": "I can't tell you anything about that. Please ask your doctor.",
}


@pytest.fixture
def chat(tiny_lm_folder):
    """A tiny model with a chat template."""
    lm = LM.load(tiny_lm_folder)
    lm.vocabulary.tokenizer.chat_template = TEMPLATE
    yield lm
    lm.vocabulary.tokenizer.chat_template = None


@pytest.fixture
def script(monkeypatch):
    """Return a function that lets a function of (level, query, attempt) answer, and gives back what was asked."""
    asked = []

    def install(write):
        monkeypatch.setattr(levels, "as_level", lambda base, domain, level: level)

        def sample(level, questions, asking, seed):
            asked.append((level, list(questions), seed))
            return [write(level, query, len([each for each in asked if each[0] == level])) for query in questions]

        monkeypatch.setattr(levels, "_sample", sample)
        return asked

    return install


@pytest.mark.parametrize("domain", DOMAINS)
def test_queries_are_many_different_and_split_by_topic(domain):
    train, test = queries(domain, "train"), queries(domain, "test")
    assert len(train) >= 300 and len(test) >= 50
    assert len({*train, *test}) == len(train) + len(test)
    about = yaml.safe_load(Path(levels.__file__).with_name("levels.yaml").read_text())["domains"][domain]
    topics = {
        split: {t for t in about["topics"] for m in about["templates"] if m.format(topic=t) in found}
        for split, found in (("train", train), ("test", test))
    }
    assert not topics["train"] & topics["test"]
    assert topics["train"] | topics["test"] == set(about["topics"])
    assert queries(domain, "train", 7) == train[:7]
    shown = [example["question"].lower() for example in about["examples"]]
    assert not [t for t in about["topics"] for question in shown if t.lower() in question], (
        "an example gives a topic away"
    )


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_examples_that_are_shown_are_of_their_levels(domain):
    about = yaml.safe_load(Path(levels.__file__).with_name("levels.yaml").read_text())["domains"][domain]
    judge = LevelJudge(domain)
    for example in about["examples"]:
        for level in LEVELS:
            assert judge.level(example[level]) == level and judge.read(example[level]).margin > 0.5


@pytest.mark.parametrize(
    "ask",
    [
        lambda: queries("cooking", "train"),
        lambda: queries("legal", "dev"),
        lambda: queries("legal", "test", 0),
        lambda: level_prompt("legal", "novice"),
        lambda: level_prompt("law", "expert"),
        lambda: Asking(tries=0),
        lambda: Asking(margin=1.0),
    ],
)
def test_what_there_is_not_is_refused(ask):
    with pytest.raises(ConfigError):
        ask()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Thr", "One. Two!"),
        ("It is 3.5 mg and", ""),
        ('He said "no." Then', 'He said "no."'),
        ("A list:\n\n1. Rest.\n\n2.", "A list:\n\n1. Rest."),
        ("Whole.", "Whole."),
        ("none", ""),
        ("", ""),
    ],
)
def test_whole_sentences(text, expected):
    assert whole_sentences(text) == expected


def test_a_level_is_shown_as_turns_before_the_question(chat):
    tokenizer = chat.vocabulary.tokenizer
    lm = as_level(chat, "medical", "avoidance", examples=1)
    about = yaml.safe_load(Path(levels.__file__).with_name("levels.yaml").read_text())["domains"]["medical"]
    first = about["examples"][0]
    before = f"system : {level_prompt('medical', 'avoidance')} <end> user : {first['question']} <end> "
    before += f"assistant : {first['avoidance']} <end> user :"
    assert list(lm.view.prefix) == tokenizer(before)["input_ids"]
    assert list(lm.view.suffix) == tokenizer("<end> assistant :")["input_ids"]
    assert lm.trunk is chat.trunk
    bare = as_level(chat, "medical", "avoidance", examples=0)
    assert (
        list(bare.view.prefix)
        == tokenizer(f"system : {level_prompt('medical', 'avoidance')} <end> user :")["input_ids"]
    )
    assert chat_prompt(chat, "w1 w2") == "user : w1 w2 <end> assistant :"


def test_models_that_do_not_chat_are_refused(tiny_lm_folder):
    for ask in (
        lambda lm: as_level(lm, "legal", "expert"),
        lambda lm: chat_prompt(lm, "w1"),
        lambda lm: make_triples(lm, "legal"),
    ):
        with pytest.raises(ModelError, match="chat template"):
            ask(LM.load(tiny_lm_folder))


def test_what_is_told_apart_is_kept_and_the_rest_is_asked_again(script):
    names = queries("medical", "train", 4)

    def write(level, query, attempt):
        if level == "expert" and query == names[0]:
            return GOOD["generic"]  # never an expert's: dropped, and not asked for the other levels
        if level == "avoidance" and query == names[1] and attempt < 3:
            return GOOD["expert"]  # the third try succeeds
        if level == "generic" and query == names[2]:
            return "Walk a lot. " * 6  # a loop: dropped
        return GOOD[level]

    asked, said = script(write), []
    found = make_triples(None, "medical", limit=4, seed=3, progress=said.append)
    assert [each.query for each in found.kept] == [names[1], names[3]]
    assert found.kept[0] == Triple(names[1], **GOOD)
    assert (found.asked, found.share) == (4, 0.5)
    assert found.reached == {"expert": 3 / 4, "avoidance": 1.0, "generic": 2 / 3}
    assert [(level, len(questions)) for level, questions, _ in asked] == [
        *(("expert", count) for count in (4, 1, 1, 1)),
        *(("avoidance", count) for count in (3, 1, 1)),
        *(("generic", count) for count in (3, 1, 1, 1)),
    ]
    assert len({seed for _, _, seed in asked}) == len(asked), "every try draws other random numbers"
    assert len(said) == 3


def test_answers_that_repeat_an_example_are_not_kept(script):
    about = yaml.safe_load(Path(levels.__file__).with_name("levels.yaml").read_text())["domains"]["medical"]
    script(lambda level, query, attempt: about["examples"][1][level])
    assert make_triples(None, "medical", "test", limit=2).reached["expert"] == 0


def test_a_greater_margin_keeps_less(script):
    close = "The doctor may order an ultrasound and check your serum before any pills are given to you for this."
    reading = LevelJudge("medical").read(close)
    assert 0 < reading.margin < 0.9 and reading.level == "generic"
    script(lambda level, query, attempt: close if level == "generic" else GOOD[level])
    assert make_triples(None, "medical", limit=1, asking=Asking(margin=0.0)).share == 1
    assert make_triples(None, "medical", limit=1, asking=Asking(margin=0.9)).share == 0


def test_nothing_kept_is_an_empty_result(script):
    asked = script(lambda level, query, attempt: "")
    found = make_triples(None, "finance", limit=3, asking=Asking(tries=2))
    assert found.kept == () and found.share == 0 and found.reached == dict.fromkeys(LEVELS, 0.0)
    assert {level for level, _, _ in asked} == {"expert"}


def test_answers_of_a_model_are_texts_and_repeat_with_their_seed(chat):
    writer = as_level(replace(chat), "legal", "expert", examples=0)
    asking = Asking(max_new_tokens=5)
    first = levels._sample(writer, ["w1 w2", "w3"], asking, 0)
    assert first == levels._sample(writer, ["w1 w2", "w3"], asking, 0) and len(first) == 2
    # The tiny model knows no full stop, so only an answer that it ended itself is whole.
    assert levels._sample(writer, ["w3"], asking, 0) == first[1:]


TRIPLES = [Triple("w1 w2", "w3 w4", "w5", "w6"), Triple("w7", "w8", "w9", "w10 “quoted”\n")]


def test_pairs_are_what_training_reads(chat, tmp_path):
    path = tmp_path / "new" / "pairs.jsonl"
    assert write_pairs(TRIPLES, chat, path) == 6
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["chosen"], row["rejected"]) for row in rows[:3]] == [("w3 w4", "w5"), ("w3 w4", "w6"), ("w5", "w6")]
    assert {row["prompt"] for row in rows[:3]} == {"user : w1 w2 <end> assistant :"}
    settings = PairsSettings(source=str(path))
    pairs = preference_pairs(settings, None, chat.vocabulary, seed=0, progress=lambda line: None)
    assert len(pairs) == 6
    assert pairs[0].prompt == tuple(chat.vocabulary.encode("user : w1 w2 <end> assistant :"))


def test_held_pairs_come_in_both_orders_all_over_the_file(chat, tmp_path):
    """Own rows lie at 0, 1/3 and 2/3 of the file; held ones, a pair in both orders of each triple, at every sixth."""
    own = [Triple("w1", "w2 e", "w3 g", "w4 a")]
    held = [Triple(f"w{i}", "e", "g", "a") for i in (5, 6, 7)]
    assert write_pairs(own, chat, tmp_path / "pairs.jsonl", held=held) == 3 + 6
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    shown = [(row["prompt"].split()[2], row["chosen"], row["rejected"]) for row in rows]
    assert shown == [
        ("w1", "w2 e", "w3 g"),
        ("w5", "e", "g"),
        ("w5", "g", "e"),
        ("w1", "w2 e", "w4 a"),
        ("w6", "e", "a"),
        ("w6", "a", "e"),
        ("w1", "w3 g", "w4 a"),
        ("w7", "g", "a"),
        ("w7", "a", "g"),
    ]


def test_triples_come_back_as_they_were(tmp_path):
    path = tmp_path / "triples.jsonl"
    assert write_triples(TRIPLES, path) == 2
    assert read_triples(path) == TRIPLES
    path.write_text('{"query": "w1", "expert": "w2", "generic": "w3"}\n')
    with pytest.raises(ConfigError, match="row 1"):
        read_triples(path)
    with pytest.raises(ConfigError):
        read_triples(tmp_path / "missing.jsonl")


@pytest.mark.slow
def test_the_built_in_model_answers_in_three_manners():
    base = LM.load("smollm2-135m")
    assert "system" in chat_prompt(base, "What is gout?")  # the template's own
    found = make_triples(base, "medical", limit=6)
    assert found.share >= 0.3
    judge = LevelJudge("medical")
    assert all(judge.level(each.answer(level)) == level for each in found.kept for level in LEVELS)
