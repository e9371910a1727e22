"""Taking vectors: what training changed, streamed tensor by tensor, or an adapter's own factors.

``v = theta_aligned - theta_base``. Two tensors are in memory at a time, not two models.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from trimtab.errors import ModelError, VocabularyError
from trimtab.policies.checkpoint import Layout, Weights, few, plain
from trimtab.policies.guide_folder import read_guide_file
from trimtab.policies.lazy import LazyTensors
from trimtab.policies.lm import LM
from trimtab.policies.lora_files import factors_of, read_factors
from trimtab.policies.tensor_files import finite
from trimtab.policies.vector import LowRank, Origin, Vector
from trimtab.policies.vector_folder import refuse_zero

Source = str | Path | LM
"""A built-in name, a folder, a hub id, or a model in memory."""


def between(aligned: Source, base: Source, *, domain: str = "", level: str = "") -> Vector:
    """Return what training changed, ``theta_aligned - theta_base``.

    Of two models on disk the differences are computed whenever they are asked for, in float32 or the wider dtype of the
    two, so that saving them takes the memory of two tensors; the folders must stay as they are until then. An adapter
    on the base is its own exact low-rank form. Tensors that are equal in both are left out.

    Args:
        aligned: the trained model, or the LoRA adapter that was trained on the base.
        base: the model it was trained from.
        domain: what the vector is about, for instance "medical".
        level: what it moves towards, for instance "expert".

    Raises:
        ModelError: a model cannot be read, they differ in architecture, shapes, names of tensors or tied output layers,
            values are not finite, or nothing was changed.
        VocabularyError: they speak different tokens.

    Example:
        >>> from trimtab.testing import tiny_lm
        >>> tuned, untuned = tiny_lm(seed=1), tiny_lm(seed=0)
        >>> vector = between(tuned, untuned, domain="medical")
        >>> difference = tuned.trunk.model.lm_head.weight - untuned.trunk.model.lm_head.weight
        >>> torch.equal(vector.dense["lm_head.weight"], difference)
        True

    Reference: Shahriar et al. (2024), Inference time LLM alignment in single and multidomain preference spectrum;
    Ilharco et al. (2023), Editing Models with Task Arithmetic. Buffers of integers are left out, as there.
    """
    old = _weights(base)
    label = domain or (aligned.name if isinstance(aligned, LM) else Path(aligned).name)
    low_rank: Mapping[str, LowRank] = {}
    dense: Mapping[str, Tensor] = {}
    if (factors := _adapter(aligned, old)) is not None:
        source = aligned.name if isinstance(aligned, LM) else str(aligned)
        _check_factors(factors, old, source)
        low_rank, made = factors, f"LoRA adapter {source}"
    else:
        new = _weights(aligned)
        _check_alike(new, old)
        made = f"{new.source} minus {old.source}"
        dense = _differences(new, old)
        if isinstance(aligned, LM) or isinstance(base, LM):
            dense = dict(dense)  # models in memory may change or go
    origin = Origin(old.identity, old.source, domain, level, made)
    vector = Vector(low_rank, dense, origin, label)
    refuse_zero(vector, made)
    return vector


def _differences(new: Weights, old: Weights) -> LazyTensors:
    """Read both models once, to learn which tensors differ; compute their differences when they are asked for."""

    def difference(name: str) -> Tensor:
        after = new[name]
        before = old[name].to(after.device)
        wide = torch.promote_types(torch.promote_types(after.dtype, before.dtype), torch.float32)
        return after.to(wide) - before  # which is exact in the wide dtype, whatever the two are

    return LazyTensors([name for name in _shared_names(new, old) if _is_changed(new, old, name)], difference)


def _is_changed(new: Weights, old: Weights, name: str) -> bool:
    """Compare one tensor, and refuse values that no vector can hold."""
    a, b = finite(new[name], f"{name!r} of {new.source}"), finite(old[name], f"{name!r} of {old.source}")
    if a.is_floating_point() and b.is_floating_point():
        wide = torch.promote_types(a.dtype, b.dtype)
        return not torch.equal(a.to(wide), b.to(a.device, wide))
    if torch.equal(a, b.to(a.device)):
        return False
    raise ModelError(
        given=f"{name!r}, which is {a.dtype} in {new.source} and {b.dtype} in {old.source}, with other values",
        expected="weights that are floating-point numbers wherever they differ",
        hint="use the unquantised models",
    )


def _weights(source: Source) -> Weights:
    """Open a model on disk, or take one that is in memory."""
    if not isinstance(source, LM):
        return Weights.open(source)
    _refuse_steered(source)
    if source.adapter is not None or source.view.control is not None:
        raise ModelError(
            given=f"{source.name}, which has an adapter or learned control tokens, where whole weights are compared",
            expected="an adapter on the base itself as the aligned model, or two models without adapters",
            hint="load the base that the adapter was trained on, and use it for both",
        )
    model = source.trunk.model
    layout = Layout.of(model)
    state = {plain(name): tensor.detach() for name, tensor in model.state_dict().items()}
    tensors = {name: state[name] for name in layout.names if name not in layout.tied}
    return Weights(
        source.trunk.source, model.config, layout, tensors, source.vocabulary.fingerprint, source.trunk.identity
    )


def _refuse_steered(lm: LM) -> None:
    if lm.vectors.parts:
        raise ModelError(
            given=f"{lm.name}, to which vectors are added",
            expected="a model as it was trained",
            hint="vectors.realise(0.7 * medical - 0.3 * legal) makes one vector of a combination",
        )


def _adapter(aligned: Source, base: Weights) -> dict[str, LowRank] | None:
    """Return the factors of an adapter on the base, or None for a whole model."""
    if isinstance(aligned, LM):
        if aligned.adapter is None or aligned.view.control is not None:
            return None
        _refuse_steered(aligned)
        stated, where = aligned.trunk.identity, aligned.name
        config, weights = aligned.trunk.adapter_config(aligned.adapter), aligned.trunk.adapter_weights(aligned.adapter)
        factors = factors_of(config, weights, where)
    else:
        folder, where = Path(aligned), str(aligned)
        if not (folder / "adapter_config.json").is_file():
            return None
        about = read_guide_file(folder)
        if about.get("kind") == "vector":
            raise ModelError(
                given=f"{folder}, which is a vector already",
                expected="a trained model or adapter",
                hint="tt.Vector.load(folder)",
            )
        stated, factors = about.get("base", {}).get("identity"), read_factors(folder)
    if stated not in (None, base.identity):
        raise ModelError(
            given=f"the adapter {where}, trained on weights {stated[:12]}, on {base.source} ({base.identity[:12]})",
            expected="the very weights the adapter was trained on",
            hint="use its own base, then transfer the vector to the sibling",
        )
    return factors


def _check_factors(factors: Mapping[str, LowRank], base: Weights, where: str) -> None:
    """Refuse factors that do not fit on the base."""
    for module, each in factors.items():
        name, shape = f"{module}.weight", (each.up.shape[0], each.down.shape[1])
        # Layers that are not torch's own Linear, such as GPT-2's, keep their weights transposed.
        fitting = {shape} if module in base.layout.linear else {shape, shape[::-1]}
        if name not in base.layout.names or base.shape(name) not in fitting:
            there = base.shape(name) if name in base.layout.names else "no such tensor"
            raise ModelError(
                given=f"the adapter {where}, which changes {name!r} of shape {shape}, on {base.source} with {there}",
                expected="an adapter that was trained on this base",
                hint="check the base; adapter_config.json names it",
            )


def _check_alike(new: Weights, old: Weights) -> None:
    """Refuse models of different architecture, vocabulary or shapes, before their values are read."""
    if new.config.model_type != old.config.model_type:
        raise ModelError(
            given=f"{new.source} ({new.config.model_type}) and {old.source} ({old.config.model_type})",
            expected="two models of one architecture",
            hint="a vector leads from a model to one that was trained from it",
        )
    if None not in (new.fingerprint, old.fingerprint) and new.fingerprint != old.fingerprint:
        raise VocabularyError(
            given=f"{new.source} and {old.source}, whose tokenizers differ",
            expected="two models that speak the same tokens",
            hint="a vector leads from a model to one that was trained from it",
        )
    for name in _shared_names(new, old):
        if new.shape(name) != old.shape(name):
            raise ModelError(
                given=f"{name!r} of shape {new.shape(name)} in {new.source} and {old.shape(name)} in {old.source}",
                expected="two models of the same shapes",
                hint="a vector leads from a model to one that was trained from it",
            )


def _shared_names(new: Weights, old: Weights) -> tuple[str, ...]:
    """Return the names of the base's tensors, tied ones once; refuse models that do not have the same."""
    own, theirs = (set(weights.layout.names) - set(weights.layout.tied) for weights in (old, new))
    for untied, tied, names in ((old, new, own - theirs), (new, old, theirs - own)):
        # A head that one model ties and the other keeps apart is the same head only while its values are.
        foreign = sorted(names - set(tied.layout.tied))
        apart = [name for name in names - set(foreign) if not _same(untied, name, tied.layout.tied[name])]
        if foreign or apart:
            what = f"{few(foreign)} alone" if foreign else f"{few(apart)} apart, which the other ties"
            raise ModelError(
                given=f"{untied.source} and {tied.source}, of which the first has {what}",
                expected="two models with the same tensors, both with tied output layers or both with their own",
                hint="save both with transformers' save_pretrained under one tie_word_embeddings",
            )
    return tuple(sorted(own))


def _same(weights: Weights, a: str, b: str) -> bool:
    return weights.shape(a) == weights.shape(b) and torch.equal(weights[a], weights[b])
