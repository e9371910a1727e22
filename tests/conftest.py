"""What tests share: a real model folder, small enough to make in a test."""

import os
import platform
import shutil

os.environ["HF_HUB_OFFLINE"] = "1"  # before the hub's client is imported: tests never wait for a network

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


@pytest.fixture
def equal_bits():
    """Skip where a row's bits are not promised to be the same alone and in company."""
    if platform.machine() != "x86_64" or torch.cpu._is_amx_tile_supported():
        pytest.skip(
            "where there are matrix tiles (AMX), torch's attention takes other kernels when there are many rows"
        )


@pytest.fixture(scope="session")
def tiny_lm_folder(tmp_path_factory):
    """Return a folder with a two-layer Llama of random weights and a tokenizer of the words w0 ... w19."""
    folder = tmp_path_factory.mktemp("models") / "tiny-lm"
    words = {"<unk>": 0, "<end>": 1, **{f"w{i}": i + 2 for i in range(20)}}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="<end>")
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


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
