"""Distilled copies on tiny transformers: what is imitated, measured, refused, and that guides are trained on them."""

import json
import shutil

import pytest
import torch

from trimtab.decoding.pool import decode
from trimtab.decoding.request import Request
from trimtab.errors import ConfigError, ModelError, VocabularyError
from trimtab.policies.lm import LM
from trimtab.policies.policy_file import read_policy_file
from trimtab.policies.support import top_k
from trimtab.training import distill
from trimtab.training.config import TrainConfig
from trimtab.training.distill import train_distill
from trimtab.training.imitation import kl_at_answers
from trimtab.training.rollouts import settings_of
from trimtab.training.small_settings import DistillSettings
from trimtab.training.trainer import train

PROMPTS = [f"w{i} w{j}" for i in range(10) for j in (3, 7)]


@pytest.fixture
def common(tiny_lm_folder, smaller_lm_folder, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS))
    return {
        "base": str(smaller_lm_folder),
        "policy": str(tiny_lm_folder),
        "dtype": "float32",
        "device": "cpu",
        "prompts": {"source": str(prompts)},
        "n": 6,
        "rollout": {"max_new_tokens": 8, "min_new_tokens": 0},
        "rows": 12,
        "micro_rows": 6,
        "learning_rate": 0.02,
        "epochs": 4,
        "output": str(tmp_path / "run"),
    }


def kl_by_hand(policy, copy, settings):
    """KL(policy || copy) over held-out answers, one prefix after the other: the slow and obvious twin."""
    requests = [Request(tuple(policy.vocabulary.encode(prompt)), settings.n) for prompt in PROMPTS]
    rows = decode(policy, requests, settings_of(settings.rollout, settings.seed), metered=False)
    found = []
    for row in rows[-2 * settings.n :]:  # a tenth of 20 prompts
        for place in range(len(row.tokens)):
            prefix = [[*row.request.prompt, *row.tokens[:place]]]
            p, q = (each.init(prefix)[0][0] for each in (policy, copy))
            found.append(sum(float(a.exp() * (a - b)) for a, b in zip(p, q, strict=True) if a > -torch.inf))
    return sum(found) / len(found)


@pytest.mark.parametrize("signal", ["samples", "tokens"])
def test_a_copy_comes_nearer_to_what_it_imitates(common, signal):
    settings = DistillSettings.of({**common, "signal": signal})
    outcome = train_distill(settings)
    assert outcome.numbers["kl_after"] < 0.8 * outcome.numbers["kl_before"]
    policy, small, copy = (
        LM.load(source, dtype="float32") for source in (common["policy"], common["base"], outcome.folder)
    )
    with torch.no_grad():
        assert outcome.numbers["kl_before"] == pytest.approx(kl_by_hand(policy, small, settings), rel=1e-4)
        assert outcome.numbers["kl_after"] == pytest.approx(kl_by_hand(policy, copy, settings), rel=1e-4)
    about = json.loads((outcome.folder / "trimtab.json").read_text())
    assert about["kind"] == "lm" and about["measured"] == outcome.numbers
    assert about["distilled_from"] == {"policy": "tiny-lm", "source": common["policy"], "signal": signal}


def test_a_service_shows_its_likeliest_tokens_only(common):
    settings = DistillSettings.of({**common, "top_k": 5})
    outcome = train_distill(settings)
    assert outcome.numbers["kl_after"] < outcome.numbers["kl_before"]
    policy, copy = top_k(LM.load(common["policy"], dtype="float32"), 5), LM.load(outcome.folder, dtype="float32")
    with torch.no_grad():
        assert outcome.numbers["kl_after"] == pytest.approx(kl_by_hand(policy, copy, settings), rel=1e-4)


def test_layers_of_the_policy_itself_are_a_copy_and_leave_it_alone(common):
    policy = LM.load(common["policy"], dtype="float32")
    before = policy.next_log_probs(["w1 w2"])
    outcome = train_distill(DistillSettings.of({**common, "base": common["policy"], "layers": 1, "holdout": 0}))
    assert LM.load(outcome.folder).trunk.model.config.num_hidden_layers == 1
    assert outcome.numbers == {} and torch.equal(policy.next_log_probs(["w1 w2"]), before)


