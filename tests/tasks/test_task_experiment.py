"""An experiment at a task from its settings to its files, on a model of two layers."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from trimtab.decoding.request import Settings
from trimtab.errors import ConfigError
from trimtab.tasks import task_experiment, task_settings
from trimtab.tasks.load import load_task
from trimtab.tasks.task import Example
from trimtab.tasks.task_experiment import run_task
from trimtab.tasks.task_files import write_task
from trimtab.tasks.task_settings import TaskSettings


@pytest.fixture
def settings(tiny_lm_folder, tmp_path, monkeypatch):
    """Settings of a task whose prompts a tiny model understands."""
    train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    for path, words in ((train, ("w1", "w2", "w3")), (test, ("w4", "w5"))):
        rows = [{"prompt": f"{word} w6", "keywords": ["w7"]} for word in words]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = replace(
        load_task("sentiment"),
        source=str(test),
        columns=("keywords",),
        reward={"name": "length", "target": 3},
        judges=("vader",),
        instruction="w8 w9 ",
        examples=(Example("w1", " w2"), Example("w3", " w4")),
        settings=Settings(max_new_tokens=4),
        training={"reward": {"name": "length", "target": 3}},
    )
    monkeypatch.setattr(task_settings, "load_task", lambda name: task)
    return TaskSettings(
        base=str(tiny_lm_folder),
        train={
            "prompts": {"source": str(train)},
            "adapter": {"rank": 2},
            "rollout": {"max_new_tokens": 4, "min_new_tokens": 1},
            "algorithm": {"name": "grpo", "prompts": 2, "answers": 2},
            "steps": 2,
        },
        rivals={"ppo": {"algorithm": {"name": "ppo", "prompts": 2}}},
        experts={"prompts": 3, "answers": 2, "sft": {"adapter": {"rank": 2}, "max_tokens": 4, "holdout": 0}},
        baselines=("instruction", "examples", "best-of-2"),
        constrained=True,
        strengths=(0.0, 1.0),
        frontier_prompts=2,
        readers=(str(tiny_lm_folder),),
        output=tmp_path / "run",
    )


def test_everything_competes_and_is_written(settings, tmp_path):
    told = []
    found = run_task(settings, progress=told.append)
    names = [line.name for line in found.standing.table.lines]
    assert names == [
        *("base", "instruction", "examples", "best-of-2", "DAPT", "DExperts", "adapter", "ppo"),
        *("base, constrained", "adapter, constrained"),
    ]
    held = next(each.answers for each in found.standing.comparison.results if each.name == "base, constrained")
    assert all("w7" in each.text.split() or each.unmet for each in held)
    assert [point.label for point in found.frontier] == ["", "strength=0", "strength=1"]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"kind": "task"}))
    table = write_task(found, recipe)
    folder = settings.output
    assert table == folder / "table.md" and "| DExperts |" in table.read_text()
    assert f"perplexity, {Path(settings.base).name}" in table.read_text()
    page = (folder / "report.html").read_text()
    for text in (
        "adapter against base",
        "With intervals",
        "What each nat of KL buys",
        "KL to the base in training",
        "trimtab reproduce",
    ):
        assert text in page
    assert json.loads((folder / "results.json").read_text())["task"] == "sentiment"
    assert set(json.loads((folder / "training.json").read_text())) == {"adapter", "ppo"}
    card = (folder / "adapter" / "guide" / "README.md").read_text()
    assert card.count("## Judged") == 1 and "judge vader" in card
    write_task(found, recipe)  # once more: the card does not grow
    assert (folder / "adapter" / "guide" / "README.md").read_text() == card


def test_what_is_there_is_used_again(settings, monkeypatch):
    small = settings.model_copy(update={"experts": None, "rivals": {}, "constrained": False, "baselines": ()})
    first = run_task(small)
    monkeypatch.setattr(task_experiment, "train", None)
    monkeypatch.setattr("trimtab.tasks.sweep.decode", None)
    again = run_task(small)
    assert [each.answers for each in again.standing.comparison.results] == [
        each.answers for each in first.standing.comparison.results
    ]
    assert again.frontier == first.frontier


def test_a_run_with_other_settings_is_not_replaced(settings):
    small = settings.model_copy(update={"experts": None, "rivals": {}, "constrained": False, "baselines": ()})
    run_task(small)
    with pytest.raises(ConfigError, match="another"):
        run_task(small.model_copy(update={"train": {**small.train, "learning_rate": 0.1}}))


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(settings):
    small = settings.model_copy(
        update={"experts": None, "rivals": {}, "constrained": False, "baselines": (), "strengths": ()}
    )

    folder = small.output / "adapter"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text("steps: 2\n")  # all that such a run has written
    assert [line.name for line in run_task(small).standing.table.lines] == ["base", "adapter"]


def test_experts_of_other_settings_are_not_used(settings):
    small = settings.model_copy(update={"rivals": {}, "constrained": False, "baselines": (), "strengths": ()})
    run_task(small)
    stronger = small.experts.model_copy(update={"alpha": 3.0})  # takes the same models
    run_task(small.model_copy(update={"experts": stronger}))
    with pytest.raises(ConfigError, match="another keep"):
        run_task(small.model_copy(update={"experts": small.experts.model_copy(update={"keep": 0.5})}))


def test_a_training_prompt_among_the_test_prompts_is_refused(settings):
    leaking = {**settings.train, "prompts": {"source": settings.found.source}}
    with pytest.raises(ConfigError, match="training prompts"):
        run_task(settings.model_copy(update={"train": leaking}))
    assert not settings.output.exists()


def test_a_judge_of_what_a_run_itself_is_rewarded_by_is_refused(settings, monkeypatch):
    """The task's reward is another; what counts is what is trained on."""
    task = replace(settings.found, judges=({"name": "length", "target": 5},))
    monkeypatch.setattr(task_settings, "load_task", lambda name: task)
    rivals = {"long": {"reward": {"name": "length", "target": 5}}}
    for changed in ({"train": {**settings.train, **rivals["long"]}}, {"rivals": rivals}):
        with pytest.raises(ConfigError, match="shares length"):
            run_task(settings.model_copy(update=changed))
    assert not settings.output.exists()


