import pytest

from trimtab.decoding.answer import Answer
from trimtab.evaluation.measure import Group
from trimtab.rewards.coherence import Coherence
from trimtab.tasks import coherence as module


def answers(*texts):
    return tuple(Answer("p", text, (), (), (), (), "length") for text in texts)


def test_it_is_the_mean_over_answers_to_what_was_said(monkeypatch):
    asked = []

    def scorer(prompts, texts):
        asked.extend(zip(prompts, texts, strict=True))
        return [float(len(text)) for text in texts]

    monkeypatch.setattr(Coherence, "load", lambda: scorer)
    groups = [
        Group({"prompt": "<user>hi", "query": "hi"}, answers("a", "bb"), {}),
        Group({"prompt": "Once"}, answers("cccc"), {}),
    ]
    assert module.coherence(groups) == pytest.approx(7 / 3)
    assert asked == [("hi", "a"), ("hi", "bb"), ("Once", "cccc")]
