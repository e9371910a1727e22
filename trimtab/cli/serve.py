"""`trimtab serve`: an OpenAI-compatible server whose requests set their knobs, and a playground."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Literal

import typer

from trimtab.cli.asked import Asked
from trimtab.cli.console import Talk
from trimtab.cli.options import Device, Dtype, Knobs, Models, Quiet, Vectors, knob_values, pairs
from trimtab.errors import ConfigError


def serve(  # noqa: PLR0913 -- one parameter an option
    policy: Annotated[str, typer.Argument(help="A policy file (.yaml) or an expression.")],
    model: Models = None,
    vector: Vectors = None,
    knob: Knobs = None,
    name: Annotated[str | None, typer.Option(help="What clients call the policy; the file's name.")] = None,
    engine: Annotated[Literal["local", "vllm"], typer.Option(help="What runs it.")] = "local",
    host: Annotated[str, typer.Option(help="To listen on; another than this machine needs a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    keys: Annotated[
        Path | None, typer.Option(help="A file with a key a line, or sha256:HEX; TRIMTAB_API_KEYS holds keys too.")
    ] = None,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="Let everybody in who reaches --host.")] = False,
    reward: Annotated[str | None, typer.Option(help="Scores answers for the playground and /v1/score.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="Answers that are decoded at once.")] = 64,
    waiting: Annotated[int, typer.Option(min=1, help="Answers that may wait; more get a 503.")] = 256,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that a request may take.")] = 600,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Write prompts and answers into the log.")] = False,
    dtype: Dtype = "auto",
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Serve a policy: OpenAI's API with knobs for each request, and a playground at /."""
    from trimtab.policies.vector_folder import load_vector
    from trimtab.rewards import load_reward
    from trimtab.serving.app import build_app
    from trimtab.serving.keys import VARIABLE, Keys
    from trimtab.serving.limits import Limits
    from trimtab.serving.menu import Menu
    from trimtab.serving.serve import aside, check_address, local_service, run, take_address, vllm_service

    talk = Talk(False, quiet)
    values = knob_values(knob or [])
    asked = Asked.read(
        policy, pairs(model or [], "--model"), pairs(vector or [], "--vector"), dtype=dtype, device=device
    )
    opened = Keys() if keys is None else Keys.read(keys)
    opened += Keys.of(each for each in os.environ.pop(VARIABLE, "").split(",") if each)
    hosts = check_address(host, opened, open_to_all=no_auth)
    limits = Limits(rows=rows, waiting=waiting, seconds=timeout)
    file = asked.as_file(values)
    known = {*file.knobs}
    if unknown := [each for each in values if each not in known]:
        raise ConfigError(
            given=f"a value for the knob {unknown[0]!r}", expected=f"one of {sorted(known)}", hint="check the name"
        )
    changed = {each: file.knobs[each].model_copy(update={"default": value}) for each, value in values.items()}
    file = file.model_validate(file.model_copy(update={"knobs": {**file.knobs, **changed}}).model_dump())
    named = name or (Path(policy).stem if asked.file is not None else "policy")
    scorer = None if reward is None else aside(lambda: load_reward(reward, progress=talk.note))
    with ExitStack() as ending:
        address = ending.enter_context(take_address(host, port))
        if engine == "vllm":
            steered = vllm_service(named, file, limits, load=asked.lm, reward=scorer, progress=talk.note)
            service = ending.enter_context(steered)
        else:
            folders = {each: load_vector(folder, label=each) for each, folder in file.vectors.items()}
            menu = aside(lambda: Menu.load(named, file, asked.lm, limits, vectors=folders, progress=talk.note))
            service = local_service(menu, scorer)
        service.menu.reward = reward
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
        talk.note(f"{named} at http://{host}:{port}  (playground at /, {'keys' if opened else 'no key needed'})")
        run(build_app(service, keys=opened, hosts=hosts, log_prompts=log_prompts), address)
