"""Supervised fine-tuning of a small model on texts, by TRL's trainer; it can make a small model of a large one."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import chain

from trimtab.assets import quiet_peft, quiet_transformers
from trimtab.assets.datasets import movie_reviews
from trimtab.errors import ConfigError
from trimtab.policies.write_folder import write_folder
from trimtab.training.log import Log, OnStep
from trimtab.training.outcome import Outcome
from trimtab.training.rows import read_rows, text_of
from trimtab.training.run_folder import check_run, open_run
from trimtab.training.small import Small, card
from trimtab.training.small_settings import SFTSettings, TextsSettings
from trimtab.training.trl_run import refuse_resume, report_to, trl_arguments


def train_sft(
    settings: SFTSettings,
    *,
    resume: bool = False,
    overwrite: bool = False,
    on_step: OnStep | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Fine-tune a model on texts.

    Args:
        settings: the run.
        resume: not possible; refused.
        overwrite: replace what is in the run folder.
        on_step: called with the measurements of every step.
        progress: told what is going on.

    Returns:
        The model's folder, with its perplexity on texts it was not trained on.

    Raises:
        ConfigError: a setting or a data file is wrong, or the run folder is taken.
        ModelError: the model cannot be loaded.
        RunError: the loss or its gradient is not finite.

    Example:
        >>> settings = SFTSettings(base="smollm2-135m", layers=8, adapter={"kind": "full"})
        >>> train_sft(settings)  # doctest: +SKIP
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    refuse_resume(resume)
    check_run(settings, resume=False, overwrite=overwrite)
    arguments = trl_arguments(settings)
    texts = read_texts(settings.texts)
    small = Small.load(settings, layers=settings.layers)
    blocks = text_blocks(small, texts, settings.max_tokens)
    small.check_fits(blocks)
    held = max(1, int(len(blocks) * settings.holdout)) if settings.holdout and len(blocks) > 1 else 0
    open_run(settings, resume=False, overwrite=overwrite)
    progress(f"{len(blocks)} blocks of {settings.max_tokens} tokens, {held} of them held out")
    train, rest = ([{"input_ids": block, "labels": block} for block in part] for part in (blocks[held:], blocks[:held]))
    with Log(settings.output, 0) as log, quiet_transformers(), quiet_peft():
        trainer = SFTTrainer(
            model=small.model,
            args=SFTConfig(**arguments, dataset_kwargs={"skip_prepare_dataset": True}, max_length=None),
            train_dataset=Dataset.from_list(train),
            eval_dataset=Dataset.from_list(rest) if rest else None,
            processing_class=small.vocabulary.tokenizer,
        )
        report_to(trainer, log, on_step)
        seconds = trainer.train().metrics["train_runtime"]
        numbers = {"perplexity": math.exp(trainer.evaluate()["eval_loss"])} if rest else {}
    about = {**small.about, "trained": settings.model_dump(mode="json"), "measured": numbers}
    text = f"Fine-tuned on texts of `{settings.texts.source}`."
    readme = card(f"A small model made of {settings.base}", settings.base, text, numbers)
    folder = write_folder(settings.output / "guide", small.write_weights, about, readme)
    return Outcome(settings.output, folder, numbers, seconds)


def read_texts(texts: TextsSettings) -> list[str]:
    """Read the texts to imitate.

    Raises:
        ConfigError: the data is broken, or no text is left.
    """
    if texts.source == "reviews":
        found = [text.replace("<br />", "\n") for text in movie_reviews("imdb", "train").texts]
    else:
        column = "text" if texts.source.endswith(".txt") else texts.column
        rows = read_rows(texts.source, texts.split, text_column=column)
        found = [text_of(row, number, column, texts.source, "texts.column") for number, row in rows]
    found = [text for text in found if text.strip()][: texts.limit]
    if not found:
        raise ConfigError(given=f"{texts.source}, whose texts are empty", expected="a text", hint="check the column")
    return found


def text_blocks(small: Small, texts: list[str], length: int) -> list[list[int]]:
    """Join texts, an end token after each, and cut them into blocks of equal length; what remains is dropped.

    Raises:
        ConfigError: the texts do not fill a block.
    """
    end = sorted(small.vocabulary.end_ids)[:1]
    stream = list(chain.from_iterable([*small.vocabulary.encode_answer(text), *end] for text in texts))
    blocks = [stream[at : at + length] for at in range(0, len(stream) - length + 1, length)]
    if not blocks:
        raise ConfigError(
            given="texts that do not fill one block", expected=f"{length} tokens", hint="lower max_tokens"
        )
    return blocks
