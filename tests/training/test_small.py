"""Training of small models without reinforcement, on a tiny transformer: what is learned, written, resumed, refused."""

import itertools
import json
import math

import pytest
import torch
from safetensors.torch import load_file

from trimtab.errors import ConfigError, RunError
from trimtab.policies.lm import LM
from trimtab.policies.policy_file import read_policy_file
from trimtab.training.genarm import train_genarm
from trimtab.training.pairs import Pair, pair_up
from trimtab.training.preference import train_preference
from trimtab.training.rollouts import Rollout
from trimtab.training.sft import train_sft
from trimtab.training.small import Sequences, Small, split_off
from trimtab.training.small_settings import GenARMSettings, PreferenceSettings, SFTSettings, ValueSettings
from trimtab.training.value import train_value
from trimtab.values import PrefixValue

WORDS = [f"w{i}" for i in range(8)]


@pytest.fixture
def pairs(tmp_path):
    """Preference pairs in which the answer with w3 is the better one."""
    path = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": f"{a} {b}", "chosen": f"w3 {a}", "rejected": f"w4 {a}"} for a, b in itertools.product(WORDS, WORDS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def common(tiny_lm_folder, tmp_path):
    return {
        "base": str(tiny_lm_folder),
        "dtype": "float32",
        "device": "cpu",
        "adapter": {"rank": 4, "alpha": 8},
        "rows": 8,
        "micro_rows": 4,
        "learning_rate": 0.02,
        "epochs": 2,
        "output": str(tmp_path / "run"),
    }


@pytest.mark.parametrize("method", ["dpo", "ipo"])
def test_a_pair_learns_to_prefer_and_shares_its_trunk(common, pairs, method):
    settings = PreferenceSettings.of({**common, "pairs": {"source": str(pairs)}})
    outcome = train_preference(method, settings)
    assert outcome.numbers["accuracy"] > 0.9
    file = read_policy_file(outcome.run / "policy.yaml")
    models = {name: LM.load(file.models[name].source, dtype="float32") for name in ("tuned", "untuned")}
    assert models["tuned"].trunk is models["untuned"].trunk
    ratio = models["tuned"].log_probs("w1 w2", " w3") - models["untuned"].log_probs("w1 w2", " w3")
    other = models["tuned"].log_probs("w1 w2", " w4") - models["untuned"].log_probs("w1 w2", " w4")
    assert float(ratio.sum()) > float(other.sum()) + 0.5
    about = json.loads((outcome.folder / "trimtab.json").read_text())
    assert about["measured"] == outcome.numbers and about["trained"]["method"] == method


def test_an_untrained_pair_has_the_loss_of_answers_liked_alike(common, tmp_path):
    """Ratios are 0 whatever the answers, which leaves 1/(2b)^2 of IPO."""
    path = tmp_path / "one.jsonl"
    path.write_text('{"prompt": "w1", "chosen": "w2 w3 w4", "rejected": "w5"}\n' * 2)
    seen = []
    settings = PreferenceSettings.of({**common, "epochs": 1, "holdout": 0, "pairs": {"source": str(path)}, "beta": 0.5})
    train_preference("ipo", settings, on_step=seen.append)
    assert seen[0]["loss"] == pytest.approx(1.0)  # (0 - 1 / (2 * 0.5))^2


