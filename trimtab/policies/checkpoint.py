"""The weights of a model as a mapping that is read tensor by tensor: of a folder on disk, or of a model in memory.

Nothing is loaded: the architecture is built without memory, to learn what its tensors are called and which are tied.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from trimtab.assets import built_in_models, get_model, quiet_transformers
from trimtab.errors import ModelError
from trimtab.policies.identity import identity_of
from trimtab.policies.model_folder import read_config, without_weights
from trimtab.policies.tensor_files import TensorFiles
from trimtab.policies.vocabulary import Vocabulary

_BUFFERS = (r"rotary_emb\.inv_freq$",)
"""What old checkpoints hold and no architecture reads."""


@dataclass(frozen=True)
class Layout:
    """What the tensors of a model are called.

    Args:
        names: of all, those that are other names of tied ones too, as ``state_dict`` has them.
        tied: other name to the name that a tied tensor goes by.
        linear: the linear layers, without the output layer.
    """

    names: tuple[str, ...]
    tied: Mapping[str, str]
    linear: frozenset[str]

    @staticmethod
    def of(model: PreTrainedModel) -> Layout:
        """Read it off a model; adapters on it are left out."""
        first: dict[int, str] = {}
        tied = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if (known := first.setdefault(id(parameter), name)) != name:
                tied[plain(name)] = plain(known)
        head = model.get_output_embeddings()
        linear = {
            plain(name) for name, each in model.named_modules() if isinstance(each, nn.Linear) and each is not head
        }
        names = (plain(name) for name in model.state_dict() if ".lora_" not in name)
        return Layout(tuple(sorted(names)), tied, frozenset(name for name in linear if ".lora_" not in name))


def plain(name: str) -> str:
    """Return what a tensor or module is called when there is no adapter on it."""
    return f"{name}.".replace(".base_layer.", ".").removesuffix(".")


@dataclass(frozen=True)
class Weights:
    """The weights of a model, each tensor under one name.

    Args:
        source: where they are.
        config: of the architecture.
        layout: what is called how.
        tensors: by name, tied ones once.
        fingerprint: of the tokenizer, where there is one.
        known: their identity, where it is known already.
    """

    source: str
    config: PreTrainedConfig
    layout: Layout
    tensors: Mapping[str, Tensor]
    fingerprint: str | None = None
    known: str | None = None

    @staticmethod
    def open(source: str | Path) -> Weights:
        """Open a model's weights without reading them.

        Args:
            source: built-in name, path of a folder, or hub id.

        Raises:
            ModelError: there is no such model, it has no safetensors weights, or they are not what its configuration
                says.
        """
        folder = _folder_of(str(source))
        _check(folder)
        try:
            with quiet_transformers():
                config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
                with torch.device("meta"):
                    skeleton = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(
                given=f"{folder}, whose configuration cannot be used: {str(error).strip().splitlines()[0]}",
                expected="a causal language model of an architecture that transformers knows",
                hint="check config.json",
            ) from error
        stored = TensorFiles.open(_files(folder))
        layout, names = _match(skeleton, stored, folder)
        shown = str(source) if str(source) in _built_in() else str(folder.resolve())
        return Weights(shown, config, layout, stored.renamed(names), _fingerprint(folder))

    @cached_property
    def identity(self) -> str:
        """The ``Trunk.identity`` of the model when it is loaded."""
        return self.known or identity_of((name, self._loaded(self[name])) for name in self.layout.names)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[self.layout.tied.get(name, name)]

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape, without reading it where it is in a file."""
        own = self.layout.tied.get(name, name)
        return self.tensors.shapes[own] if isinstance(self.tensors, TensorFiles) else tuple(self.tensors[own].shape)

    def _loaded(self, tensor: Tensor) -> Tensor:
        """Round a tensor as loading does, to the dtype of the configuration."""
        dtype: torch.dtype | None = self.config.dtype
        return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def _built_in() -> set[str]:
    return {model.name for model in built_in_models()}


