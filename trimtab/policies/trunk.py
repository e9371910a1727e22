"""A trunk: one set of base weights in memory, shared by every LM made from it.

Its leaves (the base, adapters on it, other views of the prompt) are rows of one stack and advance in one forward, where
the lean pass of ``decoder.py`` knows the architecture and the adapters. Otherwise, and where gradients are wanted, they
run through ``transformers``, leaves with the same adapter together and different adapters one after another.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimtab.assets import quiet_peft
from trimtab.errors import ModelError, StateError
from trimtab.policies.base import Prompt
from trimtab.policies.cache import Rows
from trimtab.policies.decoder import Decoder
from trimtab.policies.family import knows
from trimtab.policies.forward import Forward, with_controls
from trimtab.policies.graph import Graphs
from trimtab.policies.identity import weights_identity
from trimtab.policies.knob import KnobValues
from trimtab.policies.lora_files import as_adapter
from trimtab.policies.merge import check_fits, vector_adapter, with_vectors
from trimtab.policies.padded import Padded
from trimtab.policies.scales import Scales
from trimtab.policies.shift import can_shift
from trimtab.policies.slots import whole_grains
from trimtab.policies.stack import Stack, TrunkState
from trimtab.policies.vector import Vector
from trimtab.policies.vocabulary import Vocabulary

if TYPE_CHECKING:
    from trimtab.policies.lm import LM


_UNKNOWN = ("?",)


class Trunk:
    """Base weights and the adapters loaded on them.

    Args:
        model: a causal LM; its weights are frozen here and stay as they are on disk.
        vocabulary: its tokens.
        source: where it came from, for guide folders and messages.
        cached: False runs the whole prefix at every step: the slow and obvious twin of the cached path.
        identity: hash of the weights as they are stored, where it is known.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        vocabulary: Vocabulary,
        source: str,
        *,
        cached: bool = True,
        identity: str | None = None,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.vocabulary = vocabulary
        self.source = source
        self.identity = identity or weights_identity(model)
        self.context_length: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.controls: dict[str, nn.Embedding] = {}
        self._peft: PeftModel | None = None
        self.origin: Trunk | None = None
        """The trunk that this one was merged from."""
        self._merged: WeakValueDictionary[tuple[tuple[str, float], ...], Trunk] = WeakValueDictionary()
        self._shifts: dict[str, Mapping[str, Tensor]] = {}
        self._active: tuple[str, ...] = ()
        self._lock = threading.RLock()
        self._embeddings = model.get_input_embeddings()
        self._forward = Forward(model, cached=cached)
        self._leanable = self._forward.keeps_cache and knows(model)
        self._decoder: Decoder | None = None
        self._graphs = Graphs()
        self._weights = tuple(self.model.parameters())
        self._apart: set[str] = set()

    @property
    def keeps_cache(self) -> bool:
        """Whether a step runs the new tokens alone, which it cannot where a model's state is not keys and values."""
        return self._forward.keeps_cache

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.model.device
        return device

    # -- adapters ----------------------------------------------------------------------------------------------------

    def add_adapter(self, name: str, config: LoraConfig, weights: dict[str, Tensor] | None = None) -> None:
        """Put a LoRA adapter on the trunk, in float32, next to those already there.

        Args:
            name: what LMs call it.
            config: its shape.
            weights: its tensors, or None for a fresh adapter, which starts as the identity.

        Raises:
            ModelError: the adapter does not fit on these weights.
        """
        trained = self._trained()
        try:
            with quiet_peft():
                if self._peft is None:
                    self._peft = PeftModel(self.model, config, adapter_name=name)
                else:
                    self._peft.add_adapter(name, config)
            if weights is not None:
                loaded = set_peft_model_state_dict(self._peft, weights, adapter_name=name)
                missing = [key for key in loaded.missing_keys if f".{name}." in key]
                if wrong := [*loaded.unexpected_keys, *missing]:
                    raise ValueError(f"its tensors are not those of its configuration, the first is {wrong[0]}")
        except (ValueError, RuntimeError, KeyError) as error:
            self._active = _UNKNOWN
            self._discard(name, trained)
            raise ModelError(
                given=f"an adapter that does not fit on {self.source}: {error}",
                expected="a LoRA adapter trained on this model",
                hint="load the base the adapter was trained on; its adapter_config.json names it",
            ) from error
        if weights is None:
            self._apart.add(name)
        self._decoder = None  # an adapter of this name may have been there before
        self._peft.eval()
        self._train_only(trained)
        self._active = _UNKNOWN  # peft has switched modules on its own
        self._activate(())

    def _discard(self, name: str, trained: set[nn.Parameter]) -> None:
        """Take an adapter that could not be loaded off again, so that the base is as it was."""
        if self.has_adapter(name):
            assert self._peft is not None
            self._peft.delete_adapter(name)
        self._train_only(trained)
        self._activate(())

    def has_adapter(self, name: str) -> bool:
        """Return whether an adapter of that name is on the trunk."""
        return self._peft is not None and name in self._peft.peft_config

    def adapter_config(self, name: str) -> LoraConfig:
        """Return the shape of an adapter."""
        assert self._peft is not None
        config: LoraConfig = self._peft.peft_config[name]
        return config

    def adapter_weights(self, name: str) -> dict[str, Tensor]:
        """Return the tensors of an adapter under the names that PEFT files use."""
        weights = get_peft_model_state_dict(self._peft, adapter_name=name, save_embedding_layers=False)
        return {key: tensor.contiguous() for key, tensor in weights.items()}

    def add_control(self, name: str, count: int, *, seed: int) -> nn.Embedding:
        """Give an adapter learned control embeddings, drawn from the mean and spread of the model's own embeddings.

        They are prepended to the adapter's stream only and leave the vocabulary as it is.
        """
        table: Tensor = self._embeddings.weight.detach().float()
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(count, table.shape[1], generator=generator).to(table.device)
        control = nn.Embedding(count, table.shape[1], _weight=table.mean(0) + table.std(0) * noise, _freeze=True)
        self.controls[name] = control
        return control

    def parameters(self, name: str | None) -> dict[str, nn.Parameter]:
        """Return the trainable tensors of an adapter, or of the whole model for None, by name."""
        if name is None:
            found = dict(self.model.named_parameters())
        else:
            marker = f".{name}."
            found = {n.replace(marker, "."): p for n, p in self.model.named_parameters() if marker in f"{n}."}
        if control := self.controls.get(name or ""):
            found["control.weight"] = control.weight
        return found

    # -- evaluation --------------------------------------------------------------------------------------------------

    def init(
        self, leaves: Sequence[LM], prompts: Sequence[Prompt], knobs: KnobValues | None = None
    ) -> tuple[Tensor, TrunkState]:
        """Prefill: each leaf sees each prompt through its own view; logits have shape (L, B, V)."""
        found = []
        with self._lock:
            for places, lean in self._group(leaves):
                grouped = [leaves[place] for place in places]
                streams = [leaf.view.apply(prompt, self) for prompt in prompts for leaf in grouped]
                scales = Scales.of([leaf.loads for leaf in grouped], len(prompts), knobs or {})
                logits, rows = self._prefill(grouped, streams, scales, lean)
                found.append((Stack(places, rows, scales), logits))
        return self._in_order(found, len(leaves)).squeeze(2), TrunkState(tuple(leaves), tuple(s for s, _ in found))

    def step(self, state: TrunkState, tokens: Tensor) -> tuple[Tensor, TrunkState]:
        """Feed (B, T) tokens to every leaf; logits have shape (L, B, T, V)."""
        tokens = tokens.to(self.device)
        found = []
        with self._lock:
            for stack in state.stacks:
                leaves = [state.leaves[place] for place in stack.places]
                logits, rows = self._advance(leaves, stack, tokens.repeat_interleave(len(leaves), 0))
                found.append((replace(stack, rows=rows), logits))
        return self._in_order(found, len(state.leaves)), TrunkState(state.leaves, tuple(s for s, _ in found))

    def _group(self, leaves: Sequence[LM]) -> list[tuple[tuple[int, ...], Decoder | None]]:
        """Return which leaves share a stack: all that the lean pass takes, and of the others those of same adapters."""
        for leaf in leaves:
            self._bring(leaf)
        lean = None if self._wants_gradients() else self._lean()
        groups: dict[tuple[frozenset[str], bool], list[int]] = {}
        for place, leaf in enumerate(leaves):
            names = frozenset(leaf.loads)
            fused = lean is not None and all(lean.fuses(name) for name in names)
            if not fused and names & self._shifts.keys():
                raise ModelError(
                    given=f"gradients through {leaf.name}, whose vector has plain differences that are not merged",
                    expected="low-rank vectors alone where weights are trained",
                    hint="load the model with the vector applied to its weights: trimtab vector apply",
                )
            groups.setdefault((frozenset() if fused else names, fused), []).append(place)
        return [(tuple(places), lean if fused else None) for (_, fused), places in groups.items()]

    def _bring(self, leaf: LM) -> None:
        """Put what a leaf uses on the trunk, where it is not there yet: its vectors, and adapters of the origin."""
        for vector in leaf.riding:
            self._put(vector)
        if leaf.adapter is None or self.has_adapter(leaf.adapter):
            return
        if self.origin is None or not self.origin.has_adapter(leaf.adapter):
            raise ModelError(
                given=f"the adapter {leaf.adapter!r} of {leaf.name}, which is not on {self.source}",
                expected="the name of an adapter that has been added",
                hint="use LM.with_adapter(folder)",
            )
        self.add_adapter(
            leaf.adapter, self.origin.adapter_config(leaf.adapter), self.origin.adapter_weights(leaf.adapter)
        )
        if (control := self.origin.controls.get(leaf.adapter)) is not None:
            self.controls[leaf.adapter] = control

    def rides(self, vector: Vector) -> bool:
        """Return whether rows may use a vector at scales of their own, without its being merged."""
        return not vector.dense or (self._leanable and all(map(can_shift, vector.dense)))

    def _put(self, vector: Vector) -> None:
        """Put a vector on the trunk: its factors as an adapter, its plain differences beside it."""
        name = vector_adapter(vector)
        if vector.low_rank and not self.has_adapter(name):
            self.add_adapter(name, *as_adapter(vector.low_rank, self.source))
        if vector.dense and name not in self._shifts:
            check_fits(vector, self.model, self.source)
            self._shifts[name] = dict(vector.dense)
            self._decoder = None

    def _lean(self) -> Decoder | None:
        """Return the lean pass, made when first needed; weights that are trained are not for it."""
        if not self._leanable or any(each.requires_grad or each.grad is not None for each in self._weights):
            return None
        if self._decoder is None or self._decoder.stale():
            self._decoder = Decoder(self.model, self._apart, self._shifts)
        self._decoder.renew()
        return self._decoder

    def _wants_gradients(self) -> bool:
        if not torch.is_grad_enabled():
            return False
        trained = (*self.model.parameters(), *(control.weight for control in self.controls.values()))
        return any(parameter.requires_grad for parameter in trained)

    def _prefill(
        self, leaves: Sequence[LM], streams: Sequence[Sequence[int]], scales: Scales, lean: Decoder | None
    ) -> tuple[Tensor, Rows | Padded]:
        """Feed whole prompts, the K leaves of a sequence next to each other; logits (B * K, 1, columns)."""
        lengths = torch.tensor([len(stream) for stream in streams])
        width = int(lengths.max())
        # Padded with a token of the row itself: no row hears of a token that only another one has, not even NaN.
        if lean is None:
            padded = [[stream[0]] * (width - len(stream)) + list(stream) for stream in streams]
            with self._scaled(scales):
                tokens = torch.tensor(padded, device=self.device)
                return self._forward.prompts(tokens, lengths, self._control(leaves[0]))
        width = whole_grains(width)
        padded = [[*stream, *[stream[0]] * (width - len(stream))] for stream in streams]
        tokens = torch.tensor(padded, device=self.device)
        embedded = lean.embed(self._forward.plain(tokens), lean.use(scales, width))
        for place, leaf in enumerate(leaves):
            if (control := self._control(leaf)) is not None:
                own = slice(place, None, len(leaves))
                embedded[own] = with_controls(embedded[own], tokens[own], control, self.control_start)
        return lean.prompts(embedded, lengths, scales)

    def _advance(self, leaves: Sequence[LM], stack: Stack, tokens: Tensor) -> tuple[Tensor, Rows | Padded]:
        """Feed a block to the rows of one stack; logits (B * K, T, columns)."""
        block, rows = tokens.shape[1], stack.rows
        if block == 0:
            return torch.zeros((len(rows), 0, self.vocabulary.size), device=self.device), rows
        if isinstance(rows, Padded):
            with self._scaled(stack.scales):
                return self._forward.block(rows, tokens, self._control(leaves[0]))
        lean = None if self._wants_gradients() else self._decoder or self._lean()
        if lean is None:
            raise StateError(
                given="a state that was made without gradients, stepped with them",
                expected="init and step both with gradients, or both without",
                hint="switch the gradients on before init",
            )
        grown = rows.grown(block)
        logits = self._graphs.run(lean, grown, stack.scales, tokens)
        if logits is None:
            embedded = lean.embed(tokens, lean.use(stack.scales, block))
            logits = lean.block(embedded, grown, stack.scales)
        return logits, grown

    def _in_order(self, found: Sequence[tuple[Stack, Tensor]], count: int) -> Tensor:
        """Sort the rows of all stacks by leaf, float32, without the columns past the vocabulary; (L, B, T, V)."""
        by_leaf: dict[int, Tensor] = {}
        for stack, logits in found:
            columns = logits[..., : self.vocabulary.size].float()
            # No -1 in the shape: a block may be empty.
            shape = (len(columns) // len(stack.places), len(stack.places), *columns.shape[1:])
            split = columns.view(shape).transpose(0, 1)
            if stack.places == tuple(range(count)):
                return split
            by_leaf.update(zip(stack.places, split, strict=True))
        return torch.stack([by_leaf[place] for place in range(count)])

    def _control(self, leaf: LM) -> nn.Embedding | None:
        return self.controls.get(leaf.adapter or "")

    @property
    def control_start(self) -> int:
        """First id past the embedding table: control token k has id ``control_start + k`` in the adapter's stream."""
        return int(self._embeddings.weight.shape[0])

    @contextmanager
    def _scaled(self, scales: Scales) -> Iterator[None]:
        """Run the forwards inside with every row at its own strengths."""
        self._activate(scales.names)
        columns = dict(zip(scales.names, scales.values.to(self.device).t()[..., None, None], strict=True))
        uneven = {name: column for name, column in columns.items() if bool((column != 1).any())}
        before = []
        for module in self.model.modules() if uneven else ():
            if isinstance(module, LoraLayer):
                before.append((module, dict(module.scaling)))
                module.scaling.update({n: c * module.scaling[n] for n, c in uneven.items() if n in module.scaling})
        try:
            yield
        finally:
            for module, scaling in before:
                module.scaling.update(scaling)

    def _activate(self, names: tuple[str, ...]) -> None:
        """Make some adapters (or none) those that the next forward uses, without touching who is trained."""
        if self._peft is None or names == self._active:
            return
        trained = self._trained()
        for module in self.model.modules():
            if isinstance(module, BaseTunerLayer):
                if names:
                    module.set_adapter(list(names))
                module.enable_adapters(bool(names))
        self._train_only(trained)
        self._active = names

    def _trained(self) -> set[nn.Parameter]:
        return {parameter for parameter in self.model.parameters() if parameter.requires_grad}

    def _train_only(self, trained: set[nn.Parameter]) -> None:
        """Switch gradients back to how they were: peft switches them when adapters come or are toggled."""
        for parameter in self.model.parameters():
            parameter.requires_grad_(parameter in trained)

    # -- merging -----------------------------------------------------------------------------------------------------

    def merged(self, amounts: Mapping[Vector, float]) -> Trunk:
        """Return these weights plus vectors as a trunk of its own; tensors that no vector changes are shared.

        Raises:
            ModelError: a vector changes a tensor that the model does not have, or has in another shape.
        """
        key = tuple(sorted((vector.digest, amount) for vector, amount in amounts.items()))
        with self._lock:
            if (found := self._merged.get(key)) is None:
                model = with_vectors(self.model, self.source, amounts)
                found = Trunk(model, self.vocabulary, self.source, cached=self._forward.keeps_cache)
                found.origin = self
                self._merged[key] = found
            return found