@pytest.mark.parametrize("method", ["dpo", "ipo"])
def test_what_is_measured_of_a_pair_is_that_of_its_held_out_pairs(common, tmp_path, method):
    """By hand from the saved pair: 5 held-out pairs of unequal lengths, which batches of 4 do not divide.

    The last one contradicts what was learned, so a mean over batches (1 and 0) would not be that over pairs.
    """
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"w{i} w5", "chosen": f"w{i % 3} w3", "rejected": "w6 " * (i % 4 + 1)} for i in range(10)]
    rows[-1]["chosen"], rows[-1]["rejected"] = rows[-1]["rejected"], rows[-1]["chosen"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {**common, "learning_rate": 0.005, "holdout": 0.5, "beta": 0.5, "pairs": {"source": str(path)}}
    outcome = train_preference(method, PreferenceSettings.of(config))
    tuned = LM.load(outcome.folder, dtype="float32")
    losses, right = [], []
    for row in rows[5:]:
        prompt, gaps = tuned.vocabulary.encode(row["prompt"]), []
        for answer in (row["chosen"], row["rejected"]):
            ids = [*tuned.vocabulary.encode_answer(answer), 1]  # and the end token
            ratios = _summed(tuned, prompt, ids) - _summed(tuned.untouched, prompt, ids)
            gaps.append((ratios, ratios / len(ids)))
        gap, gap_of_means = (better - worse for better, worse in zip(*gaps, strict=True))
        right.append(gap > 0)
        losses.append(math.log1p(math.exp(-0.5 * gap)) if method == "dpo" else (gap_of_means - 1 / (2 * 0.5)) ** 2)
    assert outcome.numbers["accuracy"] == pytest.approx(sum(right) / 5)
    assert sum(right) == 4
    assert outcome.numbers["loss"] == pytest.approx(sum(losses) / 5, rel=1e-4)


def _summed(lm, prompt, ids):
    """Log-probability of an answer, token by token: the slow and obvious twin."""
    total, seen = 0.0, list(prompt)
    for token in ids:
        (log_probs,), _ = lm.init([seen])
        total, seen = total + float(log_probs[token]), [*seen, token]
    return total


def test_pairs_that_teach_nothing_are_counted_and_all_of_them_an_error(common, tmp_path):
    path = tmp_path / "pairs.jsonl"
    bad = [("w1", "", "w2"), ("w1", "w2", "w2"), ("w1", "w2", "  ")]
    good = [("w1", "w2", "w3")] * 2
    rows = [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in bad + good]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = []
    settings = PreferenceSettings.of({**common, "epochs": 1, "pairs": {"source": str(path)}})
    train_preference("dpo", settings, progress=said.append)
    assert any("skipped 3 of 5 pairs" in line for line in said)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:3]))
    with pytest.raises(ConfigError, match="3 preference pairs"):
        train_preference("dpo", settings, overwrite=True)


