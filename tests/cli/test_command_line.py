"""The command line as a user meets it: results, messages and exit codes."""

import json
import sys

import pytest

from trimtab.cli import main


@pytest.fixture
def trimtab(monkeypatch, capsys):
    """Run a command line; returns (exit code, standard output, standard error)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["trimtab", *map(str, arguments)])
        code = 0
        try:
            main.run()
        except SystemExit as end:
            code = end.code or 0
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def policy_file(tiny_lm_folder, tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text(
        f"models: {{base: {tiny_lm_folder}}}\n"
        "knobs: {w: {default: 1.0, min: 0.0, max: 3.0}}\n"
        "policy: base^w\n"
        "decoding: {max_new_tokens: 3, temperature: 0}\n"
    )
    return path


def test_generate_from_a_policy_file_whose_settings_flags_override(trimtab, policy_file):
    code, out, _ = trimtab("generate", policy_file, "w1", "--json")
    assert code == 0 and len(json.loads(out)["answers"][0]["token_ids"]) <= 3
    code, out, _ = trimtab("generate", policy_file, "w1", "--max-new-tokens", 1, "--knob", "w=2", "--json")
    assert code == 0 and len(json.loads(out)["answers"][0]["token_ids"]) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["base * gide", "w1"], 2, "gide"),
        (["base ** (", "w1"], 2, "given"),
        (["(" * 10_000 + "base" + ")" * 10_000, "w1"], 2, "given"),
        (["base^nan", "w1"], 2, "nan"),
        (["base^1e999", "w1"], 2, "given"),
        (["base", ""], 2, "no tokens"),
        (["base", "w1", "--max-new-tokens", "0"], 2, "at least"),
        (["base", "w1 " * 70], 2, "64"),
        (["base", "w1", "--temperature", "-1"], 2, "temperature"),
        (["base", "w1", "--knob", "w"], 2, "--knob"),
        (["base", "w1", "--model", "base"], 2, "--model"),
        (["nowhere.yaml", "w1"], 2, "nowhere.yaml"),
    ],
)
def test_bad_requests_exit_with_2_and_say_what_to_try(trimtab, tiny_lm_folder, arguments, code, message):
    found, out, err = trimtab("generate", *arguments, "--model", f"base={tiny_lm_folder}")
    assert found == code and message in err and "try" in err and "Traceback" not in err + out


def test_knobs_outside_their_range_are_refused(trimtab, policy_file):
    code, _, err = trimtab("generate", policy_file, "w1", "--knob", "w=9")
    assert code == 2 and "3.0" in err


def test_failures_exit_with_1(trimtab, tmp_path):
    code, _, err = trimtab("generate", "base", "w1", "--model", f"base={tmp_path}")
    assert code == 1 and "config.json" in err


def test_an_unknown_built_in_model_is_refused(trimtab):
    code, _, err = trimtab("models", "get", "no-such-model")
    assert code == 2 and "smollm2-135m" in err


def test_train_from_a_file_and_resume(trimtab, tiny_lm_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "def reward(prompts, completions, **columns):\n    return [float(len(c)) for c in completions]\n"
    )
    (tmp_path / "p.txt").write_text("w1 w2\nw3\n")
    (tmp_path / "c.yaml").write_text(
        f"base: {tiny_lm_folder}\nprompts: {{source: p.txt}}\nreward: 'mine:reward'\nsteps: 1\noutput: out\n"
        "adapter: {rank: 2}\nalgorithm: {name: grpo, prompts: 2, answers: 2}\nrollout: {max_new_tokens: 4}\n"
    )
    code, out, err = trimtab("train", "c.yaml", "--json")
    assert code == 0, err
    assert json.loads(out)["steps"] == 1
    assert trimtab("train", "c.yaml")[0] == 2  # the folder is taken
    code, out, _ = trimtab("train", "c.yaml", "--resume", "--set", "steps=2", "--json")
    assert code == 0 and json.loads(out)["resumed_from"] == 1
    assert trimtab("train", "c.yaml", "--set", "steps=none")[0] == 2
    code, out, _ = trimtab("generate", "out/policy.yaml", "w1", "--max-new-tokens", 4, "--json")
    assert code == 0 and json.loads(out)["answers"]


def test_a_failing_reward_exits_with_1(trimtab, tiny_lm_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken_reward.py").write_text("def nan(prompts, completions, **columns):\n    return [float('nan')]\n")
    (tmp_path / "p.txt").write_text("w1 w2\nw3\n")
    (tmp_path / "c.yaml").write_text(
        f"base: {tiny_lm_folder}\nprompts: {{source: p.txt}}\nreward: 'broken_reward:nan'\n"
        "output: out\nadapter: {rank: 2}\n"
    )
    code, _, err = trimtab("train", "c.yaml")
    assert code == 1 and "broken_reward:nan" in err
