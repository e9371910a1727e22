"""The experiment with preference vectors on a tiny model: every stage, what is used again, and what is refused."""

import json
import shutil

import pytest
import yaml
from transformers import AutoTokenizer

from trimtab.cli.main import run
from trimtab.errors import ConfigError, ModelError
from trimtab.evaluation.level_results import LevelResults
from trimtab.evaluation.levels_report import all_ways, write_levels
from trimtab.policies.lm import LM
from trimtab.rewards.level import DOMAINS, LEVELS
from trimtab.tasks import level_stages
from trimtab.tasks.level_points import questions
from trimtab.tasks.level_settings import LevelSettings
from trimtab.tasks.level_stages import Stages
from trimtab.tasks.levels import Triple, Triples, chat_prompt
from trimtab.tasks.preference_levels import reproduce
from trimtab.vectors.preference import preferences

TEMPLATE = (
    "{% for m in messages %}{{ m.role }} : {{ m.content }} <end> {% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)
WAYS = [
    "vectors",
    "vectors, on the logits",
    "soups",
    "one system prompt",
    "system prompt by domain",
    "four examples by domain",
    "joint training",
]


def triples(domain, count):
    """Return triples whose answers begin with a word of their level and domain."""
    words = [6 + 3 * place + DOMAINS.index(domain) for place in range(len(LEVELS))]
    return tuple(
        Triple(f"w{DOMAINS.index(domain)} w{number % 20}", *(f"w{word} w{number % 4}" for word in words))
        for number in range(count)
    )


def fake_triples(base, domain, split, *, limit, seed, asking, progress):
    progress(f"asking: {domain} {split}")
    found = triples(domain, limit + 7)[7:] if split == "test" else triples(domain, limit)
    return Triples(domain, limit, dict.fromkeys(LEVELS, 1.0), found)


@pytest.fixture(scope="module")
def folder(tiny_lm_folder, tmp_path_factory):
    """Return a tiny model with a chat template, room for examples, and texts to fine-tune on."""
    folder = tmp_path_factory.mktemp("levels") / "chat"
    shutil.copytree(tiny_lm_folder, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 2048}))
    (folder.parent / "texts.txt").write_text("w1 w2 w3 w4\n" * 20)
    return folder


@pytest.fixture(scope="module")
def asked(folder):
    """An experiment of seconds."""
    common = {"rows": 8, "micro_rows": 8, "learning_rate": 0.02, "dtype": "float32"}
    return {
        "kind": "preference_levels",
        "base": str(folder),
        "domains": ["medical", "legal"],
        "dtype": "float32",
        "device": "cpu",
        "data": {"train": 12, "test": 7},
        "vector": {**common, "adapter": {"rank": 4, "alpha": 8}, "beta": 0.5, "epochs": 4},
        "questions": {"search": 3, "final": 4},
        "lambdas": [-1.0, 0.0, 1.0],
        "search": {"min": -1.0, "max": 1.0, "steps": 3, "rounds": 1},
        "joint": {"targets": [{"medical": "generic", "legal": "expert"}], "pairs": 30},
        "transfer": {
            "sft": {
                **common,
                "adapter": {"rank": 2, "alpha": 4},
                "texts": {"source": str(folder.parent / "texts.txt")},
                "max_tokens": 8,
            },
            "lambdas": [0.0, 1.0],
        },
        "soup_steps": 2,
        "speed_points": 2,
        "generated": {"questions": 2, "lambdas": [0.0, 1.0], "max_new_tokens": 4},
        "output": str(folder.parent / "run"),
    }


@pytest.fixture(autouse=True)
def _answers_are_at_hand(monkeypatch):
    monkeypatch.setattr(level_stages, "make_triples", fake_triples)


