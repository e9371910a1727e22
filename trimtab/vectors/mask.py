"""Parts of vectors: some layers, some modules."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from trimtab.errors import ConfigError
from trimtab.policies.vector import Vector


def only(vector: Vector, *, layers: Iterable[int] | None = None, modules: Sequence[str] | None = None) -> Vector:
    """Return the part of a vector that changes some layers and modules; the rest of the model stays as it is.

    Args:
        vector: any.
        layers: numbers of layers, from 0; what belongs to no layer (embeddings, last norm, output layer) is left out.
        modules: patterns of module names, with ``*`` for anything: the last part ("q_proj") or the whole name
            ("*.mlp.*").

    Raises:
        ConfigError: a layer or a pattern fits nothing, or no tensor fits both.

    Example:
        >>> import torch
        >>> from trimtab.policies.vector import Origin
        >>> names = ("model.layers.0.q_proj.weight", "model.layers.1.q_proj.weight", "model.norm.weight")
        >>> vector = Vector({}, {name: torch.ones(1) for name in names}, Origin("", ""))
        >>> list(only(vector, layers=[1]).dense)
        ['model.layers.1.q_proj.weight']
    """
    wanted = None if layers is None else set(layers)
    names = {*vector.low_rank, *(_module(name) for name in vector.dense)}
    _check(names, wanted, modules)
    kept = {
        name
        for name in names
        if (wanted is None or layer_of(name) in wanted)
        and (modules is None or any(_fits(name, pattern) for pattern in modules))
    }
    if not kept:
        raise ConfigError(
            given=f"the layers {sorted(wanted or ())} and the modules {list(modules or ())} of {vector}",
            expected="tensors that fit both",
            hint="`trimtab vector inspect` lists what a vector changes",
        )
    return replace(
        vector,
        low_rank={name: each for name, each in vector.low_rank.items() if name in kept},
        dense={name: vector.dense[name] for name in vector.dense if _module(name) in kept},
        origin=replace(vector.origin, made=f"{vector.origin.made}; {len(kept)} of {len(names)} modules"),
    )


def layer_of(name: str) -> int | None:
    """Return the number of the layer that a tensor or module belongs to, if any.

    Example:
        >>> layer_of("model.layers.11.mlp.up_proj.weight"), layer_of("lm_head")
        (11, None)
    """
    found = re.search(r"\.(\d+)(?:\.|$)", name)
    return int(found[1]) if found else None


def _check(names: set[str], layers: set[int] | None, modules: Sequence[str] | None) -> None:
    """Refuse layers and patterns that fit nothing, which are mistakes."""
    known = {number for name in names if (number := layer_of(name)) is not None}
    strange = [f"layer {each}" for each in sorted((layers or set()) - known)]
    strange += [f"module {each!r}" for each in modules or () if not any(_fits(name, each) for name in names)]
    if strange:
        kinds = sorted({name.rpartition(".")[2] for name in names})
        raise ConfigError(
            given=f"{', '.join(strange)}, which the vector does not change",
            expected=f"layers among {sorted(known)}, modules among {', '.join(kinds)}",
            hint="`trimtab vector inspect` lists what a vector changes",
        )


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _fits(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name.rpartition(".")[2], pattern)
