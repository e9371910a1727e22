import json

import pytest

from trimtab.engines.vllm import serve
from trimtab.engines.vllm.layout import Layout, Vectors
from trimtab.engines.vllm.plan import VARIABLE, Plan
from trimtab.errors import ConfigError
from trimtab.policies.knob import Exponent, Knob
from trimtab.policies.vocabulary import Vocabulary

STRENGTH = Knob("strength")
PLAN = Plan(("base", "guide"), (Exponent.of(1.0), Exponent.of(STRENGTH)), 3)
WORDS = Vocabulary.of_pieces(["a", "b", "c"])


@pytest.fixture(autouse=True)
def without_vllm(monkeypatch):
    monkeypatch.setattr(serve, "on_cpu", lambda: False)


def test_the_command_names_the_plan_twice_and_binds_to_this_machine():
    found = serve.command(Layout(PLAN, WORDS), "kind", ["--port", "8001"])
    words = list(found.words)
    overrides = json.loads(words[words.index("--hf-overrides") + 1])
    assert Plan.from_json(overrides["trimtab"]) == Plan.from_json(found.environment[VARIABLE]) == PLAN
    assert words[words.index("--served-model-name") + 1] == "kind" and words[words.index("--model") + 1] == "base"
    assert words[-4:] == ["--host", "127.0.0.1", "--port", "8001"] and "--enable-lora" not in words
    assert "--host" not in serve.command(Layout(PLAN, WORDS), "kind", ["--host=0.0.0.0"]).words[:-1]


@pytest.mark.parametrize("argument", ["--model", "--hf-overrides={}", "--logits-processors", "--served-model-name=x"])
def test_arguments_that_trimtab_sets_are_refused(argument):
    with pytest.raises(ConfigError, match=argument.partition("=")[0]):
        serve.command(Layout(PLAN, WORDS), "kind", [argument])


def test_what_a_server_cannot_give_each_request_is_refused(monkeypatch):
    with pytest.raises(ConfigError, match="system prompt"):
        serve.command(Layout(PLAN, WORDS, system="Be kind."), "kind", [])
    both = Vectors({"medical": "vectors/medical"}, {"medical": Exponent.of(STRENGTH)})
    monkeypatch.setattr(serve.Mixes, "load", lambda *given, **named: None)
    with pytest.raises(ConfigError, match="'strength', which moves an exponent and the coefficient"):
        serve.command(Layout(PLAN, WORDS, vectors=both), "kind", [])
    monkeypatch.setattr(serve, "on_cpu", lambda: True)
    for layout, arguments in (
        (Layout(PLAN, WORDS, vectors=both), []),
        (Layout(PLAN, WORDS), ["--enable-chunked-prefill"]),
    ):
        with pytest.raises(ConfigError, match="on a CPU"):
            serve.command(layout, "kind", arguments)


def test_without_vllm_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(serve, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="make vllm"):
        serve.require_vllm()


@pytest.mark.parametrize(
    ("arguments", "ranks"),
    [([], 1), (["--tensor-parallel-size", "2"], 2), (["-tp=4"], 4), (["--tensor-parallel-size=x"], 1)],
)
def test_the_ranks_are_read_from_vllms_arguments(arguments, ranks):
    assert serve._ranks(arguments) == ranks
