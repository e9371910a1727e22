"""Vectors of one base on another of the same architecture."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace

from trimtab.errors import ModelError
from trimtab.policies.vector import Vector


def transferred(
    vector: Vector, to_identity: str, to_source: str, *, shapes: Mapping[str, tuple[int, ...]] | None = None
) -> Vector:
    """Return a vector as one of a sibling base, another model of the same shapes, with a warning that names both.

    At strength 1 it does not give the aligned model; whether what it does carries over has to be measured.

    Args:
        vector: of another base.
        to_identity: ``Trunk.identity`` of the sibling.
        to_source: where the sibling is.
        shapes: tensor name to shape of the sibling, to be checked here rather than when the vector is used.

    Raises:
        ModelError: shapes differ.

    Example:
        >>> vector = transferred(medical, chat.trunk.identity, "a/chat-model")  # doctest: +SKIP
        UserWarning: a vector of a/base-model is used on a/chat-model ...

    Reference: Shahriar et al. (2024), Inference time LLM alignment in single and multidomain preference spectrum,
    transfer between fine-tuning stages of one model.
    """
    if vector.origin.base == to_identity:
        return vector
    if shapes is not None:
        _check_shapes(vector, to_source, shapes)
    warnings.warn(
        f"a vector of {vector.origin.source} ({vector.origin.base[:12]}) is used on {to_source} ({to_identity[:12]}), "
        "other weights: measure what it does there",
        stacklevel=2,
    )
    made = f"{vector.origin.made}; transferred from {vector.origin.source} ({vector.origin.base[:12]})"
    return replace(vector, origin=replace(vector.origin, base=to_identity, source=to_source, made=made))


def _check_shapes(vector: Vector, source: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    changed: dict[str, tuple[int, ...]] = {name: tuple(vector.dense[name].shape) for name in vector.dense}
    changed |= {f"{module}.weight": (each.up.shape[0], each.down.shape[1]) for module, each in vector.low_rank.items()}
    for name, shape in changed.items():
        there = shapes.get(name)
        if there not in (shape, shape[::-1]):  # some layers keep their weights transposed
            raise ModelError(
                given=f"{name!r} of shape {shape} of {vector}, on {source} with {there or 'no such tensor'}",
                expected="a sibling of the same architecture and shapes",
                hint=f"use it on {vector.origin.source}",
            )
