"""Tiny models that vLLM can run: it wants heads of at least 32 numbers."""

import os

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # one process, which starts faster and shows its errors
os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trimtab.policies.lm import load_trunk
from trimtab.policies.vector import LowRank, Origin, Vector
from trimtab.policies.vector_folder import save_vector

WORDS = 200
ARGUMENTS = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 160,
    "max_num_seqs": 16,
    "block_size": 32,
    "kv_cache_memory_bytes": 2**26,
}


def write_model(folder, layers, heads, kv_heads, seed):
    """Write a Llama of random weights over the words w0 ... w199."""
    words = {"<unk>": 0, "<end>": 1, **{f"w{i}": i + 2 for i in range(WORDS - 2)}}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="<end>").save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=32 * heads,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=32,
        max_position_embeddings=256,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def pytest_collection_modifyitems(items):
    """Warnings of vLLM's own are none of ours."""
    for item in items:
        if "inside" in item.path.parts:
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(scope="session")
def models_folder(tmp_path_factory):
    """Return a folder with base, guide, untuned (other sizes), a LoRA guide of the base, and two vectors of it."""
    room = tmp_path_factory.mktemp("vllm-models")
    base = write_model(room / "base", 3, 4, 2, 0)
    write_model(room / "guide", 2, 2, 2, 1)
    write_model(room / "untuned", 1, 2, 1, 2)
    torch.manual_seed(3)
    adapted = get_peft_model(
        LlamaForCausalLM.from_pretrained(base),
        LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    adapted.save_pretrained(str(room / "lora"), save_embedding_layers=False)
    trunk = load_trunk(str(base), "float32", "cpu")
    for seed, name in enumerate(["medical", "legal"]):
        draw = torch.Generator().manual_seed(seed)
        factors = {
            f"model.layers.{layer}.{module}": LowRank(
                torch.randn(2 + seed, linear.in_features, generator=draw) * 0.1,
                torch.randn(linear.out_features, 2 + seed, generator=draw) * 0.3,
            )
            for layer in range(3)
            for module in ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")
            for linear in [trunk.model.get_submodule(f"model.layers.{layer}.{module}")]
        }
        save_vector(Vector(factors, {}, Origin(trunk.identity, str(base)), name), room / name)
    return room


@pytest.fixture
def policy_file(models_folder, tmp_path):
    """Return a function that reads a policy over these models."""
    from trimtab.policies.policy_file import read_policy_file

    def read(policy, knobs="{}", models=("base", "guide", "untuned", "lora")):
        named = ", ".join(f"{name}: {models_folder / name}" for name in models)
        vectors = ", ".join(f"{name}: {models_folder / name}" for name in ("medical", "legal"))
        path = tmp_path / "policy.yaml"
        path.write_text(f"models: {{{named}}}\nvectors: {{{vectors}}}\nknobs: {knobs}\npolicy: {policy}\n")
        return read_policy_file(path)

    return read


@pytest.fixture
def vllm_arguments():
    """Return what engines of tests are started with."""
    return ARGUMENTS


@pytest.fixture
def started():
    """Return a function that starts an engine, which is closed when the test ends."""
    from trimtab.engines.vllm.engine import VLLMEngine

    open_engines = []

    def start(file, *, metered=False, **arguments):
        engine = VLLMEngine(file, ARGUMENTS | arguments, metered=metered)
        open_engines.append(engine)
        return engine

    yield start
    for engine in open_engines:
        engine.close()
