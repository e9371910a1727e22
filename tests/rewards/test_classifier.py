import json

import pytest
import torch
from transformers import BertForSequenceClassification

from trimtab.errors import ConfigError, ModelError
from trimtab.rewards import Classifier, load_reward

TEXTS = ["good film", "bad bad dull film a bad", "fun", ""]
PROMPTS = ["a", "a", "a", "a film"]


@pytest.fixture
def saved(tmp_path, word_tokenizer, small_bert):
    def save(**settings):
        model = small_bert(BertForSequenceClassification, **settings)
        model.save_pretrained(tmp_path / "model")
        word_tokenizer.save_pretrained(tmp_path / "model")
        return str(tmp_path / "model"), model

    return save


def logits(model, tokenizer, text):
    with torch.inference_mode():
        return model(**tokenizer([text or "[PAD]"], return_tensors="pt")).logits[0]


LABELS = {"id2label": {0: "bad", 1: "good", 2: "so"}, "label2id": {"bad": 0, "good": 1, "so": 2}}


def test_it_is_the_probability_of_its_label(saved, word_tokenizer):
    folder, model = saved(**LABELS)
    found = load_reward({"name": "classifier", "model": folder, "label": "good", "batch_size": 2})(
        PROMPTS[:3], TEXTS[:3]
    )
    expected = [logits(model, word_tokenizer, text).softmax(-1)[1].item() for text in TEXTS[:3]]
    assert found == pytest.approx(expected, abs=1e-5), "batches of ragged texts as one by one"


def test_labels_that_do_not_exclude_each_other_have_their_own_probability(saved, word_tokenizer):
    folder, model = saved(**LABELS, problem_type="multi_label_classification")
    (found,) = Classifier.load(folder, label="so", scope="text")(["a "], ["film"])
    assert found == pytest.approx(logits(model, word_tokenizer, "a film").sigmoid()[2].item(), abs=1e-5)


def test_a_reward_model_gives_its_number(saved, word_tokenizer):
    folder, model = saved(num_labels=1)
    (found,) = Classifier.load(folder)(["a"], ["bad film"])
    assert found == pytest.approx(logits(model, word_tokenizer, "bad film")[0].item(), abs=1e-5)


def test_long_texts_are_cut(saved):
    folder, _ = saved(num_labels=1)
    reward = Classifier.load(folder, max_tokens=4)
    cut, whole = reward(["", ""], ["good film a fun " + "dull " * 50, "good film a fun"])
    assert cut == pytest.approx(whole, abs=1e-5)


@pytest.mark.parametrize("label", [None, "great", 1])
def test_an_unknown_label_lists_the_known_ones(saved, label):
    folder, _ = saved(**LABELS)
    with pytest.raises(ConfigError, match="'bad', 'good', 'so'"):
        Classifier.load(folder, label=label)


def test_two_labels_of_a_model_share_their_origin(saved):
    folder, _ = saved(**LABELS)
    good, bad = Classifier.load(folder, label="good"), Classifier.load(folder, label="bad")
    assert good.name != bad.name
    assert good.origins == bad.origins


def test_a_missing_folder_is_a_model_error(tmp_path):
    with pytest.raises(ModelError, match="nowhere"):
        Classifier.load(str(tmp_path / "nowhere"))


def test_pickled_weights_are_refused(saved, tmp_path):
    folder, model = saved(num_labels=1)
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        Classifier.load(folder)


def test_a_models_own_code_is_not_run(saved, tmp_path):
    folder, _ = saved(num_labels=1)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config |= {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.Own", "AutoModelForSequenceClassification": "own.Own"},
    }
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    (tmp_path / "model" / "own.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ModelError, match="its own code"):
        Classifier.load(folder)
