"""Values that are transformers: what fits them and what does not."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from trimtab.decoding import chunk_beam, search
from trimtab.errors import ModelError, PromptError, VocabularyError
from trimtab.policies.lm import LM
from trimtab.policies.toy import Table
from trimtab.testing import tiny_lm
from trimtab.values import LogRatio, PrefixValue


@pytest.mark.parametrize("shape", [(22, 16), (30, 32)], ids=["hidden size", "tokens"])
def test_a_head_of_another_size_is_refused(tiny_lm_folder, tmp_path, shape):
    folder = tmp_path / "value"
    shutil.copytree(tiny_lm_folder, folder)
    weights = load_file(folder / "model.safetensors")
    assert weights["lm_head.weight"].shape == (22, 32)
    weights["lm_head.weight"] = torch.zeros(shape)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="sizes"):
        PrefixValue.load(folder)


def test_a_value_of_another_tokenizer_is_refused(tiny_lm_folder):
    base = LM.load(tiny_lm_folder)
    with pytest.raises(VocabularyError):
        search(base, ["w1"], PrefixValue(tiny_lm(22)), chunk_beam(2, 2, 2), max_new_tokens=4)
    with pytest.raises(VocabularyError):
        LogRatio(base, tiny_lm(22))  # as many tokens, but others


def test_a_value_must_hold_the_whole_answer(tiny_lm_folder):
    base = Table.random(22, seed=0, name="base")
    long = Table(LM.load(tiny_lm_folder).vocabulary, base.rows, "base")  # no bound of its own; the value reads 64
    value = PrefixValue(LM.load(tiny_lm_folder))
    with pytest.raises(PromptError, match="at most 64 tokens together"):
        search(long, ["w1 w2"], value, chunk_beam(2, 2, 2), max_new_tokens=63)
    assert search(long, ["w1 w2"], value, chunk_beam(1, 1, 40), max_new_tokens=62, min_new_tokens=62, seed=0)
