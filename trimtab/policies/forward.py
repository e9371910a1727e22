"""The forward call of ``transformers``, for any architecture and with gradients; one adapter at a time.

Only its public interface is used. A model whose state is not a key-value cache is run over the whole prefix every step.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from trimtab.policies.cache import Layers
from trimtab.policies.padded import Padded

_KEY_VALUE_LAYERS = frozenset({"full_attention", "sliding_attention", "chunked_attention"})


class Forward:
    """Runs rows of one adapter through a model.

    Args:
        model: a causal LM whose active adapter the caller has chosen.
        cached: False runs the whole prefix at every step: the slow and obvious twin of the cached path.
    """

    def __init__(self, model: PreTrainedModel, *, cached: bool) -> None:
        self._model = model
        self._accepts = frozenset(inspect.signature(model.forward).parameters)
        self._embeddings: nn.Embedding = model.get_input_embeddings()
        length = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self._last_position = None if length is None else length - 1
        self.keeps_cache = cached and self._keeps_key_values()

    def prompts(self, tokens: Tensor, lengths: Tensor, control: nn.Embedding | None) -> tuple[Tensor, Padded]:
        """Feed prompts, padded on the left, (N, W); returns the logits after each, (N, 1, columns)."""
        width, mask = tokens.shape[1], None
        if bool((lengths < width).any()):
            mask = torch.arange(width, device=tokens.device) >= (width - lengths.to(tokens.device))[:, None]
        whole = Padded(lengths, width, mask, [], tokens)
        logits, layers = self._run(tokens, whole, [], control, 1)
        return logits, whole if layers is None else replace(whole, layers=layers, tokens=None)

    def block(self, rows: Padded, tokens: Tensor, control: nn.Embedding | None) -> tuple[Tensor, Padded]:
        """Feed a block, (N, T); returns the logits after each of its tokens, (N, T, columns)."""
        block = tokens.shape[1]
        grown = rows.longer(block)
        if rows.tokens is not None:
            prefix = torch.cat([rows.tokens, tokens], 1)
            return self._run(prefix, grown, [], control, block)[0], replace(grown, tokens=prefix)
        logits, layers = self._run(tokens, grown, rows.layers, control, block)
        assert layers is not None
        return logits, replace(grown, layers=layers)

    def _run(
        self, block: Tensor, grown: Padded, past: Layers, control: nn.Embedding | None, keep: int
    ) -> tuple[Tensor, Layers | None]:
        """Call the model; returns the logits of the last ``keep`` positions, and all keys and values."""
        cache = DynamicCache(past) if self.keeps_cache else None
        output = self._model(**self._arguments(block, grown, cache, control, keep))
        layers = None if cache is None else [(layer.keys, layer.values) for layer in cache.layers]
        logits: Tensor = output.logits[:, -keep:]
        return logits, layers

    def _arguments(
        self, block: Tensor, grown: Padded, cache: DynamicCache | None, control: nn.Embedding | None, keep: int
    ) -> dict[str, Any]:
        """Build the keyword arguments of the forward call that this architecture accepts."""
        arguments: dict[str, Any] = {"use_cache": cache is not None}
        if control is None:
            arguments["input_ids"] = block
        else:
            arguments["inputs_embeds"] = with_controls(
                self._embeddings(self.plain(block)), block, control, self._embeddings.weight.shape[0]
            )
        if cache is not None:
            arguments["past_key_values"] = cache
        if grown.mask is not None:  # without padding no mask is built, which is faster and gives the same numbers
            arguments["attention_mask"] = grown.mask.long()
            if "position_ids" in self._accepts:
                # Fillers behind a short row's tokens may lie past the context; nobody reads what they say.
                positions = grown.mask.long().cumsum(1).sub(1).clamp(0, self._last_position)
                arguments["position_ids"] = positions[:, -block.shape[1] :]
        if "logits_to_keep" in self._accepts:
            # An index, not a number: a sliced hidden state times a frozen head takes a slow path in torch's matmul.
            arguments["logits_to_keep"] = torch.arange(block.shape[1] - keep, block.shape[1], device=block.device)
        return arguments

    def plain(self, tokens: Tensor) -> Tensor:
        """Return token ids with the last one in place of control ids, which the embedding table does not have."""
        return tokens.clamp(max=self._embeddings.weight.shape[0] - 1)

    def _keeps_key_values(self) -> bool:
        """Return whether the architecture's whole state is keys and values; where it may be, ask it about one token."""
        kinds = frozenset(getattr(self._model.config.get_text_config(), "layer_types", None) or ())
        if "past_key_values" not in self._accepts or not kinds <= _KEY_VALUE_LAYERS:
            return False
        cache = DynamicCache()
        device = self._embeddings.weight.device
        with torch.no_grad():
            self._model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=device), past_key_values=cache)
        return bool(cache.layers) and all(
            type(layer) is DynamicLayer and layer.get_seq_length() == 1 for layer in cache.layers
        )


def with_controls(embedded: Tensor, tokens: Tensor, control: nn.Embedding, first: int) -> Tensor:
    """Put learned control embeddings where token ids are past the embedding table.

    Args:
        embedded: embeddings of the other tokens, (N, T, d).
        tokens: token ids, (N, T).
        control: the learned embeddings.
        first: id of the first of them.
    """
    controlled = control((tokens - first).clamp(min=0)).to(embedded.dtype)
    return torch.where((tokens >= first).unsqueeze(-1), controlled, embedded)
