"""`trimtab generate`: answers from an expression or a policy file."""

from __future__ import annotations

import secrets
import sys
from typing import Annotated

import typer
from rich.text import Text

from trimtab.cli.console import Talk
from trimtab.cli.options import (
    Device,
    Dtype,
    Json,
    Knobs,
    Models,
    Quiet,
    Seed,
    build_draft,
    build_policy,
    knob_values,
    pairs,
)
from trimtab.cli.searching import Method, build_shape, build_value, refuse_beside_search, show
from trimtab.errors import PromptError


def generate(  # noqa: PLR0913 -- one parameter an option
    policy: Annotated[str, typer.Argument(help='A policy file (.yaml) or an expression: "base * guide^1.5"')],
    prompts: Annotated[list[str] | None, typer.Argument(help="Texts to continue; - or none reads lines.")] = None,
    model: Models = None,
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
    draft: Annotated[
        str | None,
        typer.Option(help="Who drafts tokens for the policy to verify: auto, lookup, or a model's name or source."),
    ] = None,
    search: Annotated[Method | None, typer.Option(help="Search instead of sampling; needs --value.")] = None,
    value: Annotated[
        str | None,
        typer.Option(help='Scores unfinished answers: "tuned / untuned", reward:NAME, or the folder of a value.'),
    ] = None,
    beams: Annotated[int, typer.Option(help="Of a search: hypotheses that are kept.")] = 4,
    branches: Annotated[
        int, typer.Option(help="Of a search: continuations of each, N of best-of-N, tries, or candidates a token.")
    ] = 4,
    chunk: Annotated[
        str, typer.Option(help="Of a search: where chunks end, a number of tokens, line, sentence, or entropy:NATS.")
    ] = "5",
    threshold: Annotated[float | None, typer.Option(help="Of rejection: what scores above it is accepted.")] = None,
    likelihood: Annotated[float, typer.Option(help="Of deal: weight of the log-probability in a score.")] = 1.0,
    weight: Annotated[float | None, typer.Option(help="Of the value in args, fudge, rad, cd and vas.")] = None,
    seed: Seed = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Continue prompts with a policy. Flags override the decoding settings of a policy file."""
    talk = Talk(as_json, quiet)
    texts = _prompts(prompts or ["-"])
    knobs = knob_values(knob or [])
    models = pairs(model or [], "--model")
    built, decoding = build_policy(policy, models, knobs, dtype=dtype, device=device)
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
    settings = {**decoding.model_dump(), **{name: value for name, value in flags.items() if value is not None}}
    seed = secrets.randbits(31) if seed is None else seed
    if search is not None:
        from trimtab.decoding.search import search as find

        refuse_beside_search(n, draft)
        scorer = build_value(value, models, dtype=dtype, device=device)
        shape = build_shape(search, beams, branches, chunk, threshold=threshold, likelihood=likelihood, weight=weight)
        show(talk, str(built), seed, find(built, texts, scorer, shape, seed=seed, knobs=knobs, **settings))
        return
    answers = built.generate(texts, n=n, seed=seed, knobs=knobs, draft=drafter, **settings)
    if as_json:
        from dataclasses import asdict

        talk.result({"policy": str(built), "seed": seed, "answers": [asdict(answer) for answer in answers]})
        return
    for answer in answers:
        kl = f"  [{answer.mean_kl:.2f} nats per token from the base]"
        talk.out.print(Text(answer.prompt, style="bold") + Text(answer.text) + Text(kl, style="dim"))


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
