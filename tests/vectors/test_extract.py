"""What training changed: exact, streamed, and every pair of models between which there is no vector."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from trimtab.errors import ModelError, VocabularyError
from trimtab.policies.lm import LM
from trimtab.policies.tensor_files import TensorFiles
from trimtab.policies.vector import Vector
from trimtab.policies.vocabulary import Vocabulary
from trimtab.testing import tiny_lm, with_lora
from trimtab.vectors.extract import between

UP = "model.layers.1.mlp.up_proj.weight"
NORM = "model.norm.weight"


@pytest.fixture
def base(tiny_lm_folder):
    return tiny_lm_folder


@pytest.fixture
def aligned(base, tmp_path):
    """The tiny model with two tensors changed."""
    folder = shutil.copytree(base, tmp_path / "aligned")
    change(folder, lambda stored: (stored[UP].mul_(1.5), stored[NORM].add_(0.25)))
    return folder


def change(folder, how):
    stored = load_file(folder / "model.safetensors")
    how(stored)
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})


def shard(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")


def resaved(folder, seed=0, **settings):
    config = LlamaConfig.from_pretrained(folder, **settings)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def same(vector, other):
    assert set(vector.dense) == set(other.dense) and not vector.low_rank and not other.low_rank
    assert all(torch.equal(vector.dense[name], other.dense[name]) for name in vector.dense)
    return vector == other


def test_the_difference_of_what_was_changed_and_nothing_else(base, aligned):
    vector = Vector.between(aligned, base, domain="medical", level="expert")
    old = load_file(base / "model.safetensors")
    assert list(vector.dense) == [UP, NORM] and not vector.low_rank
    assert torch.equal(vector.dense[UP], old[UP] * 1.5 - old[UP])
    assert torch.equal(vector.dense[NORM], (old[NORM] + 0.25) - old[NORM])
    assert vector.origin.base == LM.load(base).trunk.identity and vector.origin.source == LM.load(base).trunk.source
    assert (vector.origin.domain, vector.origin.level, str(vector)) == ("medical", "expert", "medical")
    assert vector.origin.made == f"{aligned} minus {base}"


def test_saving_streams_and_loads_again(base, aligned, tmp_path):
    vector = between(aligned, base)
    assert same(Vector.load(vector.save(tmp_path / "v")), vector)


@pytest.mark.parametrize("sharded", ["base", "aligned", "both"])
def test_single_files_and_shards_mixed(base, aligned, tmp_path, sharded):
    copy = shutil.copytree(base, tmp_path / "base")
    expected = between(LM.load(aligned), base)
    for folder, name in ((copy, "base"), (aligned, "aligned")):
        if sharded in (name, "both"):
            shard(folder)
    assert same(between(aligned, copy), expected)


def test_models_in_memory_and_on_disk_give_the_same(base, aligned):
    expected = between(aligned, base)
    for first, second in ((LM.load(aligned), base), (aligned, LM.load(base)), (LM.load(aligned), LM.load(base))):
        assert same(between(first, second), expected)
    guide = with_lora(LM.load(base), "beside")  # an adapter on the trunk does not change what the base is
    assert same(between(aligned, guide.untouched), expected)


def test_models_on_disk_stay_as_they_are_until_the_vector_is_saved(base, aligned):
    vector = between(aligned, base)
    change(aligned, lambda stored: stored[UP].mul_(2.0))
    with pytest.raises(ModelError, match="written again"):
        vector.dense[UP]


def test_what_is_in_memory_may_change_afterwards():
    old, new = tiny_lm(), tiny_lm(seed=1)
    vector = between(new, old)
    before = vector.dense[UP].clone()
    new.trunk.model.get_parameter(UP).data.zero_()
    assert torch.equal(vector.dense[UP], before)


def test_half_precision_is_subtracted_in_float32(base, tmp_path):
    """bfloat16 has 8 bits: 1.0078125 - 1 = 2 ** -7 needs none of them lost."""
    folders = [shutil.copytree(base, tmp_path / name) for name in ("old", "new")]
    for folder, value in zip(folders, (1.0, 1.0078125), strict=True):
        stored = {name: tensor.bfloat16() for name, tensor in load_file(folder / "model.safetensors").items()}
        stored[NORM] = torch.full((32,), value, dtype=torch.bfloat16)
        save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    vector = between(folders[1], folders[0])
    assert list(vector.dense) == [NORM] and vector.dense[NORM].dtype == torch.float32
    assert vector.dense[NORM].tolist() == [2.0**-7] * 32


def test_dtypes_mix_and_the_wider_is_kept(base, aligned):
    change(aligned, lambda stored: stored.update({UP: stored[UP].double() + 1e-12}))
    vector = between(aligned, base)
    assert vector.dense[UP].dtype == torch.float64 and vector.dense[NORM].dtype == torch.float32
    old = load_file(base / "model.safetensors")[UP]
    assert torch.equal(vector.dense[UP], (old * 1.5).double() + 1e-12 - old.double())


def test_a_tied_head_is_one_tensor(base, tmp_path):
    old = resaved(shutil.copytree(base, tmp_path / "old"), tie_word_embeddings=True)
    new = shutil.copytree(old, tmp_path / "new")
    change(new, lambda stored: stored["model.embed_tokens.weight"].add_(1.0))
    assert list(between(new, old).dense) == list(between(LM.load(new), LM.load(old)).dense)
    assert list(between(new, old).dense) == ["model.embed_tokens.weight"]


@pytest.mark.parametrize("which", ["old", "new"])
def test_a_head_kept_apart_is_the_tied_one_only_while_its_values_are(base, tmp_path, which):
    folders = {
        name: resaved(shutil.copytree(base, tmp_path / name), tie_word_embeddings=True) for name in ("old", "new")
    }
    change(folders["new"], lambda stored: stored[NORM].add_(1.0))
    untied = folders[which]
    change(untied, lambda stored: stored.update({"lm_head.weight": stored["model.embed_tokens.weight"].clone()}))
    config = json.loads((untied / "config.json").read_text())
    (untied / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    assert list(between(folders["new"], folders["old"]).dense) == [NORM]
    change(untied, lambda stored: stored["lm_head.weight"].add_(1.0))
    with pytest.raises(ModelError, match=r"lm_head\.weight apart, which the other ties"):
        between(folders["new"], folders["old"])


def test_an_adapter_is_its_own_exact_form(base, tmp_path):
    guide = with_lora(
        LM.load(base), f"g-{tmp_path.name}", config=LoraConfig(r=2, lora_alpha=3, target_modules=["q_proj"])
    )
    in_memory = between(guide, LM.load(base), domain="legal")
    folder = tmp_path / "guide"
    folder.mkdir()
    config = guide.trunk.adapter_config(guide.adapter)
    config.save_pretrained(str(folder))
    save_file(guide.trunk.adapter_weights(guide.adapter), folder / "adapter_model.safetensors")
    on_disk = between(folder, base, domain="legal")
    assert in_memory == on_disk == between(guide, base) and not on_disk.dense
    assert on_disk.origin.base == LM.load(base).trunk.identity and on_disk.origin.domain == "legal"
    module = guide.trunk.model.get_submodule("model.layers.0.self_attn.q_proj")
    factors = on_disk.low_rank["model.layers.0.self_attn.q_proj"]
    torch.testing.assert_close(factors.dense(), module.get_delta_weight(guide.adapter))


def test_an_adapter_of_other_weights(base, tmp_path):
    guide = with_lora(tiny_lm())
    with pytest.raises(ModelError, match="transfer"):
        between(guide, tiny_lm(seed=1))
    vector = between(guide, guide.untouched)
    with pytest.raises(ModelError, match="very weights"):
        plain = vector.save(tmp_path / "v")
        about = json.loads((plain / "trimtab.json").read_text())
        (plain / "trimtab.json").write_text(json.dumps({**about, "kind": "adapter"}))
        between(plain, base)
    with pytest.raises(ModelError, match="vector already"):
        between(vector.save(tmp_path / "w"), base)


def test_an_adapter_that_does_not_fit(base, tmp_path):
    small = with_lora(tiny_lm(), config=LoraConfig(r=2, target_modules=["lm_head"]))
    folder = between(small, small.untouched).save(tmp_path / "v")
    (folder / "trimtab.json").unlink()
    with pytest.raises(ModelError, match=r"lm_head\.weight' of shape \(13, 32\).*\(22, 32\)"):
        between(folder, base)


def test_an_adapter_on_layers_that_keep_their_weights_transposed(tmp_path):
    """GPT-2's c_attn is (in, out); factors are (out, r) and (r, in) all the same, and are added as PEFT adds them."""
    config = GPT2Config(vocab_size=13, n_embd=32, n_layer=1, n_head=4, n_positions=64, initializer_range=0.4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(config)
    base = LM.of(model, Vocabulary.of_pieces([f"t{i}" for i in range(13)], end="t12"), name="gpt2")
    shape = LoraConfig(r=2, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)
    guide = with_lora(base, config=shape)
    vector = between(guide, base)
    assert vector.low_rank["transformer.h.0.attn.c_attn"].up.shape == (96, 2)
    torch.testing.assert_close((base + vector).next_log_probs(["t1"]), guide.next_log_probs(["t1"]), atol=1e-5, rtol=0)
    assert Vector.load(vector.save(tmp_path / "v")) == vector


def test_adapters_on_both_sides_are_no_weights(base):
    guide = with_lora(LM.load(base), "both sides")
    with pytest.raises(ModelError, match="without adapters"):
        between(base, guide)


def test_models_with_vectors_are_no_models_as_trained(base):
    guide = with_lora(tiny_lm())
    vector = between(guide, guide.untouched)
    for steered in (guide.untouched + 0.5 * vector, guide + 0.5 * vector):
        with pytest.raises(ModelError, match=r"vectors\.realise"):
            between(steered, guide.untouched)


def test_what_is_taken_is_what_is_added(base, aligned):
    """The base and 1 times the vector is the aligned model, and 0 times is the base, bit for bit."""
    prompts = ["w1 w2 w3", "w4"]
    old, new, vector = LM.load(base), LM.load(aligned), between(aligned, base)
    expected = new.next_log_probs(prompts)
    torch.testing.assert_close((old + vector).next_log_probs(prompts), expected, atol=1e-5, rtol=0)
    assert torch.equal((old + 0 * vector).next_log_probs(prompts), old.next_log_probs(prompts))


def test_an_adapter_cannot_be_the_base(base, tmp_path):
    guide = with_lora(tiny_lm())
    with pytest.raises(ModelError, match="not the base"):
        between(base, between(guide, guide.untouched).save(tmp_path / "v"))


def test_equal_models_have_no_vector(base, tmp_path):
    with pytest.raises(ModelError, match="all zero"):
        between(shutil.copytree(base, tmp_path / "copy"), base)
    untrained = tiny_lm()
    untrained.trunk.add_adapter("fresh", LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(ModelError, match="never trained"):
        between(LM(untrained.trunk, "fresh"), untrained)


def set_nan(stored):
    stored[UP][3, 4] = float("nan")


def words(folder):
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    table = content["model"]["vocab"]
    table["w0"], table["w1"] = table["w1"], table["w0"]
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "error", "told"),
    [
        (lambda f: change(f, set_nan), ModelError, f"'{UP}'.*NaN"),
        (lambda f: change(f, lambda s: s[NORM].fill_(float("inf"))), ModelError, f"'{NORM}'.*infinite"),
        (lambda f: resaved(f, intermediate_size=40), ModelError, r"\(32, 40\).*\(32, 48\)"),
        (lambda f: resaved(f, vocab_size=30), ModelError, r"\(30, 32\).*\(22, 32\)"),
        (lambda f: resaved(f, num_hidden_layers=1), ModelError, r"layers\.1\..* and \d more alone"),
        (lambda f: resaved(f, num_hidden_layers=3), ModelError, r"layers\.2\..* and \d more alone"),
        (lambda f: resaved(f, attention_bias=True), ModelError, r"q_proj\.bias"),
        (lambda f: change(f, lambda s: s.pop(UP)), ModelError, UP),
        (words, VocabularyError, "tokenizers differ"),
        (lambda f: (f / "model.safetensors").write_bytes(b"123"), ModelError, "damaged"),
        (lambda f: change(f, lambda s: s.update({UP: s[UP].int()})), ModelError, "int32"),
    ],
)
def test_models_between_which_there_is_no_vector(base, aligned, damage, error, told):
    damage(aligned)
    with pytest.raises(error, match=told):
        between(aligned, base)


