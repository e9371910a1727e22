"""`trimtab generate`: answers from an expression or a policy file."""

from __future__ import annotations

import secrets
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from trimtab.cli.asked import Asked
from trimtab.cli.console import Talk
from trimtab.cli.on_vllm import answer_on_vllm, refuse_beside_vllm
from trimtab.cli.options import (
    Beams,
    Branches,
    Chunk,
    Device,
    Dtype,
    Engine,
    Json,
    Knobs,
    Likelihood,
    Models,
    Quiet,
    Scorer,
    Searched,
    Seed,
    Threshold,
    Vectors,
    Weight,
    build_draft,
    knob_values,
    pairs,
)
from trimtab.cli.searching import refuse_beside_search, search_settings, show
from trimtab.errors import ConfigError, PromptError

if TYPE_CHECKING:
    from trimtab.decoding.constraints import Constraints


def generate(  # noqa: PLR0913 -- one parameter an option
    policy: Annotated[str, typer.Argument(help='A policy file (.yaml) or an expression: "base * guide^1.5"')],
    prompts: Annotated[list[str] | None, typer.Argument(help="Texts to continue; - or none reads lines.")] = None,
    model: Models = None,
    vector: Vectors = None,
    knob: Knobs = None,
    n: Annotated[int, typer.Option("-n", help="Answers a prompt.")] = 1,
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest answer, in tokens.")] = None,
    min_new_tokens: Annotated[int | None, typer.Option(help="Tokens before an answer may end.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Keep the k likeliest tokens; 0 keeps all.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Keep the likeliest tokens up to this probability.")] = None,
    min_p: Annotated[float | None, typer.Option(help="Keep tokens with this share of the likeliest one.")] = None,
    repetition_penalty: Annotated[float | None, typer.Option(help="Above 1 discourages repetition.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="A text that ends an answer; may be repeated.")] = None,
    keyword: Annotated[
        list[str] | None,
        typer.Option(help="A word that answers must hold, whole; forms that count too after |: run|ran. Repeatable."),
    ] = None,
    unordered: Annotated[bool, typer.Option("--unordered", help="Keywords may come in any order.")] = False,
    allow_early_end: Annotated[
        bool, typer.Option("--allow-early-end", help="Answers may end before all keywords are there.")
    ] = False,
    one_sentence: Annotated[
        bool, typer.Option("--one-sentence", help="No sentence ends before all keywords are there.")
    ] = False,
    draft: Annotated[
        str | None,
        typer.Option(help="Who drafts tokens for the policy to verify: auto, lookup, or a model's name or source."),
    ] = None,
    search: Searched = None,
    value: Scorer = None,
    beams: Beams = None,
    branches: Branches = None,
    chunk: Chunk = None,
    threshold: Threshold = None,
    likelihood: Likelihood = None,
    weight: Weight = None,
    seed: Seed = None,
    engine: Engine = "local",
    dtype: Dtype = "auto",
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Continue prompts with a policy. Flags override the decoding settings and the search of a policy file."""
    talk = Talk(as_json, quiet)
    texts = _prompts(prompts or ["-"])
    knobs = knob_values(knob or [])
    models = pairs(model or [], "--model")
    constraints = _constraints(keyword, unordered, allow_early_end, one_sentence)
    asked = Asked.read(policy, models, pairs(vector or [], "--vector"), dtype=dtype, device=device)
    options = {
        "value": value,
        "beams": beams,
        "branches": branches,
        "chunk": chunk,
        "threshold": threshold,
        "likelihood": likelihood,
        "weight": weight,
    }
    searched = search_settings(asked, search, options)
    if searched is not None:
        refuse_beside_search(n, draft)
    if engine == "vllm":
        refuse_beside_vllm(draft, keyword, device)
    drafter = None if draft is None else build_draft(draft, models, dtype=dtype, device=device)
    flags = {
        "max_new_tokens": max_new_tokens,
        "min_new_tokens": min_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "stop": None if stop is None else tuple(stop),
    }
    settings = {**asked.decoding.model_dump(), **{name: value for name, value in flags.items() if value is not None}}
    seed = secrets.randbits(31) if seed is None else seed
    if engine == "vllm":
        found = answer_on_vllm(asked, texts, settings | {"seed": seed}, searched, n=n, knobs=knobs, talk=talk)
        show(talk, str(asked.sketch(knobs)), seed, found)
        return
    settings["keywords"] = constraints
    built = asked.policy(knobs)
    if searched is not None:
        from trimtab.decoding.search import search as find
        from trimtab.decoding.search_plan import build_plan

        plan = build_plan(searched, asked.lm, progress=talk.note)
        show(talk, str(built), seed, find(built, texts, plan.value, plan.shape, seed=seed, knobs=knobs, **settings))
        return
    show(talk, str(built), seed, built.generate(texts, n=n, seed=seed, knobs=knobs, draft=drafter, **settings))


def _constraints(
    words: list[str] | None, unordered: bool, allow_early_end: bool, one_sentence: bool
) -> Constraints | None:
    """Return what --keyword and its switches ask for."""
    if not words:
        if unordered or allow_early_end or one_sentence:
            raise ConfigError(
                given="--unordered, --allow-early-end or --one-sentence without a keyword",
                expected="--keyword WORD beside them",
                hint="leave them out",
            )
        return None
    from trimtab.decoding.constraints import Constraints

    return Constraints.of(
        [word.split("|") for word in words],
        ordered=not unordered,
        allow_early_end=allow_early_end,
        one_sentence=one_sentence,
    )


def _prompts(given: list[str]) -> list[str]:
    """Return the prompts, a line of standard input each where - stands for them."""
    if given != ["-"]:
        return given
    lines = [line for line in sys.stdin.read().splitlines() if line.strip()]
    if not lines:
        raise PromptError(
            given="no prompts, neither as arguments nor on standard input",
            expected="at least one prompt",
            hint='trimtab generate POLICY "The film was"',
        )
    return lines
