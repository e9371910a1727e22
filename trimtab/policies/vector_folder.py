"""Vector folders: low-rank factors as a PEFT adapter, plain differences in safetensors, and ``trimtab.json``.

Adapters that were trained, by trimtab or by anyone, are vectors too: a LoRA adapter is the exact low-rank form of what
it changes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trimtab.errors import ConfigError, ModelError
from trimtab.policies.checkpoint import Weights
from trimtab.policies.guide_folder import DELTAS_FILE, GUIDE_FILE, base_of, read_guide_file
from trimtab.policies.lora_files import read_factors, write_factors
from trimtab.policies.tensor_files import TensorFiles, write_tensors
from trimtab.policies.vector import Origin, Vector
from trimtab.policies.write_folder import write_folder

FORMAT = 1
"""Of vector folders; a folder of a later one is refused."""


def load_vector(folder: str | Path, *, label: str | None = None) -> Vector:
    """Load a vector folder, or a LoRA adapter as the vector that it is.

    Plain differences stay on disk and are read tensor by tensor when they are used.

    Args:
        folder: of a vector, or a PEFT LoRA folder. Where an adapter does not say which weights it was trained on, they
            are read from the base that it names.
        label: what messages and expressions call it; the folder's name by default.

    Raises:
        ModelError: it is something else, is damaged or all zero, holds more than low-rank factors and differences, or
            was written by a later version.

    Example:
        >>> medical = load_vector("vectors/medical")  # doctest: +SKIP
        >>> steered = LM.load("smollm2-135m") + 0.7 * medical  # doctest: +SKIP
    """
    folder = Path(folder)
    about = read_guide_file(folder)
    adapter, deltas = folder / "adapter_config.json", folder / DELTAS_FILE
    _check_kind(folder, about)
    low_rank = read_factors(folder) if adapter.is_file() else {}
    dense = TensorFiles.open([deltas]) if deltas.is_file() else {}
    if not low_rank and not dense:
        raise _nothing(folder)
    vector = Vector(low_rank, dense, _origin(folder, about), label or folder.resolve().name)
    refuse_zero(vector, str(folder))
    return vector


def save_vector(vector: Vector, folder: str | Path, *, details: Mapping[str, Any] | None = None) -> Path:
    """Write a vector folder; one tensor of the plain differences is in memory at a time.

    The low-rank part is a PEFT adapter that other programs can load; what they load lacks the plain differences.

    Args:
        vector: to be written.
        folder: where to; a vector that is there is replaced once the new one is whole.
        details: what else ``trimtab.json`` says of it, such as what compressing it has cost.

    Returns:
        The folder.

    Raises:
        ConfigError: something else than a vector is there.
        ModelError: the vector is all zero, or has values that are not finite.
    """
    folder = Path(folder)
    if folder.exists() and not _replaceable(folder):
        raise ConfigError(
            given=f"{folder}, which is there and is no vector",
            expected="a new folder, or one that holds a vector and nothing else",
            hint="choose another name",
        )
    refuse_zero(vector, str(vector))

    def write(partial: Path) -> None:
        if vector.low_rank:
            write_factors(partial, vector.low_rank, vector.origin.source)
        if vector.dense:
            write_tensors(partial / DELTAS_FILE, vector.dense)

    origin = vector.origin
    about = {
        "kind": "vector",
        "format": FORMAT,
        "base": {"source": origin.source, "identity": origin.base},
        "domain": origin.domain,
        "level": origin.level,
        "made": origin.made,
        **(details or {}),
    }
    return write_folder(folder, write, about, _card(vector))


def refuse_zero(vector: Vector, what: str) -> None:
    """Refuse a vector that changes nothing.

    Raises:
        ModelError: every value is 0.
    """
    moves = (bool(each.up.any()) and bool(each.down.any()) for each in vector.low_rank.values())
    if not any(moves) and not any(bool(vector.dense[name].any()) for name in vector.dense):
        raise ModelError(
            given=f"the vector {what}, which is all zero",
            expected="a difference between two models",
            hint="the aligned model may be the base itself, or an adapter that was never trained",
        )


def _check_kind(folder: Path, about: Mapping[str, Any]) -> None:
    """Refuse folders of other things and of later formats."""
    kind = about.get("kind", "adapter")
    if kind == "vector" and (not isinstance(about.get("format"), int) or about["format"] > FORMAT):
        raise ModelError(
            given=f"the vector {folder} in format {about.get('format')!r}, written by trimtab {about.get('trimtab')}",
            expected=f"a format up to {FORMAT}",
            hint="update trimtab",
        )
    whole = (folder / "config.json").is_file() and not (folder / "adapter_config.json").is_file()
    if kind in ("lm", "value") or whole:
        raise ModelError(
            given=f"{folder}, which is a whole model",
            expected="a vector or a LoRA adapter",
            hint="take the vector between it and its base: tt.Vector.between(aligned, base)",
        )


def _nothing(folder: Path) -> ModelError:
    """Say why a folder holds no vector."""
    pickled = [*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]
    return ModelError(
        given=f"{folder}, "
        + (f"which has only pickled weights ({pickled[0].name})" if pickled else "without a vector"),
        expected=f"adapter_config.json with adapter_model.safetensors, or {DELTAS_FILE}",
        hint="save it as safetensors; trimtab never unpickles" if pickled else "check the path",
    )


def _origin(folder: Path, about: Mapping[str, Any]) -> Origin:
    """Return where a vector comes from; the base of a plain adapter is read for its identity."""
    base = about.get("base", {})
    fields = {name: about.get(name, "") for name in ("domain", "level", "made")}
    if not isinstance(base, dict) or not all(isinstance(each, str) for each in (*base.values(), *fields.values())):
        raise ModelError(
            given=f"{folder}/{GUIDE_FILE}, in which base, domain, level or made is no text",
            expected="the file that trimtab wrote",
            hint="save the vector again",
        )
    if about.get("kind") != "vector":
        fields["made"] = "low-rank adapter"
    if "identity" in base:
        return Origin(base["identity"], base.get("source", ""), **fields)
    source = base_of(folder)
    return Origin(Weights.open(source).identity, source, **fields)


def _replaceable(folder: Path) -> bool:
    """Return whether a folder is empty or holds a vector and nothing else."""
    try:
        ours = json.loads((folder / GUIDE_FILE).read_text(encoding="utf-8"))["kind"] == "vector"
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    known = {GUIDE_FILE, "README.md", DELTAS_FILE, "adapter_config.json", "adapter_model.safetensors"}
    return folder.is_dir() and (not any(folder.iterdir()) or (ours and {f.name for f in folder.iterdir()} <= known))


def _card(vector: Vector) -> str:
    """Return the README of a vector folder."""
    origin = vector.origin
    about = "\n".join(
        f"| {name} | {value} |"
        for name, value in (
            ("domain", origin.domain),
            ("level", origin.level),
            ("made", origin.made),
            ("low-rank modules", len(vector.low_rank)),
            ("plain differences", len(vector.dense)),
            ("base identity", origin.base[:16]),
        )
        if value
    )
    rest = f"\nPEFT loads the low-rank part alone; `{DELTAS_FILE}` has the rest.\n" if vector.dense else ""
    return f"""---
base_model: {origin.source}
library_name: trimtab
tags: [trimtab, vector]
---
# A vector for {origin.source}

What training changed, to be added to the model in any strength:

    import trimtab as tt
    steered = tt.LM.load("{origin.source}") + 0.7 * tt.Vector.load("path/of/this/folder")

| | |
|---|---|
{about}
{rest}"""
