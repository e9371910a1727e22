"""``trimtab doctor POLICY``: where a policy runs, without any of its models."""

import json

import pytest

FILE = """\
models:
  base: org/base
  polite: {source: org/base, system: Be polite.}
knobs: {strength: {min: 0, max: 3}}
policy: base * polite^strength
search: {method: args, value: polite / base}
"""


@pytest.fixture
def path(tmp_path):
    """Return a policy file of models that are nowhere."""
    (tmp_path / "policy.yaml").write_text(FILE)
    return tmp_path / "policy.yaml"


def test_a_policy_file_is_explained_for_every_engine(trimtab, path):
    ran = trimtab("doctor", path)
    assert ran.code == 0
    for said in ("prompt view of polite", "knob strength", "search args", "value polite / base", "the whole"):
        assert said in ran.out
    assert "remote, top 20, search args: tokens are chosen among the likeliest of every step" in ran.out
    assert "base: org/base is no folder here" in ran.err


def test_as_one_object(trimtab, path):
    found = trimtab("doctor", path, "--json").json
    assert found["policy"] == "base * polite^strength"
    assert {each["engine"]: each["verdict"] for each in found["engines"]} == {
        "local": "exact",
        "vllm": "impossible",  # for its prompt view
        **dict.fromkeys(("remote, top 20", "remote, bias", "remote, text"), "chunk search only"),  # for its search
    }
    assert set(found["engines"][0]["parts"][0]) == {"what", "verdict", "reason", "way_out"}


def test_an_expression_with_its_models_and_knobs(trimtab):
    expression = ("doctor", "base * guide^w", "--model", "base=org/base", "--model", "guide=org/guide", "--json")
    found = trimtab(*expression, "--knob", "w=1").json
    verdicts = [each["verdict"] for each in found["engines"]]
    assert verdicts == ["exact", "exact", "approximate on the top k", "approximate by bias", "chunk search only"]
    ran = trimtab(*expression)
    assert ran.code == 2 and "'w'" in json.loads(ran.err)["error"]["given"]


def test_files_that_cannot_be_read_are_usage_errors(trimtab, tmp_path):
    assert trimtab("doctor", tmp_path / "missing.yaml").code == 2