def _folder_of(source: str) -> Path:
    """Find the folder of a model; one of the hub is downloaded."""
    if source in _built_in():
        return get_model(source)
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download

    try:
        with quiet_transformers():
            patterns = ["*.json", "*.safetensors", "*.jinja", "*.model"]
            return Path(snapshot_download(source, allow_patterns=patterns, ignore_patterns=["*/*"]))
    except Exception as error:  # the hub's client lets through the errors of whichever HTTP library it is built on
        raise ModelError(
            given=f"the model {source!r}, which is no folder and cannot be fetched: {str(error).splitlines()[0]}",
            expected=f"a built-in name ({', '.join(sorted(_built_in()))}), a folder, or a hub id that can be reached",
            hint="check the path",
        ) from error


def _check(folder: Path) -> None:
    """Refuse folders that are no whole model in safetensors."""
    if (folder / "adapter_config.json").is_file() or not (folder / "config.json").is_file():
        what = "is an adapter" if (folder / "adapter_config.json").is_file() else "has no config.json"
        raise ModelError(
            given=f"the folder {folder}, which {what}",
            expected="a model folder of transformers",
            hint="check the path; an adapter can be the aligned side of a vector, not the base",
        )
    config = read_config(folder)
    if asks := {"auto_map", "quantization_config"} & set(config):
        raise ModelError(
            given=f"{folder}/config.json with {', '.join(sorted(asks))}",
            expected="plain weights of an architecture that transformers knows",
            hint="use the unquantised model; trimtab never runs a model's own code",
        )


def _files(folder: Path) -> list[Path]:
    """Return the files that hold a model's weights."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        raise without_weights(folder, "model.safetensors, or model.safetensors.index.json and the files it names")
    try:
        shards: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return [folder / Path(name).name for name in sorted(set(shards.values()))]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            given=f"{index}, which cannot be read: {error!r}", expected="an index of shards", hint="copy it again"
        ) from error


def _match(skeleton: PreTrainedModel, stored: TensorFiles, folder: Path) -> tuple[Layout, dict[str, str]]:
    """Find the architecture's tensors among those that are stored, as loading does."""
    layout, found = Layout.of(skeleton), {}
    for name in layout.names:
        short = name.removeprefix(f"{skeleton.base_model_prefix}.")  # checkpoints of the bare transformer lack it
        if name in stored or short in stored:
            found[name] = name if name in stored else short
    ignored = [*_BUFFERS, *(skeleton._keys_to_ignore_on_load_unexpected or ())]
    unused = set(stored) - set(found.values())
    extra = sorted(name for name in unused if not any(re.search(pattern, name) for pattern in ignored))
    tied = dict(layout.tied)
    for alias, name in layout.tied.items():
        if alias in found and name not in found:
            found[name] = found[alias]
        # A model whose two are both stored and differ is loaded untied, whatever its configuration says.
        if alias in found and found[alias] != found[name] and not _equal(stored, found[alias], found[name]):
            del tied[alias]
        elif alias in found:
            del found[alias]
    missing = [name for name in layout.names if name not in found and name not in tied]
    if missing or extra:
        what = f"without the tensors {few(missing)}" if missing else f"with the tensors {few(extra)}"
        raise ModelError(
            given=f"{folder} {what}",
            expected="the tensors of the architecture that its config.json names, no more and no less",
            hint="where loading renames tensors, load both models and take the vector in memory: "
            "tt.Vector.between(tt.LM.load(aligned), tt.LM.load(base))",
        )
    return Layout(layout.names, tied, layout.linear), found


def _equal(stored: TensorFiles, a: str, b: str) -> bool:
    return stored.shapes[a] == stored.shapes[b] and torch.equal(stored[a], stored[b])


def few(names: list[str]) -> str:
    """Show the first names of a list."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _fingerprint(folder: Path) -> str | None:
    """Return what tells the tokenizer in a folder from others, where there is one."""
    if not (folder / "tokenizer_config.json").is_file():
        return None
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError(
            given=f"the tokenizer in {folder}, which cannot be loaded: {str(error).strip().splitlines()[0]}",
            expected="a tokenizer that transformers can load",
            hint="copy it again",
        ) from error
    return Vocabulary.of_tokenizer(tokenizer, columns=len(tokenizer), end_ids=frozenset()).fingerprint
