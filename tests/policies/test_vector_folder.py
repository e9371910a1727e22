"""Vector folders: what is saved is loaded again, other programs can read it, and every folder that must be refused."""

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import trimtab.policies.vector_folder as vector_folder
from trimtab.errors import ConfigError, ModelError
from trimtab.policies.lm import LM
from trimtab.policies.vector import LowRank, Origin, Vector
from trimtab.policies.vector_folder import load_vector, save_vector

Q = "model.layers.0.self_attn.q_proj"
UP = "model.layers.1.mlp.up_proj"


@pytest.fixture
def vector(tiny_lm_folder):
    """Factors of two ranks and plain differences, for the tiny model."""
    trunk = LM.load(tiny_lm_folder).trunk
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    low_rank = {Q: LowRank(draw(2, 32), draw(32, 2)), UP: LowRank(draw(3, 32), draw(48, 3))}
    dense = {"model.norm.weight": draw(32), f"{UP}.weight": draw(48, 32)}
    origin = Origin(trunk.identity, trunk.source, "medical", "expert", "by hand")
    return Vector(low_rank, dense, origin, "medical")


def plain_peft(folder, tiny_lm_folder, **settings):
    """Write an adapter as PEFT does, and return the difference that PEFT itself says it makes, by module."""
    torch.manual_seed(3)
    config = LoraConfig(**{"r": 4, "target_modules": ["q_proj", "up_proj"], "task_type": "CAUSAL_LM", **settings})
    model = PeftModel(AutoModelForCausalLM.from_pretrained(tiny_lm_folder), config)
    deltas = {}
    for name, module in model.base_model.model.named_modules():
        if name.endswith(("q_proj", "up_proj")) and config.r:
            torch.nn.init.normal_(module.lora_B["default"].weight)
            deltas[name] = module.get_delta_weight("default").detach()
    model.save_pretrained(folder, save_embedding_layers=False)
    return deltas


pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's own


def rewrite(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_what_is_saved_is_loaded_again(vector, tmp_path):
    folder = vector.save(tmp_path / "medical")
    found = Vector.load(folder)
    assert found == vector and found.origin == vector.origin and str(found) == "medical"
    assert {name: factors.rank for name, factors in found.low_rank.items()} == {Q: 2, UP: 3}
    for name, factors in vector.low_rank.items():
        assert torch.equal(found.low_rank[name].up, factors.up)
        assert torch.equal(found.low_rank[name].down, factors.down)
    for name in vector.dense:
        assert torch.equal(found.dense[name], vector.dense[name])
    again = found.save(tmp_path / "medical")  # onto the files that it is read from
    assert again == folder and Vector.load(folder) == vector
    assert sorted(each.name for each in tmp_path.iterdir()) == ["medical"]
    about = json.loads((folder / "trimtab.json").read_text())
    assert (about["kind"], about["format"], about["domain"], about["level"]) == ("vector", 1, "medical", "expert")
    assert (
        "by hand" in (folder / "README.md").read_text() and "deltas.safetensors" in (folder / "README.md").read_text()
    )


def test_details_are_kept(vector, tmp_path):
    save_vector(vector, tmp_path / "v", details={"kept_energy": 0.5})
    assert json.loads((tmp_path / "v" / "trimtab.json").read_text())["kept_energy"] == 0.5


@pytest.mark.parametrize("part", ["low_rank", "dense"])
def test_one_form_alone(vector, tmp_path, part):
    other = {"low_rank": "dense", "dense": "low_rank"}[part]
    one = replace(vector, **{other: {}})
    assert Vector.load(one.save(tmp_path / "v")) == one
    names = {each.name for each in (tmp_path / "v").iterdir()}
    assert ("adapter_config.json" in names, "deltas.safetensors" in names) == (part == "low_rank", part == "dense")


def test_the_low_rank_part_is_an_adapter_for_peft_and_a_guide(vector, tiny_lm_folder, tmp_path):
    folder = replace(vector, dense={}).save(tmp_path / "v")
    changed = AutoModelForCausalLM.from_pretrained(tiny_lm_folder)
    with torch.no_grad():
        for name, factors in vector.low_rank.items():
            changed.get_submodule(name).weight += factors.up @ factors.down
        tokens = torch.tensor([[3, 4, 5]])
        expected = changed(tokens).logits
        peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_lm_folder), folder)
        torch.testing.assert_close(peft(tokens).logits, expected, atol=1e-4, rtol=0)
        guide = LM.load(folder).init([[3, 4, 5]])[0]
    torch.testing.assert_close(guide, expected[:, -1].log_softmax(-1), atol=1e-4, rtol=0)


