"""What `trimtab eval --engine vllm` refuses before anything is loaded; the models named here do not exist."""

from importlib.util import find_spec

import pytest

MODELS = "--model", "base=no/base", "--model", "guide=no/guide"


@pytest.mark.parametrize(
    ("policies", "options", "told"),
    [
        (["base * guide"], ["--device", "cpu"], "--device with --engine vllm"),
        (["plausible(base, 0.1) * guide"], [], "plausible"),
        (["base * guide"], ["--search", "args", "--value", "guide / base"], "search args"),
        (["base * guide"], ["--baseline", "best-of-no"], "best-of-no"),
        (["base * guide"], ["--knob", "strength=1"], "strength"),
        (["base * guide", "guide * base"], [], "different bases"),
    ],
)
def test_what_vllm_cannot_do_is_refused_before_a_model_is_loaded(trimtab, policies, options, told):
    ran = trimtab("eval", "sentiment", *policies, *MODELS, "--engine", "vllm", *options)
    assert ran.code == 2 and told in ran.err + ran.out and "Traceback" not in ran.err


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is here")
def test_an_environment_without_vllm_says_so(trimtab):
    ran = trimtab("eval", "sentiment", "base * guide", *MODELS, "--engine", "vllm")
    assert ran.code == 2 and "no vLLM" in ran.err
