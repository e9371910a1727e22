"""What a guide folder holds: a PEFT adapter in safetensors, and what training wrote beside it. Loads no model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig
from safetensors import SafetensorError
from safetensors.torch import load_file

from trimtab.errors import ModelError

GUIDE_FILE = "trimtab.json"
"""The file that makes a folder a guide folder."""

CONTROL_FILE = "control.safetensors"
"""Learned control embeddings of a guide, where it has any."""

DELTAS_FILE = "deltas.safetensors"
"""Plain differences of a vector, where it has any."""


def read_guide_file(folder: Path) -> dict[str, Any]:
    """Return what ``trimtab.json`` says of a guide folder; a plain PEFT folder has none and says nothing."""
    path = folder / GUIDE_FILE
    if not path.is_file():
        return {}
    try:
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ModelError(
            given=f"{path}, which is not JSON: {error}", expected="the file that training wrote", hint="train again"
        ) from error
    return about


def read_adapter_config(folder: Path) -> LoraConfig:
    """Return the shape of the LoRA adapter in a folder.

    Raises:
        ModelError: it is not a LoRA adapter.
    """
    config = PeftConfig.from_pretrained(str(folder))
    if not isinstance(config, LoraConfig):
        raise ModelError(
            given=f"the {config.peft_type} adapter {folder}",
            expected="a LoRA adapter",
            hint="convert it with peft's convert_to_lora, or merge it into its model",
        )
    if config.modules_to_save or config.trainable_token_indices or config.layer_replication or config.bias != "none":
        raise ModelError(
            given=f"the adapter {folder}, which also replaces weights of its base",
            expected="low-rank factors alone, so that the base stays as it is beside the adapter",
            hint="merge it into its base with peft's merge_and_unload, and load the result as a model",
        )
    if (folder / DELTAS_FILE).is_file():
        raise ModelError(
            given=f"the vector {folder}, which is more than low-rank factors, as an adapter",
            expected="low-rank factors alone",
            hint="add it to its base: base + tt.Vector.load(folder)",
        )
    config.inference_mode = True
    return config


def load_adapter_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Read an adapter's tensors.

    Raises:
        ModelError: there are none, or only pickled ones.
    """
    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        pickled = (folder / "adapter_model.bin").exists()
        raise ModelError(
            given=f"{folder}, " + ("which has only pickled weights" if pickled else "which has no adapter weights"),
            expected="adapter_model.safetensors",
            hint="save the adapter as safetensors; trimtab never unpickles" if pickled else "check the path",
        )
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ModelError(
            given=f"{path}, which is damaged: {error}", expected="a whole safetensors file", hint="copy it again"
        ) from error


def base_of(folder: Path) -> str:
    """Return where an adapter's base comes from."""
    about = read_guide_file(folder)
    source: str | None = about.get("base", {}).get("source") or read_adapter_config(folder).base_model_name_or_path
    if not source:
        raise ModelError(
            given=f"the adapter {folder}, which does not say what its base is",
            expected="base_model_name_or_path in adapter_config.json",
            hint="load the base yourself and use base.with_adapter(folder)",
        )
    return source


def adapter_digest(folder: Path) -> str:
    """Name an adapter by its content, so that a retrained one is never mistaken for its predecessor."""
    digest = hashlib.sha256()
    for name in ("adapter_config.json", "adapter_model.safetensors", CONTROL_FILE):
        if (folder / name).is_file():
            digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:16]