def test_a_vector_with_plain_differences_is_no_guide(vector, tmp_path):
    LM.load(replace(vector, dense={}).save(tmp_path / "low rank"))  # the same factors are on the trunk already
    with pytest.raises(ModelError, match=r"base \+ tt\.Vector\.load"):
        LM.load(vector.save(tmp_path / "v"))


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({}, 8 / 4),  # PEFT's lora_alpha is 8 unless given
        ({"lora_alpha": 32}, 32 / 4),
        ({"lora_alpha": 6, "use_rslora": True}, 6 / math.sqrt(4)),
        ({"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.0.self_attn.q_proj": 3}}, 3 / 2),
        ({"use_rslora": True, "rank_pattern": {"q_proj": 2}}, 8 / math.sqrt(2)),
    ],
)
@pytest.mark.filterwarnings("ignore:You have activated rsLoRA with rank_pattern")
def test_an_adapter_of_peft_is_a_vector(tiny_lm_folder, tmp_path, settings, scale):
    deltas = plain_peft(tmp_path / "plain", tiny_lm_folder, **settings)
    found = load_vector(tmp_path / "plain", label="theirs")
    assert found.origin.base == LM.load(tiny_lm_folder).trunk.identity and str(found) == "theirs" and not found.dense
    assert set(found.low_rank) == set(deltas)
    for name, delta in deltas.items():
        torch.testing.assert_close(found.low_rank[name].dense(), delta, atol=1e-5, rtol=1e-5)
    stored = load_file(tmp_path / "plain" / "adapter_model.safetensors")[f"base_model.model.{Q}.lora_B.weight"]
    torch.testing.assert_close(found.low_rank[Q].up, stored * scale)


def test_a_trained_guide_knows_its_base_itself(vector, tmp_path):
    """The base is not read where trimtab wrote down its identity."""
    folder = replace(vector, dense={}, origin=replace(vector.origin, source="moved/away")).save(tmp_path / "v")
    about = {"kind": "adapter", "base": {"identity": "abc", "source": "moved/away"}}
    (folder / "trimtab.json").write_text(json.dumps(about))
    assert load_vector(folder).origin == Origin("abc", "moved/away", made="low-rank adapter")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"modules_to_save": ["lm_head", "embed_tokens"]}, "lm_head, embed_tokens.*\n.*replace"),
        ({"use_dora": True}, "use_dora=True"),
        ({"lora_bias": True}, "lora_bias=True"),
        ({"bias": "all"}, "bias=all"),
        ({"init_lora_weights": "pissa"}, "changed the base before training"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"target_parameters": ["experts"]}, "target_parameters"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"peft_type": "NEVER_HEARD_OF"}, "NEVER_HEARD_OF"),
        ({"of_a_later_peft": True}, "of_a_later_peft=True"),
        ({"r": "many"}, "many|cannot be read"),
        ({"r": 5}, r"\(5, in\)"),
    ],
)
def test_adapters_that_are_more_than_factors(vector, tmp_path, changes, told):
    folder = replace(vector, dense={}).save(tmp_path / "v")
    rewrite(folder, **changes)
    with pytest.raises(ModelError, match=told):
        load_vector(folder)


@pytest.mark.parametrize(
    "key", ["base_model.model.lm_head.weight", f"base_model.model.{Q}.lora_magnitude_vector", "lora_embedding_A"]
)
def test_tensors_that_are_no_factors_are_named(vector, tmp_path, key):
    folder = replace(vector, dense={}).save(tmp_path / "v")
    stored = load_file(folder / "adapter_model.safetensors")
    save_file({**stored, key: torch.ones(2)}, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=key):
        load_vector(folder)


