"""Policy files: reading, building with any loader, writing, and what is refused."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from trimtab.errors import ConfigError, ExpressionError, UsageError
from trimtab.policies.knob import Knob
from trimtab.policies.model_source import EndpointSource
from trimtab.policies.policy_file import Decoding, PolicyFile, read_policy_file, write_policy_file
from trimtab.policies.search_settings import SearchSettings
from trimtab.policies.toy import Table
from trimtab.policies.vector import Origin, Vector

TEXT = """\
models:
  base: hub/base
  guide: {source: guides/positive}
  polite:
    source: hub/base
    system: Be polite.
knobs:
  strength: {default: 1, min: 0.0, max: 3.0}
policy: base * guide^strength * polite^0.5
decoding: {temperature: 0.7, top_p: 0.95, max_new_tokens: 32, stop: ["\\n"]}
search: {method: chunk_beam, value: guide / base, branches: 8}
"""


@dataclass(frozen=True)
class Viewed(Table):
    """A table that takes prompt views as an LM does, and shows them in its name."""

    def with_system(self, text):
        return replace(self, label=f"{self.label}|system {text}")

    def with_prompt(self, text):
        return replace(self, label=f"{self.label}|prompt {text}")


def load(source):
    table = Table.random(3, seed=len(source))
    return Viewed(table.tokens, table.rows, source)


@pytest.fixture
def file(tmp_path):
    """Write a policy file and return a function that reads it."""

    def write(text=TEXT):
        path = tmp_path / "policy.yaml"
        path.write_text(text, encoding="utf-8")
        return read_policy_file(path)

    return write


def test_reading_and_building(file):
    content = file()
    assert content.decoding == Decoding(temperature=0.7, top_p=0.95, max_new_tokens=32, stop=("\n",))
    assert content.search == SearchSettings(method="chunk_beam", value="guide / base", branches=8)
    policy = content.build(load)
    assert str(policy) == "hub/base * guides/positive^strength * hub/base|system Be polite.^0.5"
    assert policy.knobs == (Knob("strength", 1.0, min=0.0, max=3.0),)
    assert policy.reference == load("hub/base")


def test_each_source_that_is_needed_is_loaded_once(file):
    loaded = []

    def counted(source):
        loaded.append(source)
        return load(source)

    file(TEXT.replace("  polite:", "  spare: never/loaded\n  polite:")).build(counted)
    assert loaded == ["hub/base", "guides/positive"]


def test_a_prompt_view(file):
    content = file("models: {base: b, plain: {source: b, prompt: 'Say no.'}}\npolicy: base / plain^0.5\n")
    assert str(content.build(load)) == "b / b|prompt Say no.^0.5"


def test_sources_beside_the_file_become_absolute(file, tmp_path):
    (tmp_path / "guides" / "positive").mkdir(parents=True)
    models = file().models
    assert models["guide"].source == str(tmp_path / "guides" / "positive")
    assert models["base"].source == "hub/base"


def test_sources_that_make_no_path_are_left_alone(file):
    source = "x" * 5000
    assert file(f"models: {{base: {source}}}\npolicy: base\n").models["base"].source == source


def test_what_is_written_reads_back_the_same(file, tmp_path):
    content = file()
    write_policy_file(tmp_path / "again.yaml", content)
    assert read_policy_file(tmp_path / "again.yaml") == content
    text = (tmp_path / "again.yaml").read_text()
    assert "base: hub/base" in text  # sources alone stay short
    assert "top_k" not in text  # defaults are left out


def test_a_small_file_writes_small(tmp_path):
    file = PolicyFile.model_validate({"models": {"a": "x"}, "knobs": {"w": {}}, "policy": "a^w"})
    write_policy_file(tmp_path / "small.yaml", file)
    assert (tmp_path / "small.yaml").read_text() == "models:\n  a: x\nknobs:\n  w:\n    default: 1.0\npolicy: a^w\n"
    assert read_policy_file(tmp_path / "small.yaml") == file


def test_the_decoding_settings_are_those_of_generate():
    policy = Table.random(3, seed=0)
    settings = Decoding(max_new_tokens=2).model_dump()
    assert len(policy.generate("t0", seed=0, **settings)[0].token_ids) == 2
    assert policy.generate("t0", seed=0, max_new_tokens=2) == policy.generate("t0", seed=0, **settings)


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("policy: base", "policyy: base", 9, "policyy"),
        ("policy: base", "policy: base\npolicy: base", 10, "'policy' a second time"),
        ("  base: hub/base", "  base: a\n  base: b", 3, "'base' a second time"),
        ("  base: hub/base", "  base: 3", 2, "models.base"),
        ("  base: hub/base", "  base: ''", 2, "at least 1 character"),
        ("  base: hub/base", "  my-base: hub/base", 2, "letters, digits and _"),
        ("  base: hub/base", "  on: hub/base", 1, "unless they are quoted"),
        ("{source: guides/positive}", "{sourc: guides/positive}", 3, "source, system, prompt"),
        ("{source: guides/positive}", "{}", 3, "models.guide.source"),
        ("    system: Be polite.", "    system: Be polite.\n    prompt: Say", 4, "either system or prompt"),
        ("{default: 1, ", "{default: 4, ", 8, "a default from min to max"),
        ("{default: 1, ", "{default: .nan, ", 8, "finite"),
        ("{default: 1, ", "{default: true, ", 8, "knobs.strength.default"),
        ("{default: 1, ", "{defalt: 1, ", 8, "default, min, max"),
        ("temperature: 0.7", "temperature: -1", 10, "greater than or equal to 0"),
        ("temperature: 0.7", "temperature: hot", 10, "a valid number"),
        ("top_p: 0.95", "top_p: 0", 10, "greater than 0"),
        ("top_p: 0.95", "top_p: .inf", 10, "decoding.top_p"),
        ("top_p: 0.95", "topp: 0.95", 10, "temperature, top_k, top_p"),
        ("max_new_tokens: 32", "max_new_tokens: 0", 10, "greater than or equal to 1"),
        ("max_new_tokens: 32", "max_new_tokens: 3, min_new_tokens: 4", 10, "min_new_tokens of at most"),
        ('["\\n"]', "[3]", 10, "decoding.stop.0"),
        ('["\\n"]', '[""]', 10, "at least 1 character"),
        ("decoding: {", "decoding: }{", 10, "YAML"),
        ("method: chunk_beam", "method: beam", 11, "chunk_beam"),
        ("method: chunk_beam, ", "", 11, "search.method"),
        ("value: guide / base, ", "", 11, "search.value"),
        ("value: guide / base", "value: ''", 11, "at least 1 character"),
        ("branches: 8", "branches: 0", 11, "greater than or equal to 1"),
        ("branches: 8", "branches: 2.5", 11, "search.branches"),
        ("branches: 8", "branches: true", 11, "search.branches"),
        ("branches: 8", "branch: 8", 11, "method, value, beams, branches, chunk, threshold, likelihood, weight"),
        ("branches: 8", "chunk: 0", 11, "greater than or equal to 1"),
        ("branches: 8", "chunk: '0'", 11, "greater than or equal to 1"),
        ("branches: 8", "chunk: 2.5", 11, "search.chunk"),
        ("branches: 8", "weight: 2", 11, "one of args, fudge, rad, cd, vas as the method"),
        ("branches: 8", "likelihood: -1", 11, "greater than or equal to 0"),
        ("method: chunk_beam", "threshold: .inf, method: rejection", 11, "finite"),
        ("method: chunk_beam", "method: rejection", 11, "a score above which everything is accepted"),
        ("search: {", "search: 4 #{", 11, "search"),
    ],
)
def test_mistakes_are_named_with_their_line(file, old, new, line, message):
    with pytest.raises(ConfigError, match=message) as error:
        file(TEXT.replace(old, new, 1))
    assert f"policy.yaml, line {line}:" in error.value.given


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("base * gide", "did you mean 'guide'"),
        ("base *", "end of the expression"),
        ("base^wild", "unknown knob 'wild'"),
    ],
)
def test_a_wrong_expression_is_found_before_any_model_is_loaded(file, policy, message):
    with pytest.raises(ExpressionError, match=message) as error:
        file(TEXT.replace("base * guide^strength * polite^0.5", policy))
    assert "policy.yaml, line 9:" in error.value.given


def test_a_pair_of_a_search_has_to_be_models(file):
    with pytest.raises(ConfigError, match="unknown model 'gide'") as error:
        file(TEXT.replace("guide / base", "gide / base"))
    assert "policy.yaml, line 11:" in error.value.given and error.value.hint == "add gide to models"


@pytest.mark.parametrize("chunk", ["3", "line", "sentence", "entropy:1.5"])
def test_searches_take_ends_of_chunks_and_their_methods_numbers(file, tmp_path, chunk):
    block = f"{{method: rejection, threshold: 2, value: guide / base, chunk: {chunk}}}"
    content = file(TEXT.replace("{method: chunk_beam, value: guide / base, branches: 8}", block))
    assert (content.search.threshold, content.search.chunk) == (2.0, 3 if chunk == "3" else chunk)
    write_policy_file(tmp_path / "again.yaml", content)
    assert read_policy_file(tmp_path / "again.yaml") == content
    weighed = file(TEXT.replace("chunk_beam", "args").replace("branches: 8", "weight: -2.5")).search
    assert (weighed.weight, weighed.threshold, weighed.likelihood) == (-2.5, None, 1.0)


def test_the_folder_of_a_value_beside_the_file_becomes_absolute(file, tmp_path):
    (tmp_path / "runs" / "value").mkdir(parents=True)
    (tmp_path / "guide").mkdir()

    def value(text):
        return file(TEXT.replace("guide / base", text)).search.value

    assert value("runs/value") == str(tmp_path / "runs" / "value")
    assert value("hub/value") == "hub/value" and value("reward:sentiment") == "reward:sentiment"
    assert value("guide") == "guide"  # a model of that name comes before a folder


def test_a_model_comes_with_its_view(file):
    content = file()
    assert content.lm("polite", load).name == "hub/base|system Be polite."
    assert content.lm("base", load) == content.build(load).reference
    assert content.lm("runs/value", load).name == "runs/value"


def test_a_cut_out_of_range_keeps_its_class(file):
    with pytest.raises(ConfigError, match=r"line 9: top_p=2"):
        file(TEXT.replace("base * guide", "within(base, 2) * guide"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "just text",
        "[1, 2]",
        "models: [",
        "models: " + "[" * 5000,
        "models: !!python/object/apply:os.system [ls]\n",
        "models: &m {base: *m}\npolicy: base\n",
        "? [a]\n: b\n",
        "when: 2024-99-99\n",
        "a: \x01\n",
        "models: {}\npolicy: base\n",
        "policy: base\n",
        "models: {base: b}\n",
        "x" * 200_000,
    ],
)
def test_what_is_no_policy_file(file, text):
    with pytest.raises(ConfigError, match=r"policy\.yaml"):
        file(text)


def test_the_example_that_searches_can_be_read():
    search = read_policy_file(Path(__file__).parents[2] / "examples" / "search.yaml").search
    assert (search.method, search.value, search.chunk) == ("chunk_beam", "reward:sentiment", 5)


def test_files_that_cannot_be_read_or_written(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_policy_file(tmp_path / "missing.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_policy_file(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_policy_file(tmp_path / "binary.yaml")
    with pytest.raises(ConfigError, match="cannot be written"):
        write_policy_file(
            tmp_path / "no" / "folder.yaml", PolicyFile.model_validate({"models": {"a": "x"}, "policy": "a"})
        )


SERVED = "{endpoint: 'http://localhost:8000/v1', model: org/big, tokenizer: org/big, key: BIG_KEY, k: 20}"


def test_a_model_may_be_behind_an_endpoint(file, tmp_path):
    content = file(TEXT.replace("base: hub/base", f"base: {SERVED}"))
    source = content.models["base"]
    assert source == EndpointSource(
        endpoint="http://localhost:8000/v1", model="org/big", tokenizer="org/big", key="BIG_KEY", k=20
    )
    asked = []

    def connect(source):
        asked.append(source)
        return Table.random(3, seed=0, name=source.model)

    policy = content.build(load, connect)
    assert str(policy) == "org/big * guides/positive^strength * hub/base|system Be polite.^0.5"
    assert asked == [source] and content.lm("base", load, connect).name == "org/big"
    with pytest.raises(ConfigError, match="the model 'base', which is behind the endpoint") as error:
        content.build(load)
    assert "tt.engines.remote.connect" in error.value.hint
    write_policy_file(tmp_path / "again.yaml", content)
    assert read_policy_file(tmp_path / "again.yaml") == content


def test_the_tokenizer_of_an_endpoint_beside_the_file_becomes_absolute(file, tmp_path):
    (tmp_path / "big").mkdir()
    content = file(TEXT.replace("base: hub/base", f"base: {SERVED.replace('tokenizer: org/big', 'tokenizer: big')}"))
    assert content.models["base"].tokenizer == str(tmp_path / "big")


def test_an_endpoint_is_sketched_without_asking(file):
    sketch = file(TEXT.replace("base: hub/base", f"base: {SERVED}")).sketch()
    (base, *_) = sketch.leaves({"strength": torch.ones(1)})
    assert base.partial and base.reference == base and str(sketch).startswith("base * guide^strength")
    with pytest.raises(UsageError, match="likeliest tokens only, as a divisor"):
        file(
            TEXT.replace("base: hub/base", f"base: {SERVED}").replace("policy: base *", "policy: guide / base *")
        ).sketch()
    with pytest.raises(UsageError, match="which has no weights"):
        base + Vector({}, {}, Origin("x", "x"), "care")


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (SERVED.replace("k: 20", "k: 0"), "greater than or equal to 1"),
        (SERVED.replace("k: 20", "top: 20"), "one of the fields endpoint, model, tokenizer, key, k"),
        (SERVED.replace("k: 20", "system: Be polite."), "one of the fields endpoint, model, tokenizer, key, k"),
        (SERVED.replace("model: org/big, ", ""), "Field required"),
        (SERVED.replace("BIG_KEY", "sk-1234"), "pattern"),
        (SERVED.replace("http://", "ftp://"), "pattern"),
        (SERVED.replace("http://", "http://me:secret@"), "pattern"),
        ("{source: hub/base, k: 20}", "one of the fields source, system, prompt"),
    ],
)
def test_what_is_wrong_with_an_endpoint_is_said_at_its_line(file, wrong, expected):
    with pytest.raises(ConfigError) as error:
        file(TEXT.replace("base: hub/base", f"base: {wrong}"))
    assert "policy.yaml, line 2: models.base" in error.value.given and expected in error.value.expected
    assert "sk-1234" not in str(error.value) and "secret" not in str(error.value)
