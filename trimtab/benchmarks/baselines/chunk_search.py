"""Chunk-level beam search as it is written today: text is decoded and encoded again to be scored, without a cache.

Every prompt is repeated W * K times before it is prefilled. The base's own cache is carried from chunk to chunk.

Reference: Zhou et al. (2024), Weak-to-Strong Search. Written from the algorithm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel


@dataclass(frozen=True)
class Shape:
    """How wide and how long a chunk search is.

    Args:
        beams: hypotheses that are kept, W.
        branches: successors of each, K.
        chunk: tokens between two selections, L.
        max_new_tokens: of an answer.
    """

    beams: int = 4
    branches: int = 4
    chunk: int = 5
    max_new_tokens: int = 50

    @property
    def rows(self) -> int:
        """Rows that run at once, W * K."""
        return self.beams * self.branches

    @property
    def chunks(self) -> list[int]:
        """Length of every chunk; the last one may be shorter.

        Example:
            >>> Shape(chunk=5, max_new_tokens=12).chunks
            [5, 5, 2]
        """
        whole, rest = divmod(self.max_new_tokens, self.chunk)
        return [self.chunk] * whole + ([rest] if rest else [])


def search(
    base: PreTrainedModel,
    pair: tuple[PreTrainedModel, PreTrainedModel],
    tokenizer: Any,
    prompt: str,
    shape: Shape,
) -> list[tuple[str, float]]:
    """Sample chunks from the base and keep the answers that the tuned model likes better than the untuned one.

    Args:
        base: what proposes.
        pair: the tuned and the untuned model.
        tokenizer: of all three.
        prompt: a text.
        shape: of the search.

    Returns:
        The W kept answers with their scores, best first.
    """
    encoded = tokenizer(prompt, return_tensors="pt")["input_ids"].to(base.device)
    start = encoded.shape[1]
    rows = encoded.repeat(shape.rows, 1)
    cache = DynamicCache()
    with torch.inference_mode():
        for length in shape.chunks:
            rows = _continue(base, rows, cache, length)
            texts = tokenizer.batch_decode(rows[:, start:], skip_special_tokens=True)
            scores = log_ratios(pair, tokenizer, prompt, texts)
            best = scores.topk(shape.beams).indices
            kept = best.repeat_interleave(shape.branches)
            rows = rows[kept]
            cache.batch_select_indices(kept)
    return [(texts[i], float(scores[i])) for i in best.tolist()]


def log_ratios(pair: tuple[PreTrainedModel, PreTrainedModel], tokenizer: Any, prompt: str, texts: list[str]) -> Tensor:
    """Return ``log tuned(text | prompt) - log untuned(text | prompt)`` of every text, in nats, shape (B,)."""
    start = len(tokenizer(prompt)["input_ids"])
    encoded = [tokenizer(prompt + text)["input_ids"] for text in texts]
    width = max(len(ids) for ids in encoded)
    device = pair[0].device
    ids = torch.tensor([[*each, *[0] * (width - len(each))] for each in encoded], device=device)
    mask = torch.tensor([[1] * len(each) + [0] * (width - len(each)) for each in encoded], device=device)
    tuned, untuned = (_log_probs(model, ids, mask) for model in pair)
    return ((tuned - untuned) * mask[:, 1:])[:, start - 1 :].sum(1)


def _log_probs(model: PreTrainedModel, ids: Tensor, mask: Tensor) -> Tensor:
    """Return the log-probability of every token but the first, shape (B, T - 1)."""
    logits: Tensor = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
    log_probs = logits.float().log_softmax(-1)
    return log_probs.gather(2, ids[:, 1:, None]).squeeze(2)


def _continue(model: PreTrainedModel, rows: Tensor, cache: DynamicCache, length: int) -> Tensor:
    """Sample a chunk for every row; the cache, which lacks the last token, is filled in place."""
    whole: Tensor = model.generate(
        input_ids=rows,
        attention_mask=torch.ones_like(rows),
        past_key_values=cache,
        max_new_tokens=length,
        min_new_tokens=length,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        pad_token_id=0,
    )
    return whole
