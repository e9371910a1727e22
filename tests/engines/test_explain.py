"""What becomes of policies on engines: every kind of part, every kind of engine, from files and from loaded models."""

import json
from dataclasses import replace

import pytest
import torch

from trimtab.decoding.constraints import Constraints
from trimtab.engines import ALL, LOCAL, REMOTE_BIAS, REMOTE_TEXT, REMOTE_TOP_K, VLLM, Explanation, Part, explain
from trimtab.errors import ConfigError, ModelError
from trimtab.policies.knob import Exponent, Knob
from trimtab.policies.lm import LM
from trimtab.policies.policy_file import PolicyFile, read_policy_file
from trimtab.policies.search_settings import SearchSettings
from trimtab.policies.toy import Table
from trimtab.policies.vector import Combination, LowRank, Origin, Vector
from trimtab.testing import tiny_lm

EXACT, TOP_K, BIAS = "exact", "approximate on the top k", "approximate by bias"
CHUNKS, NEVER = "chunk search only", "impossible"
REMOTES = (REMOTE_TOP_K, REMOTE_BIAS, REMOTE_TEXT)


def guide_folder(folder, *, base="org/base", control=False):
    """Write of a guide folder what tells what it is; nothing of its weights."""
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "trimtab.json").write_text(json.dumps({"base": {"source": base}} if base else {}))
    if control:
        (folder / "control.safetensors").touch()
    return str(folder)


@pytest.fixture
def file(tmp_path):
    """Return a function that makes a policy file of an expression, with models and vectors of every kind."""
    for name in ("low", "dense"):
        (tmp_path / name).mkdir()
    (tmp_path / "dense" / "deltas.safetensors").touch()
    models = {
        "base": "org/base",
        "guide": "org/guide",
        "polite": {"source": "org/base", "system": "Be polite."},
        "politer": {"source": "org/guide", "system": "Be polite."},
        "adapted": guide_folder(tmp_path / "adapted"),
        "controlled": guide_folder(tmp_path / "controlled", control=True),
    }

    def make(policy, **more):
        vectors = {name: str(tmp_path / name) for name in ("low", "dense")}
        content = {"models": models, "vectors": vectors, "knobs": {"w": {}}, "policy": policy}
        return PolicyFile.model_validate(content | more)

    return make


# In the order of ALL: local, vllm, remote with the top 20, with a bias, with text alone. The endpoint serves the
# weights of the leftmost LM, which are org/base in most.
@pytest.mark.parametrize(
    ("policy", *"lvrbt"),
    [
        ("base", EXACT, EXACT, EXACT, EXACT, EXACT),
        ("polite", EXACT, EXACT, EXACT, EXACT, EXACT),  # the view of all LMs is a part of the prompt
        ("polite * politer", EXACT, EXACT, TOP_K, BIAS, CHUNKS),
        ("base * guide^w", EXACT, EXACT, TOP_K, BIAS, CHUNKS),
        ("guide / base", EXACT, EXACT, TOP_K, BIAS, CHUNKS),
        ("base^(1 - w)", EXACT, EXACT, TOP_K, CHUNKS, CHUNKS),  # the power of a distribution takes all of it
        (
            "base * polite",
            EXACT,
            NEVER,
            TOP_K,
            BIAS,
            CHUNKS,
        ),  # the endpoint is asked for one stream, the other runs here
        ("base * adapted", EXACT, EXACT, TOP_K, BIAS, CHUNKS),
        (
            "base * (adapted / base)",
            EXACT,
            EXACT,
            NEVER,
            NEVER,
            NEVER,
        ),  # is the adapter alone, so the plain base is no factor
        ("base * (adapted / base)^w", EXACT, EXACT, TOP_K, CHUNKS, CHUNKS),
        ("base * controlled", EXACT, NEVER, TOP_K, BIAS, CHUNKS),
        ("base + w * low", EXACT, EXACT, NEVER, NEVER, NEVER),
        ("base + w * dense", EXACT, NEVER, NEVER, NEVER, NEVER),
        ("(base + w * low) * guide", EXACT, EXACT, NEVER, NEVER, NEVER),
        ("base * (guide + w * low)", EXACT, NEVER, TOP_K, BIAS, CHUNKS),
        ("mix(0.5, base, 0.5, guide)", EXACT, NEVER, TOP_K, CHUNKS, CHUNKS),
        ("within(base, 0.9)", EXACT, NEVER, TOP_K, CHUNKS, CHUNKS),
        ("plausible(base, 0.1) * guide", EXACT, NEVER, TOP_K, CHUNKS, CHUNKS),
        ("top_k(base, 20) * guide^w", EXACT, NEVER, EXACT, CHUNKS, CHUNKS),
        ("top_k(base, 21) * guide", EXACT, NEVER, TOP_K, CHUNKS, CHUNKS),
        (
            "top_k(base * guide, 20, base)",
            EXACT,
            NEVER,
            EXACT,
            CHUNKS,
            CHUNKS,
        ),  # the base says which 20, and how likely
        (
            "top_k(base * guide, 20)",
            EXACT,
            NEVER,
            TOP_K,
            CHUNKS,
            CHUNKS,
        ),  # the guide may raise a token that is not among them
        ("top_k(base, 5) * within(guide, 0.9)", EXACT, NEVER, EXACT, CHUNKS, CHUNKS),
        ("top_k(base, 5) * guide / base^w", EXACT, NEVER, TOP_K, CHUNKS, CHUNKS),
    ],
)
def test_the_worst_part_decides(file, policy, l, v, r, b, t):  # noqa: E741
    assert [explain(file(policy), abilities).verdict for abilities in ALL] == [l, v, r, b, t]


