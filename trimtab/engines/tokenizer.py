"""The tokens of a model whose weights are elsewhere."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer, GenerationConfig

from trimtab.assets import built_in_models, get_model, quiet_transformers
from trimtab.errors import ModelError
from trimtab.policies.vocabulary import Vocabulary


def load_vocabulary(source: str | Path) -> Vocabulary:
    """Read a model's tokenizer, and which tokens end its answers.

    Args:
        source: built-in name, path of a folder, or hub id; its weights are not read.

    Raises:
        ModelError: there is no such tokenizer.

    Example:
        >>> load_vocabulary("smollm2-135m").size  # doctest: +SKIP
        49152
    """
    built_in = str(source) in {model.name for model in built_in_models()}
    path = str(get_model(str(source))) if built_in else str(source)
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            given=f"the tokenizer {str(source)!r}, which cannot be loaded: {str(error).strip().splitlines()[0]}",
            expected="a built-in name, a folder with a tokenizer, or a hub id that can be reached",
            hint="pass the tokenizer of the very model that is run",
        ) from error
    try:
        settings = GenerationConfig.from_pretrained(path).eos_token_id
    except OSError:  # many models have no generation settings
        settings = None
    ends = settings if isinstance(settings, list) else [settings]
    return Vocabulary.of_tokenizer(
        tokenizer,
        columns=max(tokenizer.get_vocab().values()) + 1,
        end_ids=frozenset(int(i) for i in (*ends, tokenizer.eos_token_id) if i is not None),
    )
