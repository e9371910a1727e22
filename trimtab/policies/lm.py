"""LM: the leaf policy. A frozen causal LM, optionally with a LoRA adapter, optionally seen through a prompt view.

Several LMs can share one trunk; loading a model or a guide twice re-uses the trunk that is in memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from trimtab.assets import built_in_models, get_model, quiet_transformers
from trimtab.errors import ModelError, UsageError, VocabularyError
from trimtab.policies.base import Leaf, Policy
from trimtab.policies.guide_folder import (
    CONTROL_FILE,
    adapter_digest,
    base_of,
    load_adapter_weights,
    read_adapter_config,
    read_guide_file,
)
from trimtab.policies.identity import weights_identity
from trimtab.policies.knob import Exponent, Knob, declared_knobs
from trimtab.policies.merge import vector_adapter
from trimtab.policies.model_folder import read_config, without_weights
from trimtab.policies.scales import Loads
from trimtab.policies.trunk import Trunk
from trimtab.policies.vector import Combination, Linear, Vector
from trimtab.policies.view import View, prompt_view, system_view
from trimtab.policies.vocabulary import Vocabulary

_trunks: WeakValueDictionary[tuple[str, str, str, str], Trunk] = WeakValueDictionary()


@dataclass(frozen=True)
class LM(Leaf):
    """A frozen causal LM as a policy.

    Build it with :meth:`load`; equal LMs (same weights, adapter and view) merge in products whatever their names.

    Args:
        trunk: the base weights.
        adapter: name of the adapter on the trunk, or None.
        view: what it sees in place of the prompt.
        vectors: what is added to its weights.
        label: what messages call it.
    """

    trunk: Trunk
    adapter: str | None = None
    view: View = field(default_factory=View)
    vectors: Combination = field(default_factory=Combination)
    label: str = field(default="lm", compare=False)

    @staticmethod
    def load(source: str | Path, *, dtype: str = "auto", device: str = "auto", name: str | None = None) -> LM:
        """Load a built-in model, a local folder, a guide folder, or a model of the Hugging Face hub.

        Args:
            source: built-in name, path of a folder, or hub id.
            dtype: "auto" (the dtype the weights are stored in), "float32", "bfloat16" or "float16".
            device: "auto" (a GPU when there is one), "cpu", "cuda", "cuda:1", "mps".
            name: what messages and expressions call it; the last part of the source by default.

        Returns:
            The LM. The weights are read once however often they are asked for.

        Raises:
            ModelError: there is no such model, it has no safetensors weights, or it asks to run code of its own.

        Example:
            >>> base = LM.load("smollm2-135m")  # doctest: +SKIP
            >>> guide = LM.load("runs/demo/guide")  # doctest: +SKIP
        """
        label = name or Path(source).name
        folder = Path(source)
        if (folder / "adapter_config.json").is_file():
            base = LM.load(base_of(folder), dtype=dtype, device=device, name=label)
            return base.with_adapter(folder)
        trunk = load_trunk(str(source), dtype, device)
        if (folder / CONTROL_FILE).is_file() and "" not in trunk.controls:
            _read_control(trunk, "", folder)
        return LM(trunk, view=View(control=0) if "" in trunk.controls else View(), label=label)

    @staticmethod
    def of(model: PreTrainedModel, vocabulary: Vocabulary, *, name: str = "lm", cached: bool = True) -> LM:
        """Wrap a model that is in memory already; ``cached=False`` runs the whole prefix at every step."""
        return LM(Trunk(model, vocabulary, name, cached=cached), label=name)

    def with_adapter(self, folder: str | Path) -> LM:
        """Return this LM with the LoRA adapter of a guide or PEFT folder; the weights are shared, not copied.

        Raises:
            ModelError: the folder holds no safetensors adapter, or the adapter belongs to another base.
        """
        folder = Path(folder)
        weights, config = load_adapter_weights(folder), read_adapter_config(folder)
        about = read_guide_file(folder)
        expected = about.get("base", {}).get("identity")
        if expected is not None and expected != self.trunk.identity:
            raise ModelError(
                given=f"the adapter {folder}, trained on {about['base'].get('source')} ({expected[:12]}), "
                f"on the weights of {self.trunk.source} ({self.trunk.identity[:12]})",
                expected="the very weights the adapter was trained on",
                hint=f"load {about['base'].get('source')} as the base of this adapter",
            )
        _check_tokens(about.get("vocabulary"), self.trunk.vocabulary, folder)
        name = f"a{adapter_digest(folder)}"
        if not self.trunk.has_adapter(name):
            self.trunk.add_adapter(name, config, weights)
            if (folder / CONTROL_FILE).is_file():
                _read_control(self.trunk, name, folder)
        return replace(self, adapter=name).with_control(0 if name in self.trunk.controls else None)

    def with_prompt(self, text: str) -> LM:
        """Return this LM seeing ``text`` before every prompt."""
        return replace(self, view=replace(prompt_view(self.vocabulary, text), control=self.view.control))

    def with_system(self, text: str) -> LM:
        """Return this LM seeing the prompt as a user's turn after a system prompt, in the model's own chat format.

        Raises:
            ModelError: its tokenizer has no chat template.
        """
        return replace(self, view=replace(system_view(self.vocabulary, text), control=self.view.control))

    def with_control(self, control: int | None) -> LM:
        """Return this LM starting from another of its adapter's learned control tokens; 0 is the best one."""
        return replace(self, view=replace(self.view, control=control))

    def __add__(self, other: Linear) -> LM:
        """Add a vector or a combination of vectors to the weights; nothing is computed until it is used.

        Low-rank vectors ride on the trunk, and so do plain differences of norms, biases, embeddings and the output
        layer where the lean pass knows the architecture: rows may use different coefficients, and none is merged.
        Vectors with plain differences of other tensors are merged into a copy of the tensors that they change.

        Raises:
            ModelError: a vector was taken from other weights.
            KnobError: the coefficient of a vector that has to be merged holds a knob.

        Example:
            >>> base, med = LM.load("smollm2-135m"), Vector.load("vectors/medical")  # doctest: +SKIP
            >>> (base + Knob("medical", 0.7, min=-1, max=2) * med).generate("What is a fever?")  # doctest: +SKIP

        Reference: Ilharco et al. (2023), Editing Models with Task Arithmetic.
        """
        if not isinstance(other, Linear):
            return NotImplemented
        for vector, _ in other.terms():
            self._check_vector(vector)
        vectors = self.vectors + other
        added = replace(self, vectors=vectors)
        added._merging.coefficients()
        return added

    def __sub__(self, other: Linear) -> LM:
        """Subtract a vector or a combination of vectors from the weights."""
        return self + -other if isinstance(other, Linear) else NotImplemented

    def _check_vector(self, vector: Vector) -> None:
        if vector.origin.base != self.trunk.identity:
            raise ModelError(
                given=f"the vector {vector} of {vector.origin.source} ({vector.origin.base[:12]}), "
                f"added to {self.trunk.source} ({self.trunk.identity[:12]})",
                expected="the very weights the vector was taken from",
                hint="load that base, or, where this is a sibling of the same architecture, transfer the vector to it",
            )

    def steps_like(self, other: Leaf) -> bool:
        """Return whether both have the same weights; what a view put before the prompt is in the state already."""
        mine = self.trunk, self.adapter, self.vectors
        return isinstance(other, LM) and mine == (other.trunk, other.adapter, other.vectors)

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """The knobs in the coefficients of its vectors."""
        return declared_knobs(knob for _, coefficient in self.vectors.parts for knob in coefficient.knobs)

    @property
    def loads(self) -> Loads:
        """The adapters on its trunk that it uses, and how strongly."""
        own = {} if self.adapter is None else {self.adapter: Exponent.of(1.0)}
        return own | {vector_adapter(vector): coefficient for vector, coefficient in self.riding.items()}

    @property
    def riding(self) -> dict[Vector, Exponent]:
        """The vectors that rows may use at coefficients of their own."""
        return {vector: coefficient for vector, coefficient in self.vectors.parts if self.trunk.rides(vector)}

    @property
    def _merging(self) -> Combination:
        """The others, which are merged into weights of their own."""
        return Combination(tuple(part for part in self.vectors.parts if not self.trunk.rides(part[0])))

    @property
    def untouched(self) -> LM:
        """The same weights and view without adapter or vectors."""
        return replace(self, adapter=None, view=replace(self.view, control=None), vectors=Combination())

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens of its tokenizer."""
        return self.trunk.vocabulary

    @property
    def reference(self) -> Policy:
        """The untouched base: the same weights without adapter or view."""
        return LM(self.trunk, label=self.label)

    @property
    def host(self) -> Trunk:
        """Its trunk, or the trunk with its vectors merged in where that has to be."""
        return self._host

    @cached_property
    def _host(self) -> Trunk:
        """Held here, so that merged weights live as long as what uses them."""
        return self.trunk.merged(self._merging.coefficients()) if self._merging.parts else self.trunk

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.vectors.added_to(self.label)

    @property
    def context_length(self) -> int | None:
        """Longest sequence of the request it can read, in tokens, after what its view takes."""
        return None if self.trunk.context_length is None else self.trunk.context_length - self.view.extra


def load_trunk(source: str, dtype: str, device: str, *, shared: bool = True) -> Trunk:
    """Read a model's weights, or return the trunk that already holds them.

    Args:
        source: built-in name, path of a folder, or hub id.
        dtype: of the weights.
        device: where they go.
        shared: False reads them again, for weights that will be trained.

    Raises:
        ModelError: there is no such model, or it cannot be used.
    """
    device = resolve_device(device)
    built_in = source in {model.name for model in built_in_models()}
    path = str(get_model(source)) if built_in else source
    where = str(Path(path).resolve()) if Path(path).is_dir() else path
    if Path(path).is_dir():
        _check_folder(Path(path))
    key = (where, _stamp(Path(path)), dtype, device)
    if shared and (trunk := _trunks.get(key)) is not None:
        return trunk
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(path, trust_remote_code=False)
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
            model = AutoModelForCausalLM.from_pretrained(
                path, config=config, dtype="auto", trust_remote_code=False, use_safetensors=True
            )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError(
            given=f"the model {source!r}, which cannot be loaded: {str(error).strip().splitlines()[0]}",
            expected=f"a built-in name ({', '.join(m.name for m in built_in_models())}), a folder with config.json, "
            "safetensors weights and a tokenizer, or a hub id that can be reached",
            hint="run `trimtab models` to see the built-in ones, or check the path",
        ) from error
    except RuntimeError as error:
        if "mismatched" not in str(error):
            raise
        raise ModelError(
            given=f"the model {source!r}, whose tensors do not have the sizes that its config.json says",
            expected="an output layer and layers of the configuration's hidden size and vocabulary",
            hint="a value head belongs to one transformer and one tokenizer; train it again on this one",
        ) from error
    vocabulary = Vocabulary.of_tokenizer(
        tokenizer, columns=model.get_output_embeddings().weight.shape[0], end_ids=_end_ids(model, tokenizer)
    )
    identity = weights_identity(model)  # of the stored values, before they are rounded to another dtype
    if dtype != "auto":
        model = model.to(_dtype(dtype))
    trunk = Trunk(model.to(device), vocabulary, source if built_in else where, identity=identity)
    if shared:
        _trunks[key] = trunk
    return trunk


def _check_folder(folder: Path) -> None:
    """Refuse folders without weights, with only pickled ones, or that ask to run their own code."""
    if not (folder / "config.json").is_file():
        raise ModelError(
            given=f"the folder {folder}, which has no config.json",
            expected="a transformers model folder or a guide folder",
            hint="check the path",
        )
    config = read_config(folder)
    if "auto_map" in config:
        raise ModelError(
            given=f"{folder}/config.json, which asks to run code that comes with the model",
            expected="an architecture that transformers knows",
            hint="trimtab never runs a model's own code; convert the model, or use a version transformers supports",
        )
    if not list(folder.glob("*.safetensors")):
        raise without_weights(folder, "weights in safetensors")


def _check_tokens(fingerprint: str | None, vocabulary: Vocabulary, folder: Path) -> None:
    if fingerprint is not None and fingerprint != vocabulary.fingerprint:
        raise VocabularyError(
            given=f"the guide {folder} with tokenizer {fingerprint[:12]} on a model with {vocabulary.fingerprint[:12]}",
            expected="the tokenizer the guide was trained with",
            hint="use the guide's own base",
        )


def _end_ids(model: PreTrainedModel, tokenizer: Any) -> frozenset[int]:
    """Collect the ids that end an answer, from the generation settings and the tokenizer."""
    settings = model.generation_config.eos_token_id if model.generation_config is not None else None
    ids = settings if isinstance(settings, list) else [settings]
    return frozenset(int(i) for i in (*ids, tokenizer.eos_token_id) if i is not None)


def _read_control(trunk: Trunk, adapter: str, folder: Path) -> None:
    """Put a guide's learned control embeddings on its trunk."""
    table = load_file(folder / CONTROL_FILE)["control.weight"]
    trunk.add_control(adapter, len(table), seed=0).weight.detach().copy_(table)


def _stamp(folder: Path) -> str:
    """Tell a folder's weights from those that were there before: names, sizes and times of its files."""
    files = sorted(folder.glob("*.safetensors"))
    return " ".join(f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files)


def _dtype(name: str) -> torch.dtype:
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in known:
        raise UsageError(given=f"the dtype {name!r}", expected=f"auto, {', '.join(known)}", hint="use auto")
    return known[name]


def resolve_device(device: str) -> str:
    """Return the device that "auto" stands for, or the one that is named.

    Raises:
        UsageError: torch does not know the device.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return str(torch.device(device))
    except RuntimeError as error:
        raise UsageError(
            given=f"the device {device!r}", expected="auto, cpu, cuda, cuda:N or mps", hint=str(error)
        ) from error