@pytest.mark.parametrize("lost", ["A", "B"])
def test_half_a_pair_of_factors(vector, tmp_path, lost):
    folder = replace(vector, dense={}).save(tmp_path / "v")
    stored = load_file(folder / "adapter_model.safetensors")
    del stored[f"base_model.model.{Q}.lora_{lost}.weight"]
    save_file(stored, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="q_proj"):
        load_vector(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_named(vector, tmp_path, value):
    folder = vector.save(tmp_path / "v")
    stored = load_file(folder / "adapter_model.safetensors")
    stored[f"base_model.model.{Q}.lora_B.weight"][0, 0] = value
    save_file(stored, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=f"lora_B of '{Q}'"):
        load_vector(folder)
    folder = vector.save(tmp_path / "w")
    stored = load_file(folder / "deltas.safetensors")
    stored["model.norm.weight"][0] = value
    save_file(stored, folder / "deltas.safetensors")
    with pytest.raises(ModelError, match=r"model\.norm\.weight"):  # when it is read: nothing reads all of it to load it
        _ = load_vector(folder).dense["model.norm.weight"]
    with pytest.raises(ModelError, match=r"model\.norm\.weight"):
        2.0 * load_vector(folder)
    broken = replace(vector, dense={"model.norm.weight": torch.tensor([value])})
    with pytest.raises(ModelError, match=r"model\.norm\.weight"):
        broken.save(tmp_path / "x")
    assert not (tmp_path / "x").exists() and sorted(each.name for each in tmp_path.iterdir()) == ["v", "w"]


def test_a_vector_that_is_all_zero(vector, tmp_path):
    nothing = Vector({Q: LowRank(torch.ones(1, 4), torch.zeros(4, 1))}, {"x": torch.zeros(2)}, vector.origin)
    with pytest.raises(ModelError, match="all zero"):
        nothing.save(tmp_path / "v")
    folder = vector.save(tmp_path / "v")
    for file in ("adapter_model.safetensors", "deltas.safetensors"):
        stored = load_file(folder / file)
        save_file({name: torch.zeros_like(tensor) for name, tensor in stored.items()}, folder / file)
    with pytest.raises(ModelError, match="all zero"):
        load_vector(folder)


def cut(path):
    path.write_bytes(path.read_bytes()[:-5])


def about(**fields):
    def write(folder):
        path = folder / "trimtab.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return write


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda f: cut(f / "adapter_model.safetensors"), "damaged"),
        (lambda f: cut(f / "deltas.safetensors"), "damaged"),
        (lambda f: (f / "adapter_model.safetensors").rename(f / "adapter_model.bin"), "never unpickles"),
        (lambda f: (f / "adapter_config.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "adapter_config.json").write_text("[]"), "cannot be read"),
        (lambda f: (f / "trimtab.json").write_text("{"), "not JSON"),
        (about(format=vector_folder.FORMAT + 1), "update trimtab"),
        (about(format="1"), "format"),
        (about(kind="lm"), "between it and its base"),
        (about(kind="value"), "whole model"),
        (about(base="somewhere"), "no text"),
        (about(domain=3), "no text"),
        (lambda f: (f / "control.safetensors").write_bytes(b""), "control tokens"),
    ],
)
def test_damaged_folders(vector, tmp_path, damage, told):
    folder = vector.save(tmp_path / "v")
    damage(folder)
    with pytest.raises(ModelError, match=told):
        load_vector(folder)


def test_folders_that_hold_no_vector(tiny_lm_folder, tmp_path):
    with pytest.raises(ModelError, match="between"):
        load_vector(tiny_lm_folder)
    with pytest.raises(ModelError, match="without a vector"):
        load_vector(tmp_path / "missing")
    (tmp_path / "vector.pt").write_bytes(b"")
    with pytest.raises(ModelError, match="never unpickles"):
        load_vector(tmp_path)


def test_only_vectors_are_replaced(vector, tiny_lm_folder, tmp_path):
    copy = shutil.copytree(tiny_lm_folder, tmp_path / "model")
    with pytest.raises(ConfigError, match="no vector"):
        vector.save(copy)
    assert LM.load(copy)
    folder = vector.save(tmp_path / "v")
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="nothing else"):
        vector.save(folder)
    (tmp_path / "empty").mkdir()
    vector.save(tmp_path / "empty")
