"""Any sequence classifier or reward model of transformers as a reward."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from trimtab.assets import quiet_transformers
from trimtab.errors import ConfigError, ModelError
from trimtab.rewards.text import Scope, scoped


@dataclass(frozen=True)
class Classifier:
    """The probability of one label, or the single number that a reward model gives.

    ``r = softmax(z)_label``, ``r = sigmoid(z_label)`` if the model's labels do not exclude each other, ``r = z`` if the
    model has one output; ``z`` are the model's logits.

    Args:
        source: the folder or hub id that the model came from.
        tokenizer: its tokenizer.
        model: the classifier.
        label: a label of the model; None for a model with one output.
        scope: ``"completion"`` scores the continuation alone, ``"text"`` the prompt and the continuation.
        batch_size: texts scored at once.
        max_tokens: what lies beyond this many tokens of a text is not seen.

    Raises:
        ConfigError: the label or the scope does not exist.

    Example:
        >>> Classifier.load("runs/toxicity", label="non-toxic")  # doctest: +SKIP
    """

    source: str
    tokenizer: Any
    model: Any
    label: str | None = None
    scope: Scope = "completion"
    batch_size: int = 32
    max_tokens: int = 512

    def __post_init__(self) -> None:
        scoped(self.scope, [], [])
        labels = list(self.model.config.label2id) if self.model.config.num_labels > 1 else [None]
        if self.label not in labels:
            raise ConfigError(
                given=f"label={self.label!r} for {self.source}",
                expected=f"one of {', '.join(map(repr, labels))}",
                hint=f"label={labels[-1]!r}",
            )

    @classmethod
    def load(
        cls,
        model: str,
        *,
        label: str | None = None,
        scope: Scope = "completion",
        batch_size: int = 32,
        max_tokens: int = 512,
        device: str = "cpu",
    ) -> "Classifier":
        """Load a classifier; weights in safetensors only, and no code from the model's folder is ever run.

        Args:
            model: a transformers folder or a hub id.
            label: whose probability is the reward; None for a model with one output.
            scope: what is scored.
            batch_size: texts scored at once.
            max_tokens: how much of a text is seen, in tokens.
            device: where the model runs, as torch names it.

        Raises:
            ModelError: the model cannot be loaded.
            ConfigError: the label or the scope does not exist.
        """
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        try:
            with quiet_transformers():
                tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
                classifier = AutoModelForSequenceClassification.from_pretrained(
                    model, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
                )
        except (OSError, ValueError) as error:
            raise ModelError(
                given=f"the classifier {model!r}: {error}",
                expected="the folder or hub id of a sequence classifier with tokenizer and safetensors weights",
                hint="convert pickled weights with `save_pretrained`; a model that needs its own code is not supported",
            ) from error
        if tokenizer.pad_token is None:  # decoders used as reward models often have none
            tokenizer.pad_token = tokenizer.eos_token
            classifier.config.pad_token_id = tokenizer.eos_token_id
        return cls(model, tokenizer, classifier.eval().to(device), label, scope, batch_size, max_tokens)

    @property
    def name(self) -> str:
        """The model with its label and scope."""
        return f"classifier({', '.join(filter(None, (self.source, self.label, self.scope)))})"

    @property
    def origins(self) -> frozenset[str]:
        """The model, whichever label is asked for."""
        return frozenset({f"model:{self.source}"})

    def __call__(self, prompts: list[str], completions: list[str], **columns: Sequence[object]) -> list[float]:
        """Return one score a completion."""
        return self.scores(scoped(self.scope, prompts, completions))

    @torch.inference_mode()
    def scores(self, texts: Sequence[str], seconds: Sequence[str] | None = None) -> list[float]:
        """Return one score a text, or a pair of texts.

        Args:
            texts: what is read.
            seconds: the other text of each pair, for models of pairs.
        """
        found: list[float] = []
        for start in range(0, len(texts), self.batch_size):
            cut = slice(start, start + self.batch_size)
            batch = self.tokenizer(
                list(texts[cut]),
                None if seconds is None else list(seconds[cut]),
                padding=True,
                truncation=True,
                max_length=min(self.max_tokens, self.tokenizer.model_max_length),
                return_tensors="pt",
            ).to(self.model.device)
            found += self._scores(self.model(**batch).logits.float()).tolist()
        return found

    def _scores(self, logits: torch.Tensor) -> torch.Tensor:
        """From logits, (B, labels), to scores, (B,)."""
        config = self.model.config
        if self.label is None:
            return logits[:, 0]
        independent = config.problem_type == "multi_label_classification"
        probabilities = logits.sigmoid() if independent else logits.softmax(-1)
        return probabilities[:, config.label2id[self.label]]
