import json

import pytest


@pytest.fixture
def short(tiny_lm_folder):
    return "--model", tiny_lm_folder, "--tokens", 3, "--repeats", 1


def test_the_suites_are_listed_without_a_model(trimtab):
    ran = trimtab("bench", "--list")
    assert ran.code == 0 and ran.err == ""
    names = ["decode", "fused", "speculative", "search", "knobs", "vectors", "prefill"]
    assert [line.split()[0] for line in ran.out.splitlines() if line.strip()] == names
    assert [suite["name"] for suite in trimtab("bench", "--list", "--json").json["suites"]] == names


def test_a_suite_is_a_table(trimtab, short):
    ran = trimtab("bench", "knobs", *short)
    assert ran.code == 0, ran.err
    assert "16 values over 1" in ran.out and "<= 1.05" in ran.out and "float32" in ran.out
    assert "only 1 of 5 rounds" in ran.out and "knobs" in ran.err
    assert trimtab("bench", "knobs", *short, "--quiet").err == ""


def test_json_is_one_object_with_the_machine(trimtab, short):
    ran = trimtab("bench", "prefill", "search", *short, "--seed", 3, "--json")
    assert ran.err == ""
    found = ran.json
    assert found["machine"]["cpu"] and found["machine"]["versions"]["torch"]
    assert found["settings"] == {"model": str(short[1]), "tokens": 3, "repeats": 1, "seed": 3}
    assert list(found["suites"]) == ["prefill", "search"] and len(found["notes"]) == 1
    first = found["suites"]["prefill"][0]
    assert first["bound"] == 1.15 and first["holds"] in (True, False) and first["ours"] > 0


def test_five_rounds_need_no_note(trimtab, short):
    found = trimtab("bench", "search", *short, "--repeats", 5, "--json").json
    assert found["notes"] == [] and found["settings"]["repeats"] == 5


def test_threads_are_set_and_told(trimtab, short, monkeypatch):
    asked = []
    monkeypatch.setattr("torch.set_num_threads", asked.append)
    assert trimtab("bench", "search", *short, "--threads", 1, "--quiet").code == 0 and asked == [1]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["speed"], 2, "speed"),
        (["knobs", "speed"], 2, "prefill"),
        (["--list", "speed"], 2, "speed"),
        (["knobs", "--repeats", 0], 2, "repeats=0"),
        (["knobs", "--tokens", 1], 2, "tokens=1"),
        (["knobs", "--tokens", 200], 2, "at most 56"),
        (["knobs", "--threads", 0], 2, "--threads"),
        (["knobs", "--model", "no-such-model"], 1, "no-such-model"),
        (["knobs", "--dtype", "int3"], 2, "int3"),
    ],
)
def test_what_cannot_be_measured_is_refused(trimtab, short, arguments, code, told):
    ran = trimtab("bench", *arguments[:1], *short, *arguments[1:])
    assert ran.code == code and told in ran.err and "Traceback" not in ran.err and ran.out == ""


def test_errors_are_json_too(trimtab):
    ran = trimtab("bench", "speed", "--json")
    error = json.loads(ran.err)["error"]
    assert ran.code == 2 and error["kind"] == "UsageError" and "speculative" in error["expected"]
