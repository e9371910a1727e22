"""Sentence embeddings by the frozen encoder all-MiniLM-L6-v2."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from trimtab.assets import get_encoder, quiet_transformers
from trimtab.assets.store import Progress, silent

_MAX_TOKENS = 256  # what the encoder was trained with


@dataclass(frozen=True)
class SentenceEncoder:
    """Turns texts into unit vectors whose inner product is their similarity.

    Args:
        tokenizer: the encoder's tokenizer.
        model: the encoder, whose hidden states are averaged over the tokens of a text.

    Example:
        >>> SentenceEncoder.load().encode(["A fine film."]).shape  # doctest: +SKIP
        torch.Size([1, 384])
    """

    tokenizer: Any
    model: Any

    @classmethod
    def load(cls, *, progress: Progress = silent) -> "SentenceEncoder":
        """Return the built-in encoder, fetching it at the first call.

        Args:
            progress: told what is going on, one plain line at a time.

        Raises:
            AssetError: the encoder cannot be fetched.
        """
        return cls(*_read(get_encoder(progress=progress)))

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], *, batch_size: int = 64) -> torch.Tensor:
        """Return one embedding a text.

        ``e = m / |m|`` with ``m`` the mean of the last hidden states over the text's tokens.

        Args:
            texts: N texts; what lies beyond 256 tokens of one is not seen.
            batch_size: texts encoded at once.

        Returns:
            (N, 384), float32, on the CPU, each row of length 1.
        """
        # Neighbours of like length waste little padding.
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        found = torch.empty(len(texts), self.model.config.hidden_size)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = self.tokenizer(
                [texts[row] for row in rows], padding=True, truncation=True, max_length=_MAX_TOKENS, return_tensors="pt"
            )
            hidden = self.model(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1)
            mean = (hidden * mask).sum(1) / mask.sum(1)
            found[rows] = torch.nn.functional.normalize(mean, dim=-1)
        return found


@lru_cache(maxsize=1)
def _read(folder: Path) -> tuple[Any, Any]:
    """Read tokenizer and model once: several scorers and measures of one run ask for them."""
    from transformers import AutoModel, AutoTokenizer

    with quiet_transformers():
        model = AutoModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True).eval()
        return AutoTokenizer.from_pretrained(folder), model