@pytest.fixture(scope="module")
def experiment(asked):
    """The experiment as it was run once, and what it said."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(level_stages, "make_triples", fake_triples)
        said = []
        return reproduce(LevelSettings.of(asked), progress=said.append), said


@pytest.fixture
def again(asked, experiment, tmp_path):
    """Return a function that runs the experiment in a copy of its folder with changed settings; gives what is said."""
    copied = tmp_path / "run"
    shutil.copytree(asked["output"], copied)

    def call(**changed):
        said = []
        return reproduce(LevelSettings.of({**asked, "output": str(copied), **changed}), progress=said.append), said

    return call, copied


def test_every_stage_is_there(experiment):
    found, said = experiment
    stages = [line for line in said if line.startswith(("asking", "training", "measuring"))]
    assert stages[:4] == ["asking: medical train", "asking: legal train", "asking: medical test", "asking: legal test"]
    assert [line for line in stages if line.startswith("training")] == [
        "training: vector-medical",
        "training: vector-legal",
        "training: joint-0",
        "training: sibling",
    ]
    assert list(found.ways) == WAYS
    assert [len(way.attempts) for way in all_ways(found).values()] == [9, 9, 9, 9, 9, 9, 1, 9]
    assert {name: (each.asked, each.kept) for name, each in found.data.items()} == {
        "medical train": (12, 12),
        "legal train": (12, 12),
        "medical test": (7, 7),
        "legal test": (7, 7),
    }
    assert found.questions == {"medical": 4, "legal": 4}
    # Each domain has two coefficients, and a prompt and examples for each of three levels.
    assert len(found.generated.answered) == 2 * (2 + 3 + 3)
    assert all(len(each.texts) == len(each.levels) == 2 for each in found.generated.answered)
    unsteered = [each for each in found.generated.answered if (each.writer, each.wanted) == ("vector", "0")]
    assert [each.kl for each in unsteered] == [0.0, 0.0]


def test_vectors_do_what_they_were_trained_for(experiment):
    found, _ = experiment
    for curves in (found.curves, found.transfer.curves):
        for domain in ("medical", "legal"):
            leads = [each.found.leads[domain]["expert"] for each in curves.points[domain]]
            assert leads == sorted(leads) and leads[-1] > leads[0] + 0.1
    assert found.curves.at("medical", 1.0).shares["medical"]["expert"] == 1.0


def test_curves_are_those_of_merged_models(experiment, asked):
    """The slow twin: weights merged for good, one point and one question after another."""
    found, _ = experiment
    stages = Stages(LevelSettings.of(asked), LM.load(asked["base"], dtype="float32", device="cpu"), None, print)
    vector = stages.vectors["legal"]
    merged = LM(stages.base.trunk.merged({vector: -1.0}))
    final = questions(stages.held.final, merged, lambda query: chat_prompt(merged, query))
    alone = [preferences(merged, [each], [{}])[0].leads[each.domain]["expert"] for each in final]
    assert [each.domain for each in final] == ["medical"] * 4 + ["legal"] * 4
    point = found.curves.at("legal", -1.0)
    assert point.leads["medical"]["expert"] == pytest.approx(sum(alone[:4]) / 4, abs=1e-4)
    assert point.leads["legal"]["expert"] == pytest.approx(sum(alone[4:]) / 4, abs=1e-4)
    assert found.speed.difference < 1e-4 and found.speed.points == 2 and found.speed.ratio > 0


def test_logits_and_weights_agree_at_the_base_and_at_the_aligned_model(experiment):
    found, _ = experiment
    for vector in ("medical", "legal"):
        for amount in (0.0, 1.0):
            by_weights, by_logits = (each.at(vector, amount) for each in (found.curves, found.dera))
            for domain in ("medical", "legal"):
                assert by_logits.leads[domain] == pytest.approx(by_weights.leads[domain], abs=1e-4)
    assert found.curves.base() == found.curves.at("legal", 0.0)
    # Between and beyond, they are different models.
    assert found.dera.at("legal", -1.0).leads["legal"] != pytest.approx(
        found.curves.at("legal", -1.0).leads["legal"], abs=1e-4
    )


def test_rivals_use_what_was_found(experiment):
    found, _ = experiment
    points = [each.at for each in found.ways["vectors"].attempts]
    assert [each.at for each in found.ways["vectors, on the logits"].attempts] == points
    assert [each.at for each in found.transfer.way.attempts] == points
    assert all(sum(each.at.values()) == 1 for each in found.ways["soups"].attempts)
    assert 0 < found.ways["vectors"].searched <= 9 and found.ways["vectors, on the logits"].searched is None
    assert found.ways["joint training"].attempts[0].target == {"medical": "generic", "legal": "expert"}
    assert found.ways["joint training"].preparing == sum(each.seconds for each in found.joint)


def test_prompts_by_domain_are_put_together_of_their_domains(experiment):
    found, _ = experiment
    by_target = {tuple(each.target.values()): each.found for each in found.ways["system prompt by domain"].attempts}
    for medical in LEVELS:
        shares = [by_target[medical, legal].shares["medical"] for legal in LEVELS]
        assert shares[0] == shares[1] == shares[2]


def test_tokens_before_an_answer_are_counted(experiment):
    found, _ = experiment
    # "user : w0 w1 <end> assistant :" has 7 words, each a token.
    assert found.ways["vectors"].prompt_tokens == 7
    # A domain's system prompt stands in "system : ... <end> user : w0 w1 <end> assistant :", the examples as well.
    assert found.ways["four examples by domain"].prompt_tokens > found.ways["one system prompt"].prompt_tokens
    assert found.ways["one system prompt"].prompt_tokens > found.ways["system prompt by domain"].prompt_tokens > 10


def test_what_is_there_is_used_again(experiment, again):
    found, _ = experiment
    call, _ = again
    repeated, said = call()
    assert said == []
    assert {**repeated.model_dump(), "settings": None} == {**found.model_dump(), "settings": None}


def test_a_search_that_was_stopped_goes_on_where_it_was(experiment, again):
    call, copied = again
    (copied / "measured" / "vectors.json").unlink()
    (search,) = copied.glob("search-*")
    trials = (search / "trials.jsonl").read_text().splitlines()
    # What it is about, and the first grid: three values of each of two coefficients.
    (search / "trials.jsonl").write_text("\n".join(trials[: 1 + 9]) + "\n")
    clock = (search / "seconds.jsonl").read_text().splitlines()
    found, said = call()
    assert said[0] == "measuring: vectors" and all(line.endswith(" points") for line in said[1:])
    fresh = (search / "seconds.jsonl").read_text().splitlines()[len(clock) :]
    assert sum(json.loads(line)["points"] for line in fresh) == len(trials) - 10 > 0
    assert [each.at for each in found.ways["vectors"].attempts] == [
        each.at for each in experiment[0].ways["vectors"].attempts
    ]
    # Its time is that of all runs.
    lines = (search / "seconds.jsonl").read_text().splitlines()
    assert found.ways["vectors"].preparing == pytest.approx(sum(json.loads(line)["seconds"] for line in lines))


def test_other_coefficients_are_measured_again_and_nothing_is_trained(again):
    call, _ = again
    found, said = call(lambdas=[0.0, 0.5, 1.0], speed_points=1)
    assert said == ["measuring: curves", "measuring: dera", "measuring: speed"]
    assert [each.at["legal"] for each in found.curves.points["legal"]] == [0.0, 0.5, 1.0]
    assert found.speed.points == 1


def test_training_with_other_settings_is_refused(asked, again):
    call, _ = again
    with pytest.raises(ConfigError, match="another beta"):
        call(vector={**asked["vector"], "beta": 0.7})
    with pytest.raises(ConfigError, match="another limit"):
        call(data={"train": 11, "test": 7})
    with pytest.raises(ConfigError, match="another pairs"):
        call(joint={"targets": [{"medical": "generic", "legal": "avoidance"}], "pairs": 30})


def test_too_few_questions_are_refused(again):
    call, _ = again
    with pytest.raises(ConfigError, match="7 held-out questions of the domain medical"):
        call(questions={"search": 7, "final": 1})


def test_models_that_do_not_chat_are_refused(asked, tiny_lm_folder, tmp_path):
    with pytest.raises(ModelError, match="chat template"):
        reproduce(LevelSettings.of({**asked, "base": str(tiny_lm_folder), "output": str(tmp_path / "run")}))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lambdas": [0.5, 1.0]}, "with 0 and 1"),
        ({"domains": ["medical", "medical"]}, "none of them twice"),
        ({"domains": ["cooking"]}, "medical"),
        ({"joint": {"targets": [{"medical": "expert"}]}}, "a level for each of medical, legal"),
        ({"joint": {"targets": [{"medical": "novice", "legal": "expert"}]}}, "expert"),
        ({"search": {"min": 0.5, "max": 1.0}}, "holds 0"),
        ({"transfer": {"lambdas": [1.0]}}, "transfer.lambdas with 0"),
        ({"kind": "other"}, "preference_levels"),
        ({"speed_points": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_cannot_be(asked, changed, message):
    with pytest.raises(ConfigError, match=message):
        LevelSettings.of({**asked, **changed})


def test_what_is_written(experiment, tmp_path):
    found, _ = experiment
    report = write_levels(found, tmp_path / "out")
    text = report.read_text()
    for heading in (
        "## Combinations",
        "## One coefficient at a time",
        "## Speed of the search",
        "## Generated answers",
    ):
        assert heading in text
    assert "| GE |" in text and "![curves](curves.svg)" in text
    for picture in ("curves.svg", "combinations.svg"):
        assert report.with_name(picture).stat().st_size > 1000
    assert LevelResults.model_validate_json(report.with_name("results.json").read_text()) == found


def test_from_the_command_line(asked, again, tmp_path, monkeypatch, capsys):
    _, copied = again
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**asked, "output": str(copied)}))
    monkeypatch.setattr("sys.argv", ["trimtab", "reproduce", str(recipe), "--json"])
    with pytest.raises(SystemExit) as stop:
        run()
    assert not stop.value.code
    assert json.loads(capsys.readouterr().out)["report"] == str(copied / "report.md")
    recipe.write_text("kind: cooking\n")
    with pytest.raises(SystemExit) as stop:
        run()
    assert stop.value.code == 2
    assert "value_guidance, preference_levels" in capsys.readouterr().err


def test_the_recipe_is_what_the_experiment_understands():
    from pathlib import Path

    recipe = Path(__file__).parents[2] / "recipes" / "preference_levels.yaml"
    settings = LevelSettings.read(recipe)
    assert len(settings.targets) == 27 and len(settings.joint.targets) == 2
    # 1 / (2 beta) nats a token, as the recipe says.
    assert 1 / (2 * settings.vector.beta) == 1
