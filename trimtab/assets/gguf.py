"""A Llama model in a GGUF file, turned into a plain transformers folder with dense bfloat16 weights.

The weights are unpacked here and not by transformers, which keeps them packed, or not, depending on what else is
installed. This file does not know where the GGUF file comes from.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from trimtab.assets.quiet import quiet_transformers
from trimtab.errors import AssetError

if TYPE_CHECKING:
    import torch
    from gguf import GGUFReader

_MODULES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def convert_llama(file: Path, folder: Path) -> None:
    """Write config, generation config, tokenizer, chat template and bfloat16 weights of a GGUF model into ``folder``.

    Args:
        file: a GGUF file of the Llama architecture with tied embeddings, quantised or not.
        folder: an existing folder.

    Raises:
        AssetError: the file's tensors are not those of the model that it describes.

    Example:
        >>> convert_llama(Path("model.Q4_1.gguf"), Path("model"))  # doctest: +SKIP
    """
    import torch
    from gguf import GGUFReader
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    with quiet_transformers():
        config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        tokenizer.model_max_length = config.max_position_embeddings
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        try:
            model.load_state_dict(_dense_weights(GGUFReader(file)))
        except (KeyError, RuntimeError) as error:
            raise AssetError(
                given=f"{file.name}, whose tensors do not fit: {error}",
                expected="the tensors of a Llama model with tied embeddings",
                hint="download the model again",
            ) from error
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _dense_weights(reader: "GGUFReader") -> "dict[str, torch.Tensor]":
    """Unpack every tensor, under the name that transformers gives it."""
    import torch
    from gguf import dequantize

    heads = {
        "attn_q": int(reader.fields["llama.attention.head_count"].contents()),
        "attn_k": int(reader.fields["llama.attention.head_count_kv"].contents()),
    }
    weights = {}
    for tensor in reader.tensors:
        weight = torch.tensor(dequantize(tensor.data, tensor.tensor_type), dtype=torch.bfloat16)
        match tensor.name.split("."):
            case ["blk", layer, module, "weight"]:
                if module in heads:
                    weight = _split_halves(weight, heads[module])
                weights[f"model.layers.{layer}.{_MODULES[module]}.weight"] = weight
            case ["token_embd", "weight"]:
                weights["model.embed_tokens.weight"] = weights["lm_head.weight"] = weight
            case ["output_norm", "weight"]:
                weights["model.norm.weight"] = weight
            case _:
                raise KeyError(tensor.name)
    return weights


def _split_halves(weight: "torch.Tensor", heads: int) -> "torch.Tensor":
    """Undo GGUF's order of rotary rows: pairs lie side by side there, half a head apart in transformers."""
    rows, columns = weight.shape
    return weight.view(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)