def test_prompts_are_turns_of_a_chat_where_the_settings_say_so(common, tiny_lm_folder, tmp_path):
    talkative = shutil.copytree(tiny_lm_folder, tmp_path / "talkative")
    path = talkative / "tokenizer_config.json"
    template = "{% for m in messages %}w18 {{ m.content }}{% endfor %}{% if add_generation_prompt %} w19{% endif %}"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": template}))
    settings = DistillSettings.of(
        {**common, "policy": str(talkative), "n": 1, "prompts": {**common["prompts"], "chat": True}}
    )
    policy = LM.load(str(talkative), dtype="float32")
    encode = policy.vocabulary.encode
    written = distill._write(policy, settings, lambda line: None)
    assert [each.prompt for each in written] == [tuple(encode(f"w18 {prompt} w19")) for prompt in PROMPTS]
    with pytest.raises(ModelError, match="chat"):
        train_distill(DistillSettings.of({**common, "prompts": {**common["prompts"], "chat": True}}))


def test_a_resumed_copy_is_that_of_an_uninterrupted_run(common, tmp_path):
    whole = train_distill(DistillSettings.of({**common, "checkpoint_every": 2}))

    def interrupt(metrics):
        if metrics["step"] == 5:
            raise RuntimeError

    cut = DistillSettings.of({**common, "checkpoint_every": 2, "output": str(tmp_path / "cut")})
    with pytest.raises(RuntimeError):
        train_distill(cut, on_step=interrupt)
    resumed = train_distill(cut, resume=True)
    assert resumed.numbers == whole.numbers
    prompts = ["w1 w2", "w5"]
    a, b = (LM.load(each.folder).next_log_probs(prompts) for each in (whole, resumed))
    assert torch.equal(a, b)


def test_a_guide_trained_on_a_copy_steers_what_was_copied(common, tmp_path, monkeypatch):
    copy = train_distill(DistillSettings.of(common)).folder
    monkeypatch.chdir(tmp_path)
    config = {
        "base": common["policy"],
        "approximate_base": str(copy),
        "adapter": {"rank": 2},
        "prompts": common["prompts"],
        "reward": {"name": "keywords", "words": ["w3"]},
        "algorithm": {"name": "grpo", "prompts": 2, "answers": 2},
        "rollout": {"max_new_tokens": 4},
        "steps": 2,
        "dtype": "float32",
        "output": str(tmp_path / "guide-run"),
    }
    result = train(TrainConfig.of(config))
    file = read_policy_file(result.run / "policy.yaml")
    assert file.policy == "base * (guide / untrained)^strength"
    assert (file.models["base"].source, file.models["untrained"].source) == (common["policy"], str(copy))
    policy = file.build(lambda source: LM.load(source, dtype="float32"))
    base = LM.load(common["policy"], dtype="float32")
    assert policy.reference == base
    assert not torch.equal(policy.next_log_probs(["w1 w2"]), base.next_log_probs(["w1 w2"]))
    plain = policy.next_log_probs(["w1 w2"], {"strength": 0.0})
    assert torch.equal(plain, base.next_log_probs(["w1 w2"]))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"adapter": {"kind": "lora"}}, "full"),
        ({"rollout": {"constrained": 0.5}}, "constrained"),
        ({"signal": "logits"}, "samples"),
        ({"top_k": 0}, "greater"),
        ({"layers": 5}, "layers"),
    ],
)
def test_settings_that_make_no_copy_are_refused(common, change, says):
    with pytest.raises(ConfigError, match=says):
        train_distill(DistillSettings.of({**common, **change}))


def test_other_tokens_are_refused(common, tmp_path, tiny_lm_folder):
    other = tmp_path / "other"
    shutil.copytree(tiny_lm_folder, other)
    text = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(text.replace('"w19"', '"x19"'))
    with pytest.raises(VocabularyError):
        train_distill(DistillSettings.of({**common, "policy": str(other)}))


def test_the_kl_of_policies_that_are_close_keeps_its_digits_where_forwards_are_in_bfloat16():
    """By hand: log(.5/.501) / 2 + log(.5/.499) / 2 = 2.000004e-6, of which bfloat16 products leave nothing right."""
    wanted, said = torch.tensor([[[0.5, 0.5]]]).log(), torch.tensor([[[0.501, 0.499]]]).log()
    with torch.autocast("cpu", torch.bfloat16):
        kl = kl_at_answers(wanted, said, torch.ones(1, 1, dtype=torch.bool))
    assert kl.dtype == torch.float32 and float(kl) == pytest.approx(2e-6, rel=0.05)