def test_another_architecture(base, aligned):
    config = json.loads((aligned / "config.json").read_text())
    config.update(model_type="mistral", architectures=["MistralForCausalLM"])
    (aligned / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"\(mistral\).*\(llama\)"):
        between(aligned, base)


def test_no_more_than_two_tensors_are_read_at_a_time(base, aligned, tmp_path, monkeypatch):
    """Saving reads one tensor of each model, then lets both go."""
    import gc
    import weakref

    vector, alive, most = between(aligned, base), [], 0
    read = TensorFiles.__getitem__

    def counted(self, name):
        nonlocal most
        tensor = read(self, name)
        gc.collect()
        alive.append(weakref.ref(tensor))
        most = max(most, sum(each() is not None for each in alive))
        return tensor

    monkeypatch.setattr(TensorFiles, "__getitem__", counted)
    vector.save(tmp_path / "v")
    assert len(alive) >= 4 and most <= 3  # the two of one difference, and one that is being replaced


MEASURE = """
import resource, sys, torch, transformers, peft
import trimtab.vectors.extract, trimtab.policies.vector_folder
own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
from trimtab.policies.vector import Vector
from trimtab.policies.vocabulary import Vocabulary
Vector.between(sys.argv[1], "smollm2-135m").save(sys.argv[2])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - own) / 1024)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_memory_that_extraction_takes(tmp_path):
    """A pair of 135M parameters: below 1.3 GB over the interpreter with its libraries."""
    from trimtab.assets import get_model

    folder = shutil.copytree(get_model("smollm2-135m"), tmp_path / "aligned")
    stored = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    for tensor in stored.values():
        tensor += (torch.randn(tensor.shape, generator=generator) * 0.01).to(tensor.dtype)
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    command = [sys.executable, "-c", MEASURE, folder, tmp_path / "vector"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    megabytes = float(ran.stdout)
    assert megabytes < 1300, megabytes
    assert len(Vector.load(tmp_path / "vector").dense) == 272