@pytest.mark.parametrize(
    ("policy", "abilities", "what", "way_out"),
    [
        ("base * controlled", VLLM, "control token of controlled", "trimtab train absorb"),
        ("base * polite", VLLM, "prompt view of polite", "trimtab train absorb"),
        ("base + w * dense", VLLM, "vector dense on base", "trimtab vector apply"),
        ("base * (guide + w * low)", VLLM, "vector low on guide", "trimtab vector apply"),
        ("mix(0.5, base, 0.5, guide)", VLLM, "mixture mix(0.5, base, 0.5, guide)", "write a product"),
        ("top_k(base, 5) * guide", VLLM, "cut top_k(base, 5)", "write a product"),
        ("adapted", REMOTE_TOP_K, "base adapted", "keep the base as a factor"),
        ("base * guide", REMOTE_TOP_K, "product base * guide", "write top_k(base, 20), which is exact"),
        ("base * guide", REMOTE_BIAS, "product base * guide", "take an endpoint with log-probabilities"),
        ("base * guide", REMOTE_TEXT, "product base * guide", "let base be the policy"),
    ],
)
def test_what_does_not_run_is_refused_by_name_with_a_way_out(file, policy, abilities, what, way_out):
    explanation = explain(file(policy), abilities)
    assert explanation.worst.what == what
    with pytest.raises(ConfigError) as error:
        explanation.check()
    assert what in error.value.given and abilities.name in error.value.given and way_out in error.value.hint


def test_an_approximation_is_accepted_by_who_says_so(file):
    explanation = explain(file("base * guide"), REMOTE_TOP_K)
    explanation.check(TOP_K)
    with pytest.raises(ConfigError, match="chunk search only"):
        explain(file("base * guide"), REMOTE_TEXT).check(TOP_K)
    explain(file("base"), REMOTE_TEXT).check()


def test_of_equally_bad_parts_the_first_decides():
    verdicts = {"a": EXACT, "b": CHUNKS, "c": NEVER, "d": NEVER}
    parts = tuple(Part(what, verdict, "why", "do") for what, verdict in verdicts.items())
    assert Explanation("p", "e", parts).worst.what == "c"


def test_every_part_is_named_once_with_a_reason_and_what_is_not_exact_with_a_way_out(file):
    whole = "top_k(base, 20)^w * (polite + 0.5 * low - w * dense) * mix(1, adapted, w, controlled)"
    search = {"method": "chunk_beam", "value": "guide / base"}
    for abilities in ALL:
        parts = explain(file(whole, search=search), abilities, keywords=Constraints.of(["dog"])).parts
        assert [part.what for part in parts] == [
            "LM base",
            f"LM {file('polite + 0.5 * low - w * dense').sketch()}",
            "prompt view of polite",
            *sorted(["vector dense on polite", "vector low on polite"], key=[part.what for part in parts].index),
            "LM adapted",
            "adapter of adapted",
            "LM controlled",
            "adapter of controlled",
            "control token of controlled",
            f"product {file(whole).sketch()}",
            "cut top_k(base, 20)",
            "mixture mix(1, adapted, w, controlled)",
            "knob w",
            "search chunk_beam",
            "value guide / base",
            "keywords",
        ]
        assert all(part.reason and (part.verdict == EXACT) == (part.way_out == "") for part in parts)
        assert all(part.verdict == EXACT for part in parts) == (abilities == LOCAL)


