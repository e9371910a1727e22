"""A trunk: one set of base weights in memory, shared by every LM made from it.

Leaves with the same adapter are stepped as one batch of stacked rows; different adapters are stepped one after another.
Only the public forward call of ``transformers`` is used, so any architecture that ``AutoModelForCausalLM`` knows works;
one whose state is not a key-value cache is run over the whole prefix at every step.
"""

from __future__ import annotations

import hashlib
import inspect
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from trimtab.errors import ModelError
from trimtab.policies.base import Prompt
from trimtab.policies.cache import Rows
from trimtab.policies.vocabulary import Vocabulary

if TYPE_CHECKING:
    from trimtab.policies.lm import LM


_UNKNOWN = "?"
_KEY_VALUE_LAYERS = frozenset({"full_attention", "sliding_attention", "chunked_attention"})


@dataclass(frozen=True)
class TrunkState:
    """The rows of S leaves of one trunk for B sequences, one stack of B rows for each leaf."""

    leaves: tuple[LM, ...]
    stacks: tuple[Rows, ...]

    def select(self, rows: Tensor) -> TrunkState:
        """Keep these rows, in this order."""
        return TrunkState(self.leaves, tuple(stack.select(rows) for stack in self.stacks))

    def rollback(self, dropped: Tensor) -> TrunkState:
        """Forget the last tokens of each row."""
        return TrunkState(self.leaves, tuple(stack.rollback(dropped) for stack in self.stacks))

    def join(self, other: TrunkState) -> TrunkState:
        """Append the rows of another state."""
        return TrunkState(self.leaves, tuple(a.join(b) for a, b in zip(self.stacks, other.stacks, strict=True)))


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
        self._active: str | None = None
        self._lock = threading.RLock()
        self._accepts = frozenset(inspect.signature(model.forward).parameters)
        self._embeddings = model.get_input_embeddings()
        self.keeps_cache = cached and self._keeps_key_values()

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
        try:
            with warnings.catch_warnings():
                # peft reads an attribute that transformers has renamed; both still work.
                warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
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
            self._discard(name)
            raise ModelError(
                given=f"an adapter that does not fit on {self.source}: {error}",
                expected="a LoRA adapter trained on this model",
                hint="load the base the adapter was trained on; its adapter_config.json names it",
            ) from error
        self._peft.requires_grad_(False).eval()
        self._active = _UNKNOWN  # peft has switched modules on its own
        self._activate(name)

    def _discard(self, name: str) -> None:
        """Take an adapter that could not be loaded off again, so that the base is as it was."""
        if self.has_adapter(name):
            assert self._peft is not None
            self._peft.delete_adapter(name)
        self.model.requires_grad_(False)
        self._activate(None)

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

    def init(self, leaves: Sequence[LM], prompts: Sequence[Prompt]) -> tuple[Tensor, TrunkState]:
        """Prefill: each leaf sees each prompt through its own view; log-probabilities have shape (L, B, V)."""
        stacks = [self._pad([leaf.view.apply(prompt, self) for prompt in prompts]) for leaf in leaves]
        log_probs, filled = self._advance(leaves, stacks, None)
        return log_probs.squeeze(2), TrunkState(tuple(leaves), filled)

    def step(self, state: TrunkState, tokens: Tensor) -> tuple[Tensor, TrunkState]:
        """Feed (B, T) tokens to every leaf; log-probabilities have shape (L, B, T, V)."""
        log_probs, filled = self._advance(state.leaves, state.stacks, tokens.to(self.device))
        return log_probs, TrunkState(state.leaves, filled)

    def _advance(
        self, leaves: Sequence[LM], stacks: Sequence[Rows], tokens: Tensor | None
    ) -> tuple[Tensor, tuple[Rows, ...]]:
        """Run one forward for each adapter over the stacked rows of its leaves."""
        log_probs: dict[int, Tensor] = {}
        filled: dict[int, Rows] = {}
        with self._lock:
            for adapter in sorted({leaf.adapter for leaf in leaves}, key=lambda name: name or ""):
                members = [i for i, leaf in enumerate(leaves) if leaf.adapter == adapter]
                self._activate(adapter)
                stacked = stacks[members[0]]
                for i in members[1:]:
                    stacked = stacked.join(stacks[i])
                repeated = None if tokens is None else tokens.repeat(len(members), 1)
                logits, rows = self._forward(stacked, repeated, adapter)
                result = logits[..., : self.vocabulary.size].float().log_softmax(-1)
                size = result.shape[0] // len(members)
                for place, i in enumerate(members):
                    span = torch.arange(place * size, (place + 1) * size)
                    log_probs[i] = result[place * size : (place + 1) * size]
                    filled[i] = rows if len(members) == 1 else rows.select(span)
        order = range(len(leaves))
        stacked_log_probs = (
            log_probs[0].unsqueeze(0) if len(leaves) == 1 else torch.stack([log_probs[i] for i in order])
        )
        return stacked_log_probs, tuple(filled[i] for i in order)

    def _forward(self, rows: Rows, tokens: Tensor | None, adapter: str | None) -> tuple[Tensor, Rows]:
        """Feed a block to rows (None: the rows themselves are the prompt); returns its logits, (N, T, columns)."""
        if tokens is None:
            block, keep, grown = rows.tokens, 1, rows
        else:
            ones = torch.ones_like(tokens, dtype=torch.bool)
            grown = Rows(torch.cat([rows.tokens, tokens], 1), torch.cat([rows.mask, ones], 1), rows.layers, rows.padded)
            block, keep = (tokens, tokens.shape[1]) if rows.layers is not None else (grown.tokens, tokens.shape[1])
        if keep == 0:
            width = self.model.get_output_embeddings().weight.shape[0]
            return block.new_zeros((len(block), 0, width), dtype=torch.float32), grown
        cache = DynamicCache(rows.layers if tokens is not None else None) if self.keeps_cache else None
        arguments = self._arguments(block, grown, cache, keep, adapter)
        output = self.model(**arguments)
        layers = tuple((layer.keys, layer.values) for layer in cache.layers) if cache is not None else None
        logits: Tensor = output.logits[:, -keep:]
        return logits, Rows(grown.tokens, grown.mask, layers, grown.padded)

    def _arguments(
        self, block: Tensor, grown: Rows, cache: DynamicCache | None, keep: int, adapter: str | None
    ) -> dict[str, Any]:
        """Build the keyword arguments of the forward call that this architecture accepts."""
        arguments: dict[str, Any] = {"use_cache": cache is not None}
        control = self.controls.get(adapter or "")
        if control is None:
            arguments["input_ids"] = block
        else:
            arguments["inputs_embeds"] = self._embed(block, control)
        if cache is not None:
            arguments["past_key_values"] = cache
        if grown.padded:  # without padding no mask is built, which is faster and gives the same numbers
            arguments["attention_mask"] = grown.mask.long()
            if "position_ids" in self._accepts:
                positions = grown.mask.long().cumsum(1).sub(1).clamp(min=0)
                arguments["position_ids"] = positions[:, -block.shape[1] :]
        if "logits_to_keep" in self._accepts:
            # An index, not a number: a sliced hidden state times a frozen head takes a slow path in torch's matmul.
            arguments["logits_to_keep"] = torch.arange(block.shape[1] - keep, block.shape[1], device=block.device)
        return arguments

    def _embed(self, block: Tensor, control: nn.Embedding) -> Tensor:
        """Embed tokens; ids past the model's own table are control ids."""
        count = self._embeddings.weight.shape[0]
        plain: Tensor = self._embeddings(block.clamp(max=count - 1))
        controlled = control((block - count).clamp(min=0)).to(plain.dtype)
        return torch.where((block >= count).unsqueeze(-1), controlled, plain)

    @property
    def control_start(self) -> int:
        """First id past the embedding table: control token k has id ``control_start + k`` in the adapter's stream."""
        return int(self._embeddings.weight.shape[0])

    def _pad(self, prompts: Sequence[Prompt]) -> Rows:
        """Align prompts to the right."""
        width = max(len(prompt) for prompt in prompts)
        tokens = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=self.device)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self.device)
        mask = torch.arange(width, device=self.device) >= (width - lengths)[:, None]
        return Rows(tokens, mask, () if self.keeps_cache else None, any(len(prompt) < width for prompt in prompts))

    def _activate(self, adapter: str | None) -> None:
        """Make one adapter (or none) the one that the next forward uses, without touching who is trained."""
        if self._peft is None or adapter == self._active:
            return
        trained = {p for p in self.model.parameters() if p.requires_grad}
        for module in self.model.modules():
            if isinstance(module, BaseTunerLayer):
                if adapter is not None:
                    module.set_adapter([adapter])
                module.enable_adapters(adapter is not None)
        for parameter in self.model.parameters():  # the toggles above also switch gradients
            parameter.requires_grad_(parameter in trained)
        self._active = adapter

    def _keeps_key_values(self) -> bool:
        """Return whether the architecture's whole state is keys and values; where it may be, ask it about one token."""
        kinds = frozenset(getattr(self.model.config.get_text_config(), "layer_types", None) or ())
        if "past_key_values" not in self._accepts or not kinds <= _KEY_VALUE_LAYERS:
            return False
        cache = DynamicCache()
        with torch.no_grad():
            self.model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=self.device), past_key_values=cache)
        return bool(cache.layers) and all(
            type(layer) is DynamicLayer and layer.get_seq_length() == 1 for layer in cache.layers
        )


def weights_identity(model: nn.Module) -> str:
    """Hash names, shapes and a sample of the values of every tensor.

    The sample is rounded to bfloat16, so that the same weights stored in float32 and in bfloat16 are the same.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        flat = tensor.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 64)][:64].to("cpu", torch.bfloat16)
        digest.update(sample.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()
