"""A judge of fluency: how likely a language model finds a text, with a price on saying things twice.

A language model alone likes repetition, which is why the repeated pairs of words are counted too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from trimtab.assets.store import Progress, silent
from trimtab.policies.base import Policy
from trimtab.policies.lm import LM
from trimtab.rewards.likelihood import mean_log_probs
from trimtab.rewards.text import Scope, scoped, words

# Logistic regression of 56 Brown sentences against 336 damaged ones (the kinds of damage.py), under SmolLM2-135M.
_BIAS, _NLL, _PAIRS = 6.49, 1.07, 17.9


@dataclass(frozen=True)
class Fluency:
    """``P(fine) = sigmoid(a - b nll - c pairs)`` of a text, from 0 to 1.

    ``nll`` is the mean negative log-probability of its tokens but the first, in nats; ``pairs`` the share of its pairs
    of words that were said before. A text of fewer than two tokens gets 0. The numbers a, b and c were fitted under
    SmolLM2-135M.

    Args:
        policy: gives the log-probabilities.
        model: what the policy is called.
        scope: ``"text"`` judges the prompt and the continuation, ``"completion"`` the continuation alone.
        rows: texts a forward pass.

    Raises:
        ConfigError: there is no such scope.

    Example:
        >>> from trimtab.policies.toy import Table
        >>> judge = Fluency(Table.of({"": {"so": 0.5, "good": 0.5}}), "toy")
        >>> once, again = judge(["so", "so"], [" good so", " so so"])
        >>> once > again
        True
    """

    policy: Policy
    model: str
    scope: Scope = "text"
    rows: int = 16

    def __post_init__(self) -> None:
        scoped(self.scope, [], [])

    @classmethod
    def load(cls, model: str = "smollm2-135m", scope: Scope = "text", *, progress: Progress = silent) -> "Fluency":
        """Return the judge with a language model.

        Args:
            model: a built-in name, a folder or a hub id.
            scope: what is judged.
            progress: told what is going on, one plain line at a time.

        Raises:
            ModelError: the model cannot be loaded.
            AssetError: the model cannot be fetched.
        """
        progress(f"loading {model} for the fluency judge")
        return cls(LM.load(model), model, scope)

    @property
    def name(self) -> str:
        """The judge with its model, and its scope if that is not the default."""
        return f"fluency({self.model}{'' if self.scope == 'text' else f', {self.scope}'})"

    @property
    def origins(self) -> frozenset[str]:
        """Itself, the model, and the sentences that the numbers were fitted on."""
        return frozenset({"fluency", f"model:{self.model}", "data:brown"})

    def __call__(self, prompts: list[str], completions: list[str], **columns: Sequence[object]) -> list[float]:
        """Return P(fine) of each completion."""
        texts = scoped(self.scope, prompts, completions)
        tokens = [self.policy.vocabulary.encode(text) if text.strip() else [] for text in texts]
        first, rest = [row[:1] for row in tokens], [row[1:] for row in tokens]
        found = mean_log_probs(self.policy, first, rest, rows=self.rows)
        return [0.0 if math.isnan(mean) else _probability(-mean, text) for mean, text in zip(found, texts, strict=True)]


def _probability(nll: float, text: str) -> float:
    """P(fine) of a text with a given surprise."""
    pairs = list(pairwise(words(text)))
    repeated = 1 - len(set(pairs)) / len(pairs) if pairs else 0.0
    logit = _BIAS - _NLL * nll - _PAIRS * repeated
    return 1 / (1 + math.exp(-max(-50.0, min(50.0, logit))))
