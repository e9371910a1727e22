"""Weights on disk: named, tied and identified as the loaded model has them, without loading it."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from trimtab.errors import ModelError
from trimtab.policies.checkpoint import Weights
from trimtab.policies.identity import identity_of, weights_identity
from trimtab.policies.lm import LM


@pytest.fixture
def copy(tiny_lm_folder, tmp_path):
    return shutil.copytree(tiny_lm_folder, tmp_path / "copy")


def resaved(folder, **settings):
    """Save the model in a folder again, with some of its configuration changed."""
    config = LlamaConfig.from_pretrained(folder, **settings)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def reloaded(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto")


def test_the_identity_is_that_of_the_loaded_model(tiny_lm_folder):
    assert Weights.open(tiny_lm_folder).identity == LM.load(tiny_lm_folder).trunk.identity


def test_the_one_and_the_other_hash_agree(tiny_lm_folder):
    model = reloaded(tiny_lm_folder)
    assert identity_of(sorted(model.state_dict().items())) == weights_identity(model)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_identities_of_tied_heads_and_other_dtypes(copy, tied, dtype):
    resaved(copy, tie_word_embeddings=tied, dtype=dtype)
    weights = Weights.open(copy)
    assert weights.identity == weights_identity(reloaded(copy))
    assert dict(weights.layout.tied) == ({"lm_head.weight": "model.embed_tokens.weight"} if tied else {})


def test_float32_files_of_a_float16_configuration_are_rounded_as_loading_does(copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "dtype": "float16"}))
    assert Weights.open(copy).identity == weights_identity(reloaded(copy))


def test_shards_have_the_identity_of_the_single_file(copy, tiny_lm_folder):
    model = reloaded(copy)
    (copy / "model.safetensors").unlink()
    model.save_pretrained(copy, max_shard_size="20KB")
    assert len(list(copy.glob("*.safetensors"))) > 2
    (copy / "consolidated.safetensors").write_bytes(b"not one of the shards")
    assert Weights.open(copy).identity == Weights.open(tiny_lm_folder).identity


def test_a_tied_head_that_is_stored_too(copy):
    resaved(copy, tie_word_embeddings=True)
    stored = load_file(copy / "model.safetensors")
    stored["lm_head.weight"] = stored["model.embed_tokens.weight"].clone()
    save_file(stored, copy / "model.safetensors", metadata={"format": "pt"})
    assert Weights.open(copy).layout.tied
    assert Weights.open(copy).identity == weights_identity(reloaded(copy))
    stored["lm_head.weight"] += 1.0
    save_file(stored, copy / "model.safetensors", metadata={"format": "pt"})
    assert not Weights.open(copy).layout.tied  # transformers does not tie what differs
    assert Weights.open(copy).identity == weights_identity(reloaded(copy))


def test_a_head_stored_in_the_place_of_the_embeddings(copy):
    resaved(copy, tie_word_embeddings=True)
    stored = load_file(copy / "model.safetensors")
    stored["lm_head.weight"] = stored.pop("model.embed_tokens.weight")
    save_file(stored, copy / "model.safetensors", metadata={"format": "pt"})
    assert Weights.open(copy).identity == weights_identity(reloaded(copy))


def test_checkpoints_of_the_bare_transformer(tmp_path):
    """GPT-2 as it is on the hub: no prefix, and masks that no one reads."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=20, n_embd=8, n_layer=2, n_head=2, n_positions=16))
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in stored.items()}
    masks = {f"h.{i}.attn.bias": torch.ones(16, 16) for i in range(2)}
    save_file({**bare, **masks}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    weights = Weights.open(tmp_path)
    assert weights.identity == weights_identity(reloaded(tmp_path)) == weights_identity(model)
    assert weights.layout.linear == frozenset()  # GPT-2's projections are no torch Linear


def test_linear_layers_are_all_but_the_head(copy):
    resaved(copy, tie_word_embeddings=False)
    linear = Weights.open(copy).layout.linear
    assert len(linear) == 2 * 7 and "lm_head" not in linear and "model.layers.1.mlp.down_proj" in linear


def test_an_older_file_of_inverse_frequencies_is_let_through(copy, tiny_lm_folder):
    stored = load_file(copy / "model.safetensors")
    stored["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(stored, copy / "model.safetensors", metadata={"format": "pt"})
    assert Weights.open(copy).identity == Weights.open(tiny_lm_folder).identity


@pytest.mark.parametrize("change", ["missing", "extra"])
def test_tensors_that_are_missing_or_too_many_are_named(copy, change):
    stored = load_file(copy / "model.safetensors")
    tensor = stored.pop("model.layers.1.mlp.up_proj.weight")
    if change == "extra":
        stored["model.layers.1.mlp.up_proj.weight"] = tensor
        stored["model.layers.2.mlp.up_proj.weight"] = tensor.clone()
    save_file(stored, copy / "model.safetensors", metadata={"format": "pt"})
    number = 1 if change == "missing" else 2
    with pytest.raises(ModelError, match=rf"with(out)? the tensors model\.layers\.{number}\.mlp\.up_proj\.weight"):
        Weights.open(copy)


def break_index(folder):
    reloaded(folder).save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "never unpickles"),
        (lambda f: (f / "model.safetensors").unlink(), "without weights"),
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "not JSON"),
        (lambda f: (f / "config.json").write_text('{"model_type": "unheard-of"}'), "cannot be used"),
        (lambda f: (f / "config.json").write_text('{"model_type": "llama", "auto_map": {}}'), "auto_map"),
        (lambda f: (f / "config.json").write_text('{"quantization_config": {}}'), "unquantised"),
        (lambda f: (f / "adapter_config.json").write_text("{}"), "is an adapter"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "tokenizer"),
        (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]), "damaged"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "damaged"),
        (lambda f: (break_index(f), (f / "model.safetensors.index.json").write_text("[]")), "cannot be read"),
        (lambda f: (break_index(f), next(f.glob("model-00002*")).unlink()), "missing"),
    ],
)
def test_folders_that_are_no_whole_model(copy, damage, told):
    damage(copy)
    with pytest.raises(ModelError, match=told):
        Weights.open(copy)


def test_a_source_that_is_nowhere():
    with pytest.raises(ModelError, match="smollm2-135m"):
        Weights.open("no-such-model-anywhere")


@pytest.mark.slow
def test_the_built_in_model():
    assert Weights.open("smollm2-135m").identity == LM.load("smollm2-135m").trunk.identity