def test_prompts_without_tokens_are_named(common, tmp_path):
    path = tmp_path / "rows.jsonl"
    row = {"prompt": "", "chosen": "w2", "rejected": "w3", "answer": "w2", "reward": 1}
    path.write_text(json.dumps({**row, "prompt": "w1"}) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(ConfigError, match="row 2"):
        train_preference("dpo", PreferenceSettings.of({**common, "pairs": {"source": str(path)}}))
    with pytest.raises(ConfigError, match="row 2"):
        train_value(ValueSettings.of({**common, "answers": {"source": str(path)}}))


@pytest.mark.parametrize(
    ("row", "message"),
    [({"prompt": "w1", "chosen": "w2"}, "rejected"), ({"prompt": "w1", "chosen": 3, "rejected": "w2"}, "a text")],
)
def test_broken_pairs_are_named(common, tmp_path, row, message):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(ConfigError, match=message) as error:
        train_preference("dpo", PreferenceSettings.of({**common, "pairs": {"source": str(path)}}))
    assert "row 1" in str(error.value)


def test_best_and_worst_are_paired_and_margins_kept():
    rollouts = [Rollout((0,), (i,), (), reward) for i, reward in ((1, 0.2), (2, 0.7), (3, 0.5))]
    assert pair_up(rollouts, 0.4) == ([Pair((0,), (2,), (1,))], 0)
    assert pair_up(rollouts, 0.5) == ([], 1)


def test_sft_learns_its_texts_and_can_make_a_model_shallow(common, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("w1 w2 w3 w4\n" * 60)
    config = {**common, "adapter": {"kind": "full"}, "layers": 1, "max_tokens": 10, "epochs": 10}
    outcome = train_sft(SFTSettings.of({**config, "texts": {"source": str(texts)}}))
    small = LM.load(outcome.folder)
    assert small.trunk.model.config.num_hidden_layers == 1
    assert outcome.numbers["perplexity"] < 1.5
    assert small.generate("w1", temperature=0, max_new_tokens=4)[0].text.startswith("w2 w3 w4")


def test_whole_models_are_loaded_in_the_dtype_they_are_stored_in(common, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("w1 w2 w3 w4\n" * 20)
    config = {**common, "dtype": "bfloat16", "adapter": {"kind": "full"}, "max_tokens": 10, "epochs": 1}
    outcome = train_sft(SFTSettings.of({**config, "texts": {"source": str(texts)}}))
    stored = load_file(outcome.folder / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert LM.load(outcome.folder).trunk.model.dtype == torch.bfloat16


def test_more_layers_than_there_are_is_refused(common):
    with pytest.raises(ConfigError, match="out of its 2"):
        Small.load(SFTSettings.of(common), layers=3)


def test_genarm_starts_at_the_loss_of_its_formula(common, tmp_path):
    path = tmp_path / "one.jsonl"
    path.write_text('{"prompt": "w1", "chosen": "w2 w3 w4", "rejected": "w5"}\n')
    config = {**common, "epochs": 1, "holdout": 0, "pairs": {"source": str(path)}, "beta": 0.3}
    seen = []
    train_genarm(GenARMSettings.of(config), on_step=seen.append)
    lm = LM.load(common["base"], dtype="float32")
    prompt = lm.vocabulary.encode("w1")
    chosen, rejected = (_summed(lm, prompt, [*lm.vocabulary.encode(text), 1]) for text in ("w2 w3 w4", "w5"))
    assert seen[0]["loss"] == pytest.approx(math.log1p(math.exp(-0.3 * (chosen - rejected))), rel=1e-4)


def test_accumulated_gradients_are_those_of_all_rows_at_once(common, pairs, tmp_path):
    steps = []
    for micro_rows in (8, 3):  # 3 + 3 + 2 of 8
        config = {**common, "epochs": 1, "micro_rows": micro_rows, "pairs": {"source": str(pairs), "limit": 9}}
        settings = GenARMSettings.of({**config, "output": str(tmp_path / f"of-{micro_rows}")})
        train_genarm(settings, on_step=steps.append)
    for name in ("loss", "accuracy", "gradient_norm"):
        assert steps[1][name] == pytest.approx(steps[0][name], rel=1e-4)


@pytest.mark.parametrize("targets", ["q_prj", "q_proj", [], ["q_prj"], ["mlp"], ["q_proj", "norm"]])
def test_targets_that_are_no_linear_modules_are_refused(common, targets):
    with pytest.raises(ConfigError, match=r"adapter\.targets"):
        Small.load(GenARMSettings.of({**common, "adapter": {"targets": targets}}))


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "lm_head"]])
def test_targets_are_what_is_trained(common, targets):
    small = Small.load(GenARMSettings.of({**common, "adapter": {"targets": targets}}))
    assert len(small.parameters) == 2 * (2 * 7 if targets == "all-linear" else 3)  # two factors each


def test_genarm_ranks_pairs_and_resumes_exactly(common, pairs, tmp_path):
    config = {**common, "pairs": {"source": str(pairs)}, "beta": 1.0, "checkpoint_every": 3}
    whole = train_genarm(GenARMSettings.of(config))
    assert whole.numbers["accuracy"] > 0.9

    def stop(metrics):
        if metrics["step"] == 5:
            raise InterruptedError

    cut = GenARMSettings.of({**config, "output": str(tmp_path / "cut")})
    with pytest.raises(InterruptedError):
        train_genarm(cut, on_step=stop)
    resumed = train_genarm(cut, resume=True)
    a, b = (load_file(each.folder / "adapter_model.safetensors") for each in (whole, resumed))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def answers(tmp_path):
    """Answers of three words whose reward is the share of w3 among them."""
    path = tmp_path / "answers.jsonl"
    rows = [
        {"prompt": f"w{i} w5", "answer": " ".join(words), "reward": words.count("w3") / 3}
        for i in range(4)
        for words in itertools.product(["w2", "w3", "w4"], repeat=3)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("head", ["factored", "free"])
@pytest.mark.parametrize("target", ["fudge", "td"])
def test_a_value_learns_what_prefixes_are_worth(common, answers, head, target):
    config = {
        **common,
        "adapter": {"kind": "full"},
        "epochs": 12,
        "learning_rate": 0.01,
        "head": head,
        "target": target,
        "holdout": 0.25,
    }
    outcome = train_value(ValueSettings.of({**config, "answers": {"source": str(answers)}}))
    assert outcome.numbers["accuracy"] > 0.9
    value = PrefixValue.load(outcome.folder)
    ids = [value.leaf.vocabulary.encode_answer(word)[0] for word in ("w2", "w3")]
    logits = value.leaf.next_log_probs(["w1 w5"])[0]
    # The mean reward after a first w3 is 1/3 + 2/9 = 5/9, after another word 2/9: 1/3 more.
    assert float(logits[ids[1]] - logits[ids[0]]) == pytest.approx(1 / 3, abs=0.1)


@pytest.fixture
def share_reward(tmp_path, monkeypatch):
    """A reward of one's own: the share of w3 among the words."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "share_reward.py").write_text(
        "def share(prompts, completions, **columns):\n"
        "    return [text.split().count('w3') / max(1, len(text.split())) for text in completions]\n"
    )
    return "share_reward:share"


@pytest.mark.parametrize("method", ["dpo", "genarm"])
def test_a_folder_names_the_reward_of_sampled_pairs_only(common, pairs, tmp_path, share_reward, method):
    def trained(name, source):
        config = {**common, "epochs": 1, "output": str(tmp_path / name), "pairs": source}
        if method == "dpo":
            folder = train_preference("dpo", PreferenceSettings.of(config)).folder
        else:
            folder = train_genarm(GenARMSettings.of(config)).folder
        return json.loads((folder / "trimtab.json").read_text())["trained"]

    assert "reward" not in trained("read", {"source": str(pairs), "limit": 8})
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("w1 w2\nw2 w3\nw3 w4\n")
    rollout = {"max_new_tokens": 8}
    sampled = {"answers": {"prompts": {"source": str(prompts)}, "n": 8, "rollout": rollout, "reward": share_reward}}
    assert trained("sampled", sampled)["reward"] == share_reward


@pytest.mark.parametrize("target", ["cd_q", "monte_carlo"])
def test_values_of_sampled_answers(common, tmp_path, share_reward, target):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"w{i} w{j}\n" for i in range(6) for j in range(4)))
    config = {
        **common,
        "epochs": 8,
        "target": target,
        "rounds": 2,
        "cuts": 2,
        "continuations": 3,
        "answers": {
            "prompts": {"source": str(prompts)},
            "n": 4,
            "rollout": {"max_new_tokens": 4, "min_new_tokens": 4},
            "reward": share_reward,
        },
    }
    outcome = train_value(ValueSettings.of(config))
    assert set(outcome.numbers) == {"accuracy", "accuracy_half", "squared_error"}
    policy = LM.load(common["base"], dtype="float32")
    guided = policy * PrefixValue.load(outcome.folder).leaf ** 20.0
    plain, steered = (
        [a.text.split().count("w3") for a in each.generate(["w1 w2"] * 8, n=4, max_new_tokens=4, seed=0)]
        for each in (policy, guided)
    )
    assert sum(steered) > 1.5 * sum(plain)


def test_rewards_hear_of_the_columns_of_prompts_also_for_continuations(common, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "topic_reward.py").write_text(
        "def topic(prompts, completions, wanted):\n"
        "    assert [prompt.split()[1] for prompt in prompts] == [word or 'w2' for word in wanted]\n"
        "    return [float(word in text) for word, text in zip(map(str, wanted), completions)]\n"
    )
    rows = [*({"prompt": f"w1 w{i}", "wanted": f"w{i}"} for i in range(3, 7)), {"prompt": "w1 w2"}]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        **common,
        "epochs": 1,
        "target": "monte_carlo",
        "rounds": 2,
        "answers": {
            "prompts": {"source": str(path)},
            "n": 3,
            "rollout": {"max_new_tokens": 4},
            "reward": "topic_reward:topic",
        },
    }
    assert "squared_error" in train_value(ValueSettings.of(config)).numbers


def test_cd_q_asks_the_policy_in_the_policys_own_precision(common, tmp_path, share_reward):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("w1\nw2\n")
    answers = {"prompts": {"source": str(prompts)}, "rollout": {"max_new_tokens": 4}, "reward": share_reward}
    settings = ValueSettings.of({**common, "dtype": "auto", "target": "cd_q", "epochs": 1, "answers": answers})
    assert settings.in_bfloat16  # over a policy in float32, as its folder is
    assert set(train_value(settings).numbers) >= {"squared_error"}


def test_places_of_answers_in_padded_sequences():
    block = Sequences.of([[5, 6], [7]], [[1], [2, 3, 4]], torch.device("cpu"))
    assert block.tokens.tolist() == [[5, 6, 1, 0], [7, 2, 3, 4]]
    assert block.places.tolist() == [[1, 0, 0], [0, 1, 2]] and block.mask.tolist() == [[1, 0, 0], [1, 1, 1]]


def test_log_probs_of_answers_are_those_of_the_policy(common, tiny_lm_folder):
    small = Small.load(GenARMSettings.of(common))
    lm = LM.load(tiny_lm_folder, dtype="float32")
    prompts, answers = ["w1 w2 w3", "w4"], [" w5", " w6 w7"]
    ids = [[lm.vocabulary.encode(text) for text in texts] for texts in (prompts, answers)]
    found, mask = small.log_probs(*ids)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        expected = lm.log_probs(prompt, answer)
        assert torch.allclose(found[row][mask[row]], torch.as_tensor(expected), atol=1e-5)


def test_whole_prompts_are_held_out():
    assert split_off([0, 0, 1, 2, 2], 0.5) == ([0, 0 + 1, 2], [3, 4])
    assert split_off([0, 0], 0.5) == ([0, 1], []) and split_off([0, 1], 0.0) == ([0, 1], [])


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        (PreferenceSettings, {"adapter": {"kind": "full"}}, "lora"),
        (ValueSettings, {"decay": 1.5}, "decay"),
        (ValueSettings, {"target": "guess"}, "target"),
        (GenARMSettings, {"beta": 0}, "beta"),
        (ValueSettings, {"answers": {"source": "a.jsonl"}, "target": "cd_q"}, "sampled"),
        (ValueSettings, {"answers": {"source": "a.jsonl"}, "target": "monte_carlo"}, "sampled"),
        (ValueSettings, {"answers": {"source": "a.jsonl"}, "rounds": 2}, "sampled"),
        (PreferenceSettings, {"learning_rate": math.inf}, "learning_rate"),
        (PreferenceSettings, {"pairs": {"margin": math.inf}}, "margin"),
        (PreferenceSettings, {"seed": 2**32}, "seed"),
        (SFTSettings, {"layer": 3}, "layer"),
        (SFTSettings, {"layers": 1}, "'full' with layers"),
        (SFTSettings, {"learning_rate": math.nan}, "learning_rate"),
    ],
)
def test_wrong_settings_are_refused(common, settings, change, message):
    with pytest.raises(ConfigError, match=message):
        settings.of({**common, **change})


@pytest.mark.parametrize("method", ["sft", "dpo", "genarm", "value"])
def test_what_is_longer_than_the_context_is_refused(common, tmp_path, method):
    long = " ".join(["w1"] * 64)  # the context has 64 places; a prompt and an end come to it
    row = {"prompt": "w2", "chosen": "w3", "rejected": long, "answer": long, "reward": 1, "text": long}
    path = tmp_path / "rows.jsonl"
    path.write_text((json.dumps(row) + "\n") * 2)
    data = {"source": str(path)}
    with pytest.raises(ConfigError, match="at most 64"):
        if method == "sft":
            train_sft(SFTSettings.of({**common, "texts": data, "max_tokens": 65}))
        elif method == "dpo":
            train_preference("dpo", PreferenceSettings.of({**common, "pairs": data}))
        elif method == "genarm":
            train_genarm(GenARMSettings.of({**common, "pairs": data}))
        else:
            train_value(ValueSettings.of({**common, "answers": data}))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("reward", ['"high"', "true", "NaN", "1" + "0" * 400, "null"])
def test_rewards_that_are_no_numbers_are_refused(common, tmp_path, reward):
    path = tmp_path / "answers.jsonl"
    rows = '{"prompt": "w1", "answer": "w3", "reward": 1}', f'{{"prompt": "w1", "answer": "w2", "reward": {reward}}}'
    path.write_text("\n".join(rows))
    with pytest.raises(ConfigError, match=r"row 2(.|\n)*finite"):
        train_value(ValueSettings.of({**common, "answers": {"source": str(path)}}))


def test_answers_without_rewards_are_scored_but_for_empty_ones(common, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mean_reward.py").write_text(
        "def mean(prompts, completions, **columns):\n"
        "    return [text.split().count('w3') / len(text.split()) for text in completions]\n"
    )
    rows = [{"prompt": f"w{i}", "answer": answer} for i in range(2) for answer in ("w3 w1", " ", "w2")]
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said, seen = [], []
    settings = {"source": str(path), "reward": "mean_reward:mean"}
    config = ValueSettings.of({**common, "epochs": 1, "holdout": 0, "answers": settings})
    train_value(config, on_step=seen.append, progress=said.append)
    assert "skipped 2 empty answers of 6" in said
    assert seen[0]["loss"] == pytest.approx((0.5**2 + 0) / 2)  # of a head that values everything at 0


def test_answers_without_prompts_are_refused(common, tmp_path):
    (tmp_path / "answers.txt").write_text("w1\n")
    with pytest.raises(ConfigError, match="rename the column"):
        train_value(ValueSettings.of({**common, "answers": {"source": str(tmp_path / "answers.txt")}}))


def test_a_setting_that_trl_cannot_take_leaves_the_old_run_alone(common, pairs):
    settings = PreferenceSettings.of({**common, "epochs": 1, "pairs": {"source": str(pairs), "limit": 8}})
    outcome = train_preference("dpo", settings)
    with pytest.raises(ConfigError, match="micro_rows"):
        train_preference("dpo", settings.model_copy(update={"micro_rows": 3}), overwrite=True)
    assert LM.load(outcome.folder)


@pytest.mark.parametrize("taken", ["folder", "file"])
@pytest.mark.parametrize("train", [train_value, train_genarm])
def test_a_taken_folder_is_refused_before_answers_are_sampled(common, tmp_path, train, taken):
    if taken == "file":
        (tmp_path / "run").write_text("of somebody else\n")
    else:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "notes.txt").write_text("of somebody else\n")
    answers = {"prompts": {"source": str(tmp_path / "nowhere.txt")}}
    if train is train_value:
        settings = ValueSettings.of({**common, "answers": answers})
    else:
        settings = GenARMSettings.of({**common, "pairs": {"answers": answers}})
    with pytest.raises(ConfigError, match="the run folder"):
        train(settings)


@pytest.mark.parametrize("method", ["sft", "dpo", "genarm"])
def test_a_run_that_diverges_is_an_error_and_leaves_no_model(common, pairs, tmp_path, method):
    config = {**common, "learning_rate": 1e30, "warmup": 0}
    with pytest.raises(RunError, match="finite"):
        if method == "sft":
            texts = {"source": str(pairs), "column": "chosen"}
            train_sft(SFTSettings.of({**config, "texts": texts, "max_tokens": 8, "adapter": {"kind": "full"}}))
        elif method == "dpo":
            train_preference("dpo", PreferenceSettings.of({**config, "pairs": {"source": str(pairs)}}))
        else:
            train_genarm(GenARMSettings.of({**config, "pairs": {"source": str(pairs)}}))
    assert not (tmp_path / "run" / "guide").exists()


def test_what_trl_trains_cannot_be_resumed(common, pairs):
    with pytest.raises(ConfigError, match="pickled"):
        train_preference("dpo", PreferenceSettings.of({**common, "pairs": {"source": str(pairs)}}), resume=True)
