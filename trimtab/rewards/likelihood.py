"""How likely a language model finds an answer; where it is not the base, a second opinion on fluency."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from trimtab.assets.store import Progress, silent
from trimtab.policies.advance import sequence_log_probs
from trimtab.policies.base import Policy
from trimtab.policies.lm import LM


@dataclass(frozen=True)
class Likelihood:
    """``r = mean over the tokens of log p(token | prompt, tokens before)`` of an answer, in nats; higher is likelier.

    The tokens are the model's own, so models with other tokens than the policies can read their answers. An answer
    without tokens has no score.

    Args:
        policy: gives the log-probabilities.
        model: what the policy is called.
        rows: answers a forward pass.

    Example:
        >>> from trimtab.policies.toy import Table
        >>> reader = Likelihood(Table.of({"": {"fine": 0.5, "bad": 0.5}}), "coin")
        >>> reader(["fine", "bad"], ["bad", "fine fine"])  # log .5
        [-0.693..., -0.693...]
    """

    policy: Policy
    model: str
    rows: int = 16

    @classmethod
    def load(cls, model: str, *, progress: Progress = silent) -> "Likelihood":
        """Return the scorer with a language model.

        Args:
            model: a built-in name, a folder or a hub id.
            progress: told what is going on, one plain line at a time.

        Raises:
            ModelError: the model cannot be loaded.
            AssetError: the model cannot be fetched.
        """
        progress(f"loading {model} to read answers")
        return cls(LM.load(model), model.rstrip("/").rpartition("/")[2])

    @property
    def name(self) -> str:
        """The scorer with its model."""
        return f"likelihood({self.model})"

    @property
    def origins(self) -> frozenset[str]:
        """Itself and the model."""
        return frozenset({self.name, f"model:{self.model}"})

    def __call__(self, prompts: list[str], completions: list[str], **columns: Sequence[object]) -> list[float]:
        """Return the mean log-probability of the tokens of each completion."""
        vocabulary = self.policy.vocabulary
        answers = [vocabulary.encode_answer(text) for text in completions]
        return mean_log_probs(self.policy, [vocabulary.encode(prompt) for prompt in prompts], answers, rows=self.rows)


@torch.inference_mode()
def mean_log_probs(
    policy: Policy, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], *, rows: int = 16
) -> list[float]:
    """Return the mean log-probability of the tokens of answers, in nats; not a number where there are none.

    Args:
        policy: what reads.
        prompts: token ids, B sequences of at least one.
        answers: token ids that follow, B sequences.
        rows: answers a forward pass; those of like length go together, which wastes little padding.

    Example:
        >>> from trimtab.policies.toy import Table
        >>> mean_log_probs(Table.of({"": {"a": 0.25, "b": 0.75}}), [[0], [0]], [[0, 0], []])  # log .25
        [-1.386..., nan]
    """
    order = sorted((row for row, answer in enumerate(answers) if answer), key=lambda row: len(answers[row]))
    found = [math.nan] * len(answers)
    for start in range(0, len(order), rows):
        batch = order[start : start + rows]
        said = sequence_log_probs(policy, [prompts[row] for row in batch], [answers[row] for row in batch])
        for row, log_probs in zip(batch, said, strict=True):
            found[row] = log_probs.float().mean().item()
    return found
