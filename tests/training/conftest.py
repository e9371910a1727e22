"""A second, smaller model with the tiny model's tokenizer."""

import shutil

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM


@pytest.fixture(scope="session")
def smaller_lm_folder(tiny_lm_folder, tmp_path_factory):
    """Return a folder with a one-layer model over the same tokens."""
    folder = tmp_path_factory.mktemp("smaller") / "smaller-lm"
    shutil.copytree(tiny_lm_folder, folder)
    config = LlamaConfig.from_pretrained(folder)
    config.num_hidden_layers, config.hidden_size, config.intermediate_size = 1, 16, 24
    config.num_attention_heads = config.num_key_value_heads = 2
    config.head_dim = 8
    torch.manual_seed(5)
    (folder / "model.safetensors").unlink()
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
