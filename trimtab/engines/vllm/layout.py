"""A policy file as vLLM needs it: every LM a folder or hub id of whole weights, the exponents as a plan.

An adapter is merged into a copy of its base, once, in the folder of fetched assets: vLLM runs it as a model of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path

from transformers import AutoConfig

from trimtab.assets import built_in_models, get_model, home, quiet_transformers
from trimtab.assets.store import Progress, make_once, silent
from trimtab.engines.abilities import VLLM
from trimtab.engines.explain import explain
from trimtab.engines.tokenizer import load_vocabulary
from trimtab.engines.vllm.plan import Plan, factors
from trimtab.policies.knob import Exponent
from trimtab.policies.lm import load_trunk
from trimtab.policies.lora_files import read_factors
from trimtab.policies.merge import with_vectors
from trimtab.policies.policy_file import PolicyFile
from trimtab.policies.sketch import Sketch
from trimtab.policies.vector import Combination, Origin, Vector
from trimtab.policies.vocabulary import Vocabulary, common_vocabulary


@dataclass(frozen=True)
class Vectors:
    """The vectors on the first LM.

    Args:
        folders: name to folder.
        coefficients: name to coefficient in the policy.
    """

    folders: Mapping[str, str]
    coefficients: Mapping[str, Exponent]


@dataclass(frozen=True)
class Layout:
    """What vLLM is started with.

    Args:
        plan: the LMs and exponents.
        vocabulary: the tokens that all LMs share.
        dtype: that the first LM runs in, as ``EngineArgs`` names it: the base's own.
        vectors: on the first LM; None where there are none.
        system: the system prompt that all LMs share, or None.
        prompt: the text before every prompt that all LMs share, or None.
    """

    plan: Plan
    vocabulary: Vocabulary
    dtype: str = "auto"
    vectors: Vectors | None = None
    system: str | None = None
    prompt: str | None = None


def lay_out(file: PolicyFile, *, metered: bool = False, progress: Progress = silent) -> Layout:
    """Write what vLLM needs to run a policy file, and say where it is.

    Args:
        file: the policy file; its search is not looked at.
        metered: whether the policy's reference has to be there; where it is none of the LMs, it becomes one more.
        progress: told what is going on, one plain line at a time.

    Raises:
        ConfigError: vLLM cannot run the policy; the message says which part, and the way out.
        ModelError: a model cannot be loaded.
        VocabularyError: the models speak different tokens.
    """
    policy = file.sketch()
    explain(policy, VLLM).check()
    found = [(leaf, exponent) for leaf, exponent in factors(policy) if isinstance(leaf, Sketch)]
    bare = [replace(leaf, view=None, vectors=Combination()) for leaf, _ in found]  # a request adds the rest
    reference = policy.reference
    if metered and reference not in bare and isinstance(reference, Sketch):
        found.append((reference, Exponent.of(0.0)))
        bare.append(reference)
    models = tuple(_folder(leaf, progress) for leaf, _ in found)
    tokenizers = [load_vocabulary(model) for model in models]
    vocabulary = reduce(common_vocabulary, tokenizers)
    first = found[0][0]
    place = bare.index(reference) if reference in bare else None
    plan = Plan(models, tuple(exponent for _, exponent in found), vocabulary.size, place)
    system, prompt = first.view if isinstance(first.view, tuple) else (None, None)
    named = {str(vector): (vector.origin.source, coefficient) for vector, coefficient in first.vectors.parts}
    vectors = Vectors(
        {name: folder for name, (folder, _) in named.items()},
        {name: coefficient for name, (_, coefficient) in named.items()},
    )
    dtype = "auto" if first.adapter is None else _dtype(str(first.source))
    return Layout(plan, vocabulary, dtype, vectors if named else None, system, prompt)


def _dtype(source: str) -> str:
    """Return the 16-bit dtype that the weights of a model are stored in; vLLM decides for all others."""
    with quiet_transformers():
        dtype = AutoConfig.from_pretrained(folder_of(source), trust_remote_code=False).dtype
    name = str(dtype).removeprefix("torch.")
    return name if name in ("bfloat16", "float16") else "auto"


def _folder(leaf: Sketch, progress: Progress) -> str:
    """Return where the whole weights of an LM are, after its adapter was merged into a copy."""
    source = str(leaf.source)
    if leaf.adapter is not None:
        return str(_merged(source, Path(leaf.adapter), progress))
    return folder_of(source)


def folder_of(source: str) -> str:
    """Return the folder of a built-in model, or the source itself."""
    return str(get_model(source)) if source in {model.name for model in built_in_models()} else source


def _merged(source: str, adapter: Path, progress: Progress) -> Path:
    """Return the folder of a base with an adapter merged into it, in float32: vLLM rounds it once, when it loads it."""
    factors_ = read_factors(adapter)
    base = load_trunk(source, "float32", "cpu", shared=False)
    vector = Vector(factors_, {}, Origin(base.identity, str(adapter)), adapter.name)
    name = hashlib.sha256(f"{base.identity} {vector.digest}".encode()).hexdigest()[:20]

    def write(folder: Path) -> None:
        progress(f"merging {adapter} into a copy of {source} for vLLM")
        with_vectors(base.model, source, {vector: 1.0}).save_pretrained(folder)
        base.vocabulary.tokenizer.save_pretrained(folder)

    return make_once(home() / "merged" / name, write)
