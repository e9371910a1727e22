import pytest
import torch
from transformers import BertForSequenceClassification

from trimtab.decoding.answer import Answer
from trimtab.errors import ConfigError
from trimtab.evaluation.measure import Group
from trimtab.rewards import Contradiction, load_judge
from trimtab.tasks.load import load_task

LABELS = {"id2label": {0: "contradiction", 1: "entailment"}, "label2id": {"contradiction": 0, "entailment": 1}}


@pytest.fixture
def folder(tmp_path, word_tokenizer, small_bert):
    model = small_bert(BertForSequenceClassification, **LABELS)
    model.save_pretrained(tmp_path / "model")
    word_tokenizer.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model"), model


def test_passage_and_answer_are_read_as_a_pair(folder, word_tokenizer):
    source, model = folder
    judge = load_judge({"name": "contradiction", "model": source})
    passages, answers = ["a good film", "fun"], ["bad", "a dull dull film"]
    found = judge(["?", "?"], answers, passage=passages)
    for passage, answer, score in zip(passages, answers, found, strict=True):
        with torch.inference_mode():
            logits = model(**word_tokenizer(passage, answer, return_tensors="pt")).logits[0]
        assert score == pytest.approx(1 - logits.softmax(-1)[0].item(), abs=1e-5)
    assert judge(["?"], ["a good film"], passage=["bad"]) != judge(["?"], ["bad"], passage=["a good film"])


def test_what_cannot_be_asked_is_refused(folder):
    source, _ = folder
    with pytest.raises(ConfigError, match="'entailment'"):
        Contradiction.load(source, "CONTRADICTION")
    with pytest.raises(ConfigError, match="passage"):
        Contradiction.load(source)(["?"], ["bad"])


def test_the_task_reports_how_many_answers_are_contradicted():
    rate = load_task("knowledge-dialogue").measures(("support", "contradiction"))[1]
    answers = tuple(Answer("p", text, (), (), (), (), "length") for text in "abc")
    assert (rate.name, rate.better) == ("contradiction rate", "lower")
    assert rate.tally(Group({}, answers, {"contradiction": (0.49, 0.9, None)})) == (1, 2)
