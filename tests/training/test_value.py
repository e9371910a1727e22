"""What a value is regressed on, place by place, against a slow twin; and that a run cut in a later round goes on."""

import pytest
import torch
from safetensors.torch import load_file

from trimtab.policies.lm import LM
from trimtab.training.rollouts import Rollout
from trimtab.training.small import Small
from trimtab.training.small_settings import ValueSettings
from trimtab.training.value import Lesson, _Teacher, train_value
from trimtab.training.value_head import new_head

# Unequal lengths, an answer of the end token alone, and one that was cut.
ANSWERS = [
    Rollout((3, 4), (5, 6, 1), (), 0.7),
    Rollout((7,), (1,), (), 0.2),
    Rollout((3, 4, 9), (10, 11, 12, 13), (), -1.0),
]
KNOWN = [{3: 0.7, 1: 0.1}, {1: 0.2}, {4: -1.0, 2: 0.9, 3: 0.3}]
"""What Monte Carlo says of prefixes, by their lengths."""


@pytest.fixture
def teach(tiny_lm_folder):
    """Return a function from a target to a value in training, with a head that is not 0, and its policy."""

    def teach(target):
        settings = ValueSettings.of(
            {"base": str(tiny_lm_folder), "dtype": "float32", "device": "cpu", "target": target, "decay": 0.3}
        )
        small, policy = Small.load(settings), LM.load(tiny_lm_folder, dtype="float32")
        head = new_head("factored", small.model.get_input_embeddings().weight)
        torch.manual_seed(3)
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.normal_(0, 0.1)
        return _Teacher(small, settings, policy, head), small, policy, head.matrix().detach()

    return teach


def slow_errors(small, policy, matrix, target, answer, known):
    """Squared errors of one answer's prefixes, one forward of the whole prefix each."""
    transformer = small.model.get_base_model().model
    values, expected, seen = [], [], list(answer.prompt)
    for token in answer.completion:
        with torch.no_grad():
            every = matrix @ transformer(input_ids=torch.tensor([seen])).last_hidden_state[0, -1]
        log_probs = policy.init([seen])[0][0]
        values.append(float(every[token]))
        expected.append(float((log_probs.exp() * every[: len(log_probs)]).sum()))
        seen.append(token)
    if target == "monte_carlo":
        return [(values[length - 1] - worth) ** 2 for length, worth in known.items()]
    targets = [answer.reward]
    for following, mean in zip(reversed(values[1:]), reversed(expected[1:]), strict=True):
        earlier = {"fudge": answer.reward, "td": 0.7 * following + 0.3 * targets[0], "cd_q": mean}[target]
        targets.insert(0, earlier)
    return [(value - wanted) ** 2 for value, wanted in zip(values, targets, strict=True)]


@pytest.mark.parametrize("target", ["fudge", "td", "cd_q", "monte_carlo"])
def test_each_prefix_is_regressed_on_its_own_target(teach, target):
    teacher, small, policy, matrix = teach(target)
    lessons = [Lesson(answer, known) for answer, known in zip(ANSWERS, KNOWN, strict=True)]
    errors = [slow_errors(small, policy, matrix, target, lesson.rollout, lesson.known) for lesson in lessons]
    expected = sum(sum(each) / len(each) for each in errors) / len(errors)  # answers count alike, whatever their length
    assert teacher.loss(lessons)[0].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("target", ["fudge", "monte_carlo"])
def test_a_run_that_is_cut_in_its_second_round_ends_as_a_whole_one(tiny_lm_folder, tmp_path, monkeypatch, target):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "count_reward.py").write_text(
        "def count(prompts, completions, **columns):\n    return [text.count('w3') / 4 for text in completions]\n"
    )
    (tmp_path / "prompts.txt").write_text("w1 w2\nw2 w3\nw3 w4\nw4 w5\n")
    config = {
        **{"base": str(tiny_lm_folder), "dtype": "float32", "device": "cpu", "adapter": {"rank": 4}},
        **{"rows": 4, "micro_rows": 3, "checkpoint_every": 2, "rounds": 2, "target": target, "holdout": 0.25},
        "answers": {
            "prompts": {"source": "prompts.txt"},
            "n": 4,
            "rollout": {"max_new_tokens": 4},
            "reward": "count_reward:count",
        },
    }
    whole = train_value(ValueSettings.of({**config, "output": "whole"}))
    steps = []

    def stop(metrics):
        steps.append(metrics["step"])
        if len(steps) == 3 + 3:  # 12 answers are 3 steps, 24 are 6: the third step of the second round
            raise InterruptedError

    cut = ValueSettings.of({**config, "output": "cut"})
    with pytest.raises(InterruptedError):
        train_value(cut, on_step=stop)
    assert steps == [1, 2, 3, 1, 2, 3]
    resumed = train_value(cut, resume=True)
    a, b = (load_file(each.folder / "model.safetensors") for each in (whole, resumed))
    assert all(torch.equal(a[name], b[name]) for name in a) and whole.numbers == resumed.numbers
