"""`trimtab generate --engine vllm`: the same answers to the same options, from vLLM in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trimtab.cli.asked import Asked
from trimtab.cli.console import Talk
from trimtab.errors import ConfigError

if TYPE_CHECKING:
    from trimtab.decoding.answer import Answer
    from trimtab.decoding.hunt import Found
    from trimtab.policies.search_settings import SearchSettings


def refuse_beside_vllm(draft: str | None, keywords: Sequence[str] | None, device: str) -> None:
    """Refuse options that vLLM would not heed.

    Raises:
        ConfigError: there is one.
    """
    for option, value in (
        ("--draft", draft),
        ("--keyword", keywords),
        ("--device", None if device == "auto" else device),
    ):
        if value:
            raise ConfigError(
                given=f"{option} with --engine vllm", expected="options that vLLM heeds", hint="leave one of both out"
            )


def answer_on_vllm(
    asked: Asked,
    texts: Sequence[str],
    settings: Mapping[str, Any],
    searched: SearchSettings | None,
    *,
    n: int,
    knobs: Mapping[str, float],
    talk: Talk,
) -> list[Answer] | list[Found]:
    """Start vLLM on a policy and answer prompts, or search for answers where that is asked for.

    Args:
        asked: the policy.
        texts: the prompts.
        settings: of decoding, as ``Policy.generate`` takes them, seed included.
        searched: how answers are searched for.
        n: answers a prompt.
        knobs: values on the command line.
        talk: told what is going on.

    Raises:
        ConfigError: vLLM is not installed, or cannot do what is asked for.
    """
    from trimtab.decoding.request import Settings
    from trimtab.decoding.sampling import Sampling
    from trimtab.decoding.search_plan import build_plan
    from trimtab.engines.base import generate
    from trimtab.engines.search import search
    from trimtab.engines.vllm.engine import VLLMEngine

    sampling = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    lengths = {name: settings[name] for name in ("min_new_tokens", "max_new_tokens", "stop", "seed")}
    decoding = Settings.of(Sampling(**{name: settings[name] for name in sampling}), **lengths)
    file = asked.as_file(knobs)
    engine = VLLMEngine(file, {} if asked.dtype == "auto" else {"dtype": asked.dtype}, progress=talk.note)
    try:
        if searched is None:
            return generate(engine, texts, decoding, n=n, knobs=knobs)
        return search(engine, texts, build_plan(searched, asked.lm, progress=talk.note), decoding, knobs=knobs)
    finally:
        engine.close()
