"""Prompt files: every format, and every way they are broken."""

import json

import pytest

from trimtab.errors import ConfigError
from trimtab.training import prompts
from trimtab.training.config import PromptsConfig, TrainConfig
from trimtab.training.prompts import read_prompts


def read(path, **settings):
    return read_prompts(PromptsConfig(source=str(path), **settings))


def test_jsonl_keeps_other_columns_for_the_reward(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "The film", "topic": "x"}\n\n{"prompt": "A film", "topic": "y"}\n')
    assert read(path) == [{"prompt": "The film", "topic": "x"}, {"prompt": "A film", "topic": "y"}]
    assert len(read(path, limit=1)) == 1


def test_a_built_in_source_gives_its_training_rows_with_their_columns(monkeypatch):
    rows = [{"prompt": "Say cat:", "keywords": ["cat"]}, {"prompt": "Say dog:", "keywords": ["dog"]}]
    monkeypatch.setattr(prompts, "PROMPT_SOURCES", {"keywords": {"train": rows}.__getitem__})
    assert read("keywords") == rows
    assert read("keywords", limit=1) == rows[:1]


def test_text_has_one_prompt_a_line(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("one\ntwo\n")
    assert [row["prompt"] for row in read(path)] == ["one", "two"]


def test_parquet_with_another_column(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "p.parquet"
    parquet.write_table(pyarrow.table({"question": ["why", "how"]}), path)
    assert [row["prompt"] for row in read(path, column="question")] == ["why", "how"]


def test_broken_json_names_its_line(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "x"}\n' * 16 + '{"prompt": \n')
    with pytest.raises(ConfigError, match="line 17"):
        read(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jsonl", "", "no rows"),
        ("column.jsonl", '{"text": "x"}\n', "column 'prompt'"),
        ("number.jsonl", '{"prompt": 3}\n', "a text"),
        ("blank.jsonl", '{"prompt": "  "}\n', "not empty"),
        ("list.jsonl", "[1]\n", "JSON object"),
        ("broken.parquet", "not parquet", "Parquet"),
    ],
)
def test_broken_files_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=message):
        read(tmp_path / name)


def test_lines_of_jsonl_end_at_line_feeds_alone(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_bytes('{"prompt": "one\u2028line\x85"}\r\n{"prompt": "two"}\n'.encode())
    assert [row["prompt"] for row in read(path)] == ["one\u2028line\x85", "two"]


def test_a_line_that_is_not_utf_8_is_named(tmp_path):
    path = tmp_path / "p.txt"
    path.write_bytes(b"one\ntw\xff\n")
    with pytest.raises(ConfigError, match="line 2") as error:
        read(path)
    assert "byte 3" in error.value.given and "UTF-8" in error.value.expected


def test_a_file_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "p.txt"
    path.write_text("one\n")

    def denied(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "read_bytes", denied)
    with pytest.raises(ConfigError, match="Permission denied"):
        read(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        read(tmp_path / "nowhere.jsonl")


def test_config_overrides_are_dotted(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(json.dumps({"steps": 3}))
    config = TrainConfig.read(path, ["adapter.rank=8", "kl.target=0.5", "steps=7"])
    assert (config.adapter.rank, config.kl.target, config.steps) == (8, 0.5, 7)


@pytest.mark.parametrize(
    "override", ["steps", "steps=0", "nonsense=1", "adapter.rank=x", "=3", "steps.deep=1", "learning_rate=-1"]
)
def test_bad_overrides_are_refused(tmp_path, override):
    path = tmp_path / "c.yaml"
    path.write_text("steps: 3\n")
    with pytest.raises(ConfigError, match="try:"):
        TrainConfig.read(path, [override])


@pytest.mark.parametrize("content", ["- a\n- b\n", "steps: [", "steps: {a: 1}"])
def test_bad_config_files_are_refused(tmp_path, content):
    path = tmp_path / "c.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError):
        TrainConfig.read(path)


def test_a_full_adapter_says_whose_weights_it_trains():
    with pytest.raises(ConfigError, match=r"adapter\.base"):
        TrainConfig.of({"adapter": {"kind": "full"}})
