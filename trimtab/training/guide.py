"""Writing a guide folder: a standard PEFT or transformers folder, plus what trimtab knows of it and a model card."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save_file

from trimtab.policies.guide_folder import CONTROL_FILE
from trimtab.policies.lm import LM
from trimtab.policies.write_folder import write_folder
from trimtab.training.config import TrainConfig
from trimtab.training.trainee import Trainee


def write_guide(folder: Path, trainee: Trainee, config: TrainConfig, numbers: Mapping[str, Any]) -> Path:
    """Write the guide and, beside it, the policy file that uses it.

    Args:
        folder: where to; an older guide there is replaced once the new one is whole.
        trainee: what was trained.
        config: how.
        numbers: metrics of the last step.

    Returns:
        The folder.
    """
    about = {
        "kind": "adapter" if trainee.guide.adapter else "lm",
        "base": {"source": trainee.untrained.trunk.source, "identity": trainee.untrained.trunk.identity},
        "tailors": {"source": config.base, "approximated_by": config.approximate_base},
        "vocabulary": trainee.guide.vocabulary.fingerprint,
        "policy": expression(config),
        "strength": config.strength,
        "trained": config.model_dump(mode="json"),
        "last_step": dict(numbers),
    }
    write_folder(folder, partial(_write_weights, trainee=trainee), about, model_card(config, numbers))
    policy_file = folder.with_name("policy.yaml")
    policy_file.write_text(yaml.safe_dump(_policy_file(config, folder), sort_keys=False), encoding="utf-8")
    return folder


def write_adapter(folder: Path, lm: LM) -> None:
    """Write an LM's adapter as PEFT does.

    Args:
        folder: where to.
        lm: an LM with an adapter.
    """
    assert lm.adapter is not None
    config = lm.trunk.adapter_config(lm.adapter)
    config.base_model_name_or_path = lm.trunk.source
    config.inference_mode = True
    config.save_pretrained(str(folder))
    save_file(lm.trunk.adapter_weights(lm.adapter), folder / "adapter_model.safetensors")


def expression(config: TrainConfig) -> str:
    """Return the policy that was trained, as text with a knob for the strength.

    Example:
        >>> expression(TrainConfig(form="raw")), expression(TrainConfig())
        ('base * guide^strength', 'base * (guide / base)^strength')
    """
    base = "base" if config.base_top_k is None else f"top_k(base, {config.base_top_k})"
    if config.form == "raw":
        return f"{base} * guide^strength"
    untrained = "base" if config.adapter.base is None and config.approximate_base is None else "untrained"
    return f"{base} * (guide / {untrained})^strength"


def model_card(config: TrainConfig, numbers: Mapping[str, Any]) -> str:
    """Return the README of a guide folder."""
    algorithm = "Quark" if config.algorithm.name == "quark" else config.algorithm.name.upper()
    measured = "\n".join(
        f"| {label} | {numbers[key]:.3f} |"
        for key, label in (
            ("reward", "training reward, mean of the last step"),
            ("kl", "KL to the base on the last batch, nats per token"),
            ("entropy", "entropy, nats per token"),
            ("distinct_2", "distinct-2 of the last step's answers"),
        )
        if key in numbers
    )
    return f"""---
base_model: {config.adapter.base or config.approximate_base or config.base}
library_name: trimtab
tags: [trimtab, policy-adapter, {config.algorithm.name}]
---
# A policy adapter for {config.base}

It steers `{config.base}` at inference time; the model's own weights stay as they are:

    trimtab generate ../policy.yaml "The film was" --knob strength=1

The policy is `{expression(config)}`, trained at strength {config.strength:g} with {algorithm} against the reward
`{config.reward}`. Larger strengths steer harder; 0 is the base.

| measured on training prompts | |
|---|---|
{measured}

These numbers come from the reward it was trained on. Judge it with a scorer that training never saw: `trimtab eval`.
"""


def _write_weights(folder: Path, trainee: Trainee) -> None:
    guide, trunk = trainee.guide, trainee.guide.trunk
    if guide.adapter is None:
        trunk.model.save_pretrained(folder)
        guide.vocabulary.tokenizer.save_pretrained(folder)
    else:
        write_adapter(folder, guide)
    if (control := trunk.controls.get(guide.adapter or "")) is not None:
        save_file({"control.weight": control.weight.detach().contiguous()}, folder / CONTROL_FILE)


def _policy_file(config: TrainConfig, guide: Path) -> dict[str, Any]:
    models = {"base": config.base, "guide": guide.name}
    text = expression(config)
    if "untrained" in text:
        models["untrained"] = config.adapter.base or str(config.approximate_base)
    # A run that kept to the nucleus of its own older copy has learned nothing of what is outside.
    mask = None if config.algorithm.name == "quark" else config.algorithm.mask
    return {
        "models": models,
        "knobs": {"strength": {"default": config.strength, "min": 0.0, "max": 3.0}},
        "policy": text,
        **({} if mask is None else {"decoding": {"top_p": mask.top_p}}),
    }