@pytest.mark.parametrize(
    ("settings", "elsewhere", "text"),
    [
        ({"method": "chunk_beam"}, EXACT, EXACT),
        ({"method": "best_of_n"}, EXACT, EXACT),
        ({"method": "rejection", "threshold": 1.0}, EXACT, EXACT),
        ({"method": "smc", "chunk": "line"}, EXACT, EXACT),
        ({"method": "chunk_beam", "chunk": "entropy:1.5"}, NEVER, NEVER),
        ({"method": "best_of_n", "chunk": "entropy:1.5"}, EXACT, EXACT),  # samples whole answers, whatever chunk says
        ({"method": "deal"}, EXACT, NEVER),
        ({"method": "deal", "likelihood": 0.0}, EXACT, EXACT),
        ({"method": "args"}, CHUNKS, CHUNKS),
        ({"method": "fudge", "weight": 2.0}, CHUNKS, CHUNKS),
    ],
)
def test_searches(file, settings, elsewhere, text):
    searched = file("base", search=settings | {"value": "reward:length"})
    verdicts = [explain(searched, abilities).verdict for abilities in ALL]
    assert verdicts == [EXACT, elsewhere, elsewhere, text, text]


def test_a_search_beside_the_file_replaces_its_own(file):
    searched = file("base", search={"method": "args", "value": "reward:length"})
    other = SearchSettings(method="best_of_n", value="reward:length")
    assert explain(searched, VLLM, search=other).verdict == EXACT
    assert explain(searched.sketch(), VLLM).verdict == EXACT  # a policy has no search of its own


def test_ends_of_chunks_that_cannot_be_read_are_refused(file):
    with pytest.raises(ConfigError, match="paragraph"):
        explain(file("base", search={"method": "chunk_beam", "value": "reward:length", "chunk": "paragraph"}), VLLM)


@pytest.mark.parametrize("abilities", [VLLM, *REMOTES], ids=lambda each: each.name)
def test_keywords_run_in_the_pool_alone(file, abilities):
    keywords = Constraints.of(["dog"])
    assert explain(file("base"), LOCAL, keywords=keywords).verdict == EXACT
    assert explain(file("base"), abilities, keywords=keywords).worst.what == "keywords"


def test_tables_run_where_no_weights_are_read():
    base, guide = (Table.random(3, seed=seed, name=name) for seed, name in enumerate(["base", "guide"]))
    assert [explain(base * guide, abilities).verdict for abilities in ALL] == [EXACT, NEVER, TOP_K, EXACT, CHUNKS]
    assert explain(base * guide, VLLM).worst.what == "LM base"


def test_a_loaded_policy_has_the_verdicts_of_its_file(tiny_lm_folder, smaller_lm_folder, tmp_path):
    (tmp_path / "policy.yaml").write_text(
        f"models:\n  base: {tiny_lm_folder}\n  guide: {smaller_lm_folder}\n"
        f"  seen: {{source: {smaller_lm_folder}, prompt: w1 w2}}\n"
        "knobs: {w: {}}\npolicy: top_k(base, 20) * guide^w / seen^0.5\n"
    )
    file = read_policy_file(tmp_path / "policy.yaml")
    loaded = file.build(LM.load)
    for abilities in ALL:
        assert [p.verdict for p in explain(loaded, abilities).parts] == [
            p.verdict for p in explain(file, abilities).parts
        ]


def test_what_a_loaded_lm_has_beside_its_weights():
    base = tiny_lm(name="base")
    factors = LowRank(torch.ones(1, 32), torch.ones(32, 1))
    vector = Vector({"lin": factors}, {}, Origin(base.trunk.identity, "base"), "care")
    steered = replace(base, vectors=Combination.of([(vector, Exponent.of(Knob("w")))]))
    guide = replace(tiny_lm(seed=1, name="guide"), adapter="a1").with_control(0)
    parts = {part.what: part.verdict for part in explain(steered * guide, VLLM).parts}
    assert parts["vector care on base"] == parts["adapter of guide"] == parts["knob w"] == EXACT
    assert parts["control token of guide"] == NEVER


def test_an_adapter_that_does_not_say_its_base_is_refused(tmp_path):
    folder = guide_folder(tmp_path / "guide", base="")
    (tmp_path / "guide" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    file = PolicyFile.model_validate({"models": {"guide": folder}, "policy": "guide"})
    with pytest.raises(ModelError, match="does not say what its base is"):
        explain(file, LOCAL)
