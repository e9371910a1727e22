"""`trimtab eval --engine vllm`, beside the local engine."""

import json
import sys

import pytest

from trimtab.cli.main import run
from trimtab.engines.vllm import engine


@pytest.fixture
def evaluated(models_folder, vllm_arguments, monkeypatch, capsys):
    """Return a function that evaluates policies of tiny models, and what it said on the way."""
    plain = engine.engine_arguments
    monkeypatch.setattr(engine, "engine_arguments", lambda *a, **named: plain(*a, **named) | vllm_arguments)
    monkeypatch.setattr("trimtab.assets.prompt_sources.review_prompts", lambda split: ["w1 w2", "w3", "w4 w5 w6"])
    named = [part for name in ("base", "guide") for part in ("--model", f"{name}={models_folder / name}")]
    scorers = ["--reward", "repetition", "--judge", "vader", "--prompts", "3", "-n", "8", "--seed", "1"]

    def evaluate(*arguments):
        command = ["eval", "sentiment", *arguments, *named, *scorers, "--max-new-tokens", "12", "--dtype", "float32"]
        monkeypatch.setattr(sys, "argv", ["trimtab", *map(str, command)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            run()
        assert not stop.value.code, capsys.readouterr().err
        return capsys.readouterr().out

    return evaluate


def test_policies_and_baselines_are_measured_as_on_the_local_engine(evaluated, tmp_path):
    asked = "base * guide^s", "base * guide^2", "--knob", "s=0.5"
    rivals = "--baseline", "instruction", "--baseline", "best-of-2"
    found = json.loads(evaluated(*asked, *rivals, "--engine", "vllm", "--out", tmp_path, "--json"))["results"]
    exact = json.loads(evaluated(*asked, *rivals, "--json"))["results"]
    assert [each["name"] for each in found] == [each["name"] for each in exact]
    assert [each["policy"] for each in found] == [each["policy"] for each in exact]
    assert all(each["estimated"] for each in found) and not any(each["estimated"] for each in exact)
    assert found[0]["kl"] == 0.0 and found[4]["kl"] is None
    for one, two in zip(found[1:4], exact[1:4], strict=True):
        assert one["kl"] == pytest.approx(two["kl"], rel=0.4) and one["kl"] != two["kl"]  # 288 tokens each
        assert one["perplexity"] == pytest.approx(two["perplexity"], rel=0.5)
    text = (tmp_path / "table.md").read_text()
    assert "KL, estimated" in text and "exact" not in text and "exact" not in (tmp_path / "report.html").read_text()


def test_answers_are_searched_for(evaluated):
    search = "--search", "chunk_beam", "--value", "guide / base", "--beams", 2, "--branches", 2, "--chunk", 4
    base, searched = json.loads(evaluated("base * guide", *search, "--engine", "vllm", "--json"))["results"]
    assert searched["name"] == "base * guide (chunk_beam)" and searched["searched"] and searched["kl"] is None
    assert searched["proposed"] > base["proposed"] and searched["perplexity"] > 1
