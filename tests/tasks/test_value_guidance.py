"""The experiment with value guidance on a tiny model: every stage, what is used again, and what is written."""

import json

import pytest
import yaml

from trimtab.cli.main import run
from trimtab.errors import ConfigError
from trimtab.tasks import value_guidance
from trimtab.tasks.guidance_files import write_guidance
from trimtab.tasks.value_guidance import GuidanceSettings, reproduce


@pytest.fixture
def settings(tiny_lm_folder, tmp_path, monkeypatch):
    """An experiment of seconds: w3 is liked, the judges are the share of w3 and the lack of w4."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny_scores.py").write_text(
        "def liked(prompts, completions, **columns):\n"
        "    return [text.split().count('w3') / max(1, len(text.split())) for text in completions]\n"
        "def judge(prompts, completions, **columns):\n"
        "    return [float('w3' in text) for text in completions]\n"
        "def other(prompts, completions, **columns):\n"
        "    return [float('w4' not in text) for text in completions]\n"
    )
    prompts = [f"w{i} w{j}" for i in range(5) for j in range(4)]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts) + "\n")
    (tmp_path / "texts.txt").write_text("w1 w2 w3 w4\n" * 20)
    monkeypatch.setattr(value_guidance, "review_prompts", lambda split: prompts)
    answers = {"prompts": {"source": "prompts.txt"}, "n": 3, "rollout": {"max_new_tokens": 4}}
    common, full = {"rows": 8, "micro_rows": 8, "learning_rate": 0.01}, {"kind": "full"}
    return {
        "base": str(tiny_lm_folder),
        "reward": "tiny_scores:liked",
        "judges": ["tiny_scores:judge", "tiny_scores:other"],
        "dtype": "float32",
        "device": "cpu",
        "untuned": {
            **common,
            "layers": 1,
            "adapter": full,
            "texts": {"source": "texts.txt"},
            "max_tokens": 8,
        },
        "tuned": {**common, "pairs": {"answers": answers}},
        "value": {**common, "answers": {**answers, "policy": str(tiny_lm_folder)}},
        "prompts": 6,
        "max_new_tokens": 6,
        "beams": 2,
        "branches": 2,
        "chunk": 2,
        "sweeps": {"prompts": 2, "strengths": [0.5, 1.0], "candidates": [2], "shapes": [[1, 2, 3]]},
        "output": str(tmp_path / "run"),
    }


def test_the_experiment_runs_and_what_is_trained_is_used_again(settings, tmp_path):
    said = []
    found = reproduce(GuidanceSettings.of(settings), progress=said.append)
    assert [line for line in said if line.startswith("training")] == [
        "training: untuned",
        "training: tuned",
        "training: value",
    ]
    names = ["base", "pair-guided tokens", "best of 4", "chunk beam, implicit", "chunk beam, explicit", "IVG"]
    assert [each.name for each in found.main.results] == names
    assert {name: len(each.results) for name, each in found.sweeps.items()} == {
        "pair-guided tokens": 2,
        "best of N": 1,
        "chunk beam, explicit": 1,
        "IVG": 1,
    }
    assert set(found.measured["value"]) == {"accuracy", "accuracy_half", "squared_error"}
    report = write_guidance(found)
    results = json.loads(report.with_name("results.json").read_text())
    assert [each["name"] for each in results["main"]] == names and len(results["main"][0]["answers"]) == 6
    assert set(results["leads"]["tiny_scores:judge"]) == set(names) - {"IVG"}
    assert (report.with_name("frontier.svg")).stat().st_size > 1000
    said.clear()
    again = reproduce(GuidanceSettings.of(settings), progress=said.append)
    assert not any(line.startswith("training") for line in said)
    assert [each.judges for each in again.main.results] == [each.judges for each in found.main.results]


def test_stages_of_another_experiment_are_not_used(settings):
    reproduce(GuidanceSettings.of({**settings, "sweeps": {}}))
    changed = {**settings, "sweeps": {}, "tuned": {**settings["tuned"], "beta": 0.7}}
    with pytest.raises(ConfigError, match="other settings"):
        reproduce(GuidanceSettings.of(changed))


def test_from_the_command_line(settings, tmp_path, monkeypatch, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**settings, "sweeps": {}}))
    monkeypatch.setattr("sys.argv", ["trimtab", "reproduce", str(recipe), "--set", "prompts=2", "--json"])
    with pytest.raises(SystemExit) as stop:
        run()
    assert not stop.value.code
    told = json.loads(capsys.readouterr().out)
    assert told["report"].endswith("report.md")
