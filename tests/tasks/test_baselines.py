"""What prompting and choosing among many put before a model, and how plain or chat prompts are read."""

from dataclasses import replace

import pytest

from trimtab.decoding.request import Settings
from trimtab.errors import ConfigError, ModelError
from trimtab.policies.lm import LM
from trimtab.policies.toy import Table
from trimtab.rewards import Length, as_reward
from trimtab.tasks.baselines import asked, asking, baseline
from trimtab.tasks.load import load_task
from trimtab.tasks.task import Example

TEMPLATE = (
    "{% for turn in messages %}{{ turn.role }} : {{ turn.content }} <end> {% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)
PLAIN = replace(
    load_task("sentiment"), instruction="w1 w2 ", examples=(Example("w3", " w4"), Example("w5", " w6")), chat=False
)
CHAT = replace(PLAIN, chat=True)
ROWS = [{"prompt": "w7 w8", "topic": "x"}]


@pytest.fixture
def base(tiny_lm_folder):
    return LM.load(tiny_lm_folder)


@pytest.fixture
def chat(base):
    base.vocabulary.tokenizer.chat_template = TEMPLATE
    yield base
    base.vocabulary.tokenizer.chat_template = None


def test_plain_prompts_follow_the_instruction_and_the_examples(base):
    assert asking(PLAIN, base.vocabulary, shown=False) == "w1 w2 "
    assert asking(PLAIN, base.vocabulary, shown=True) == "w1 w2 w3 w4\n\nw1 w2 w5 w6\n\nw1 w2 "
    assert asked(PLAIN, base.vocabulary, ROWS) == ROWS


def test_chats_have_the_instruction_as_system_prompt_and_examples_as_turns(chat):
    shown = asking(CHAT, chat.vocabulary, shown=True)
    assert shown == (
        "system : w1 w2  <end> user : w3 <end> assistant :  w4 <end> user : w5 <end> assistant :  w6 <end> "
    )
    (row,) = asked(CHAT, chat.vocabulary, ROWS)
    assert row == {"prompt": "user : w7 w8 <end> assistant :", "topic": "x", "query": "w7 w8"}


def test_a_model_without_a_chat_format_is_refused(base):
    with pytest.raises(ModelError, match="no chat template"):
        asked(CHAT, base.vocabulary, ROWS)


def test_prompting_changes_what_the_policy_sees_but_not_its_reference(base):
    found = baseline("examples", PLAIN, base, Length(2), ROWS)
    assert found.search is None and found.policy.view.prefix and found.policy.reference == base.reference


def test_the_best_of_many_is_searched_by_the_reward_with_the_columns(base):
    found = baseline("best-of-8", PLAIN, base, Length(2), ROWS)
    assert found.policy is base and found.search.shape.branches == 8
    assert found.search.value.reward.rows == [{"query": "w7 w8", **ROWS[0]}]


@pytest.mark.parametrize("name", ["begging", "best-of-", "best-of-0", "best-of-x", "best-of--3"])
def test_what_is_no_baseline_is_refused(base, name):
    with pytest.raises(ConfigError, match="baseline"):
        baseline(name, PLAIN, base, Length(2), ROWS)


def test_the_best_of_many_finds_columns_of_prompts_in_a_chat_format(chat):
    """The search sees the prompt without its special tokens; the reward gets the query and the columns."""
    seen = []

    def judge(prompts, completions, topic, **columns):
        seen.append((set(prompts), set(topic)))
        return [float(len(text)) for text in completions]

    rows = asked(CHAT, chat.vocabulary, ROWS)
    found = baseline("best-of-2", CHAT, chat, as_reward(judge), rows)
    found.search.find(chat, [row["prompt"] for row in rows], Settings(max_new_tokens=3))
    assert seen and all(each == ({"w7 w8"}, {"x"}) for each in seen)


def test_only_models_can_be_prompted():
    with pytest.raises(ConfigError, match="sees prompts"):
        baseline("instruction", PLAIN, Table.of({"": {"a": 1.0}}), Length(2), ROWS)
