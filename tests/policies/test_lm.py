"""Loading models and guides: what is shared, what a view does, and every folder that must be refused."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from trimtab.errors import ModelError, PromptError, UsageError, VocabularyError
from trimtab.policies.lm import LM
from trimtab.policies.view import View
from trimtab.testing import tiny_lm


@pytest.fixture
def copy(tiny_lm_folder, tmp_path):
    """A copy of the tiny model that a test may damage."""
    return shutil.copytree(tiny_lm_folder, tmp_path / "copy")


@pytest.fixture
def adapter(tiny_lm_folder, tmp_path):
    """A plain PEFT folder for the tiny model."""
    base = LM.load(tiny_lm_folder)
    name = f"saved-{tmp_path.name}"
    torch.manual_seed(3)
    base.trunk.add_adapter(name, LoraConfig(r=2, target_modules="all-linear"))
    for key, tensor in base.trunk.parameters(name).items():
        if "lora_B" in key:
            tensor.data.normal_()
    folder = tmp_path / "adapter"
    folder.mkdir()
    config = base.trunk.adapter_config(name)
    config.base_model_name_or_path = str(tiny_lm_folder)
    config.save_pretrained(folder)
    save_file(base.trunk.adapter_weights(name), folder / "adapter_model.safetensors")
    return folder


def test_a_model_is_read_once(tiny_lm_folder):
    assert LM.load(tiny_lm_folder).trunk is LM.load(str(tiny_lm_folder)).trunk
    assert LM.load(tiny_lm_folder) == LM.load(tiny_lm_folder, name="another name")


def test_an_adapter_shares_the_trunk_and_changes_the_distribution(tiny_lm_folder, adapter):
    base, guide = LM.load(tiny_lm_folder), LM.load(adapter, name="guide")
    assert guide.trunk is base.trunk and guide.name == "guide"
    assert guide == base.with_adapter(adapter)
    assert not torch.allclose(guide.next_log_probs(["w1"]), base.next_log_probs(["w1"]))
    assert torch.equal(guide.untouched.next_log_probs(["w1"]), base.next_log_probs(["w1"]))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's own
def test_an_adapter_equals_its_weights_merged_into_the_base(tiny_lm_folder, adapter, copy):
    merged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(copy), adapter).merge_and_unload()
    logits = merged(torch.tensor([[3, 4]])).logits[:, -1]
    with torch.no_grad():
        found = LM.load(adapter).init([[3, 4]])[0]
    torch.testing.assert_close(found, logits.log_softmax(-1), atol=1e-4, rtol=0)


def test_log_probs_agree_with_transformers(tiny_lm_folder):
    lm = LM.load(tiny_lm_folder)
    ids = lm.vocabulary.encode("w1 w2 w3 w4")
    with torch.no_grad():
        whole = lm.trunk.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = [whole[1, ids[2]].item(), whole[2, ids[3]].item()]
    assert lm.log_probs("w1 w2", " w3 w4").tolist() == pytest.approx(expected, abs=1e-4)


def test_a_continuation_needs_tokens(tiny_lm_folder):
    with pytest.raises(PromptError):
        LM.load(tiny_lm_folder).log_probs("w1", "")


def test_a_prompt_view_is_the_same_as_a_longer_prompt(tiny_lm_folder):
    lm = LM.load(tiny_lm_folder)
    viewed = lm.with_prompt("w7 w8")
    torch.testing.assert_close(
        viewed.next_log_probs(["w1", "w2 w3"]), lm.next_log_probs(["w7 w8 w1", "w7 w8 w2 w3"]), atol=1e-5, rtol=0
    )
    assert viewed.reference == lm and viewed.context_length == 62


def test_a_begin_token_is_not_repeated_inside_a_view():
    trunk = tiny_lm().trunk
    assert View(prefix=(0, 5), suffix=(6,), begin=0).apply([0, 1, 2], trunk) == [0, 5, 1, 2, 6]
    assert View(begin=0).apply([0, 1, 2], trunk) == [0, 1, 2]


def test_a_system_view_is_the_models_own_chat_format(copy):
    tokenizer = AutoTokenizer.from_pretrained(copy)
    tokenizer.chat_template = "{% for m in messages %}w0 {{ m['content'] }} w9 {% endfor %}w10"
    tokenizer.save_pretrained(copy)
    lm = LM.load(copy)
    seen = lm.with_system("w5").view.apply(lm.vocabulary.encode("w1 w2"), lm.trunk)
    assert lm.vocabulary.decode(seen).split() == ["w0", "w5", "w9", "w0", "w1", "w2", "w9", "w10"]


def test_a_system_view_needs_a_chat_template(tiny_lm_folder):
    with pytest.raises(ModelError, match="chat template"):
        LM.load(tiny_lm_folder).with_system("be kind")


def test_padded_output_columns_are_sliced(tiny_lm_folder, copy):
    model = LM.load(copy).trunk.model
    model.resize_token_embeddings(32)
    model.save_pretrained(copy)
    (copy.parent / "padded").mkdir()
    padded = LM.load(shutil.copytree(copy, copy.parent / "padded" / "model"))
    assert padded.trunk.model.get_output_embeddings().weight.shape[0] == 32
    assert padded.vocabulary.size == 22
    assert (padded * LM.load(tiny_lm_folder)).next_log_probs(["w1"]).shape == (1, 22)


def test_equal_sizes_are_not_equal_tokens(tiny_lm_folder, copy):
    path = copy / "tokenizer.json"
    content = json.loads(path.read_text())
    table = content["model"]["vocab"]
    table["w0"], table["w1"] = table["w1"], table["w0"]
    path.write_text(json.dumps(content))
    other = LM.load(copy)
    assert other.vocabulary.size == LM.load(tiny_lm_folder).vocabulary.size
    with pytest.raises(VocabularyError, match="equal size alone"):
        _ = LM.load(tiny_lm_folder) * other


def test_unknown_names_say_what_is_known():
    with pytest.raises(ModelError, match="smollm2-135m"):
        LM.load("no-such-model-anywhere")


def test_an_unknown_device_is_refused(tiny_lm_folder):
    with pytest.raises(UsageError, match="cuda:N"):
        LM.load(tiny_lm_folder, device="abacus")


def test_a_folder_without_weights_is_refused(copy):
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="without weights"):
        LM.load(copy)


def test_a_folder_with_pickled_weights_is_refused(copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(ModelError, match="never unpickles"):
        LM.load(copy)


def test_a_folder_that_asks_to_run_code_is_refused(copy):
    config = json.loads((copy / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "evil.Model"}
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "evil.py").write_text("raise SystemExit('code of the model ran')\n")
    with pytest.raises(ModelError, match="never runs a model's own code"):
        LM.load(copy)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"config\.json"):
        LM.load(tmp_path)


def test_a_pickled_adapter_is_refused(adapter):
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(ModelError, match="pickled"):
        LM.load(adapter)


def test_an_adapter_of_another_shape_is_refused(adapter, smaller_lm_folder):
    base = LM.load(smaller_lm_folder)
    before = base.next_log_probs(["w1"])
    for _ in range(2):  # what was refused once is refused again, and leaves nothing behind
        with pytest.raises(ModelError, match="does not fit"):
            base.with_adapter(adapter)
        assert torch.equal(base.next_log_probs(["w1"]), before)


def test_an_adapter_whose_tensors_are_missing_is_refused(adapter):
    weights = load_file(adapter / "adapter_model.safetensors")
    weights.pop(next(iter(weights)))
    save_file(weights, adapter / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="its tensors"):
        LM.load(adapter)


def test_a_damaged_adapter_is_refused(adapter):
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelError, match="damaged"):
        LM.load(adapter)


def test_damaged_weights_are_refused(copy):
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelError, match="cannot be loaded"):
        LM.load(copy)


@pytest.mark.parametrize("change", [{"modules_to_save": ["lm_head"]}, {"bias": "all"}])
def test_adapters_that_replace_weights_of_the_base_are_refused(adapter, change):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ModelError, match="replaces weights"):
        LM.load(adapter)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_identity_of_weights_does_not_depend_on_the_dtype_they_are_loaded_in(tiny_lm_folder, dtype):
    assert LM.load(tiny_lm_folder, dtype=dtype).trunk.identity == LM.load(tiny_lm_folder).trunk.identity


def test_an_unknown_dtype_is_refused(tiny_lm_folder):
    with pytest.raises(UsageError, match="bfloat16"):
        LM.load(tiny_lm_folder, dtype="int3")


def test_replaced_weights_are_read_again(copy, smaller_lm_folder):
    old = LM.load(copy)
    for name in ("model.safetensors", "config.json"):
        shutil.copy(smaller_lm_folder / name, copy / name)
    assert LM.load(copy).trunk is not old.trunk


def test_a_broken_guide_file_is_refused(adapter):
    (adapter / "trimtab.json").write_text("{")
    with pytest.raises(ModelError, match="not JSON"):
        LM.load(adapter)


def test_a_retrained_adapter_is_not_mistaken_for_the_old_one(adapter):
    old = LM.load(adapter)
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file({key: tensor * 2 for key, tensor in weights.items()}, adapter / "adapter_model.safetensors")
    new = LM.load(adapter)
    assert new != old and not torch.allclose(new.next_log_probs(["w1"]), old.next_log_probs(["w1"]))


@pytest.mark.parametrize("cached", [True, False])
def test_a_continuation_may_be_one_token(cached):
    lm = tiny_lm(cached=cached)
    (alone,) = lm.log_probs("t1 t2", " t3")
    assert float(alone) == pytest.approx(float(lm.next_log_probs(["t1 t2"])[0, 3]), abs=1e-5)