def test_the_reward_of_the_table_is_the_one_that_was_trained_on(settings):
    own = {**settings.train, "reward": {"name": "length", "target": 2}}
    small = settings.model_copy(
        update={"train": own, "experts": None, "rivals": {}, "constrained": False, "baselines": (), "strengths": ()}
    )
    assert run_task(small).standing.comparison.reward == "length(2)"


@pytest.mark.parametrize("changes", [{"baselines": ("begging",)}, {"constrained": True}])
def test_what_cannot_compete_is_refused_before_training(settings, tmp_path, monkeypatch, changes):
    plain = tmp_path / "plain.jsonl"
    plain.write_text('{"prompt": "w4 w6"}\n')
    task = replace(settings.found, source=str(plain), columns=())
    monkeypatch.setattr(task_settings, "load_task", lambda name: task)
    with pytest.raises(ConfigError, match=r"begging|keywords"):
        run_task(settings.model_copy(update={"constrained": False, **changes}))
    assert not settings.output.exists()


@pytest.mark.parametrize("name", ["base", "adapter", "expert", "DExperts", "best-of-2", "../elsewhere"])
def test_a_rival_may_not_take_anothers_name(name):
    with pytest.raises(ConfigError, match="rivals with names"):
        TaskSettings.of({"baselines": ["best-of-2"], "rivals": {name: {"steps": 3}}})


def test_a_frontier_takes_more_strengths_and_refuses_points_of_other_prompts(settings):
    small = settings.model_copy(update={"experts": None, "rivals": {}, "constrained": False, "baselines": ()})
    run_task(small)
    more = run_task(small.model_copy(update={"strengths": (0.0, 0.5, 1.0)}))
    assert [point.label for point in more.frontier] == ["", "strength=0", "strength=0.5", "strength=1"]
    with pytest.raises(ConfigError, match="another rows"):
        run_task(small.model_copy(update={"prompts": 1}))


def test_a_judge_that_is_the_reward_is_refused_before_training(settings, monkeypatch):
    task = replace(settings.found, judges=({"name": "length", "target": 3},))
    monkeypatch.setattr(task_settings, "load_task", lambda name: task)
    with pytest.raises(ConfigError, match="shares length"):
        run_task(settings)
    assert not settings.output.exists()
