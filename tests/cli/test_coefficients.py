"""Vectors put into weights, and coefficients found, from the command line."""

import json
from dataclasses import replace

import pytest
import torch

from trimtab.policies.lm import LM
from trimtab.policies.policy_file import read_policy_file
from trimtab.testing import random_vector


@pytest.fixture(scope="module")
def home(tiny_lm_folder, tmp_path_factory):
    """Two vectors of the tiny model, a policy with a knob for each, and questions."""
    home = tmp_path_factory.mktemp("coefficients")
    base = LM.load(tiny_lm_folder)
    for seed, name in ((1, "medical"), (2, "legal")):
        random_vector(base, name, seed=seed).save(home / name)
    (home / "policy.yaml").write_text(
        f"models: {{base: {tiny_lm_folder}}}\nvectors: {{medical: medical, legal: legal}}\n"
        "knobs: {m: {default: 0, min: -1, max: 2}, l: {default: 0, min: -1, max: 1}}\n"
        "policy: base + m * medical + l * legal\n"
    )
    rows = [
        {"domain": domain, "prompt": f"w{i}", "answers": {"low": f"w{i + 1}", "high": f"w{i + 2} w{i + 4}"}}
        for domain, i in (("x", 3), ("y", 5), ("x", 9))
    ]
    (home / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return home


@pytest.fixture
def arguments(home):
    return "vector", "search", home / "policy.yaml", "--questions", home / "questions.jsonl"


@pytest.mark.parametrize("method", ["grid", "fine", "sampler"])
def test_a_search_writes_what_it_found_and_goes_on_from_it(trimtab, arguments, tmp_path, method):
    asked = (*arguments, "--every", "--method", method, "--rounds", 1, "--points", 12, "--out", tmp_path / "run")
    ran = trimtab(*asked, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["points"] >= 9 and len(ran.json["targets"]) == 4
    table = (tmp_path / "run" / "targets.md").read_text().splitlines()
    assert len(table) == 6 and table[0] == "| x | y | l | m | x: share | y: share | reached |"
    assert (tmp_path / "run" / "surface.svg").read_text().count("<svg") == 1
    chosen = read_policy_file(tmp_path / "run" / "policy.yaml")
    point = ran.json["targets"][0]["point"]
    assert {name: knob.default for name, knob in chosen.knobs.items()} == point
    assert chosen.build(LM.load).knobs
    again = trimtab(*asked)
    assert " points\n" not in again.err and "| low | low |" in again.out


def test_one_target(trimtab, arguments, tmp_path):
    ran = trimtab(*arguments, "--target", "x=high", "--steps", 2, "--method", "grid", "--out", tmp_path / "r", "--json")
    assert ran.code == 0 and ran.json["points"] == 4 and ran.json["targets"][0]["target"] == {"x": "high"}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), "no target"),
        (("--every", "--target", "x=low"), "together"),
        (("--target", "z=low"), "--target z=low"),
        (("--target", "x=best"), "--target x=best"),
        (("--target", "x"), "--target x"),
        (("--every", "--method", "grid", "--steps", "1"), "at least 2"),
    ],
)
def test_searches_that_make_no_sense(trimtab, arguments, tmp_path, options, told):
    ran = trimtab(*arguments, *options, "--out", tmp_path / "run")
    assert ran.code == 2 and told in ran.err and "Traceback" not in ran.err


def test_a_policy_without_knobs(trimtab, arguments, home, tiny_lm_folder, tmp_path):
    (tmp_path / "fixed.yaml").write_text(
        f"models: {{base: {tiny_lm_folder}}}\nvectors: {{m: {home / 'medical'}}}\npolicy: base + 0.5 * m\n"
    )
    ran = trimtab(*arguments[:2], tmp_path / "fixed.yaml", *arguments[3:], "--every", "--out", tmp_path / "run")
    assert ran.code == 2 and "has no knobs" in ran.err and not (tmp_path / "run").exists()


def test_a_folder_of_another_search(trimtab, arguments, home, tmp_path):
    (tmp_path / "trials.jsonl").write_text('{"about": {"policy": "another"}}\n')
    ran = trimtab(*arguments, "--every", "--out", tmp_path)
    assert ran.code == 2 and "another" in ran.err


def test_an_applied_vector_is_a_model_of_its_own(trimtab, home, tiny_lm_folder, tmp_path):
    out = tmp_path / "model"
    ran = trimtab("vector", "apply", tiny_lm_folder, f"{home}/medical=0.7", f"{home}/legal=-1", "-o", out, "--json")
    assert ran.code == 0, ran.err
    base = LM.load(tiny_lm_folder)
    medical, legal = random_vector(base, "a", seed=1), random_vector(base, "b", seed=2)
    expected = replace(base, trunk=base.trunk.merged({medical: 0.7, legal: -1.0})).next_log_probs(["w1 w2"])
    torch.testing.assert_close(LM.load(out).next_log_probs(["w1 w2"]), expected, atol=1e-5, rtol=0)
    assert json.loads((out / "trimtab.json").read_text())["vectors"] == {"medical": 0.7, "legal": -1.0}
    assert trimtab("vector", "apply", tiny_lm_folder, home / "medical", "-o", out).code == 2


def test_a_vector_of_another_base_is_not_applied(trimtab, home, tmp_path):
    other = tmp_path / "other"
    assert trimtab("vector", "apply", "smollm2-135m-nowhere", home / "medical", "-o", other).code == 1
