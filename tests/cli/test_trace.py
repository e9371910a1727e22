"""Search trees in the terminal and as pages, and files that are none."""

import json
import os

import pytest

SEARCH = ("--search", "chunk_beam", "--value", "guide / base", "--beams", 2, "--branches", 3, "--chunk", 2)
LENGTHS = ("--max-new-tokens", 8, "--min-new-tokens", 8, "--seed", 0)


@pytest.fixture
def searched(trimtab, tiny_lm_folder, smaller_lm_folder):
    """Return what generate prints for two prompts: 4 boundaries of 2 x 3 chunks each, whose answers end together."""
    models = "--model", f"base={tiny_lm_folder}", "--model", f"guide={smaller_lm_folder}"
    return trimtab("generate", "base", *models, "w1 w2", "w3", *SEARCH, *LENGTHS, "--json").out


@pytest.fixture
def file(searched, tmp_path):
    path = tmp_path / "found.json"
    path.write_text(searched)
    return path


def test_every_chunk_has_its_line(trimtab, file, searched):
    ran = trimtab("trace", file, "--all")
    assert ran.code == 0 and ran.out.count("\n") == 2 * (1 + 24)
    for found in json.loads(searched)["found"]:
        assert all(f"{node['score']:+.3f} {node['text']!r}" in ran.out for node in found["trace"])
    assert (
        trimtab("trace", "--all", stdin=searched).out == trimtab("trace", "-", "--all", stdin=searched).out == ran.out
    )


def test_tokens_chosen_among_candidates_are_one_line(trimtab, tiny_lm_folder):
    search = ("--search", "args", "--value", "reward:repetition", "--branches", 3)
    printed = trimtab("generate", "base", "--model", f"base={tiny_lm_folder}", "w1", *search, *LENGTHS, "--json").out
    ran = trimtab("trace", stdin=printed)
    assert ran.out.count("\n") == 2 and "(+14 more" in ran.out  # 2 beside each later token
    numbers = trimtab("trace", "--json", stdin=printed).json["searches"][0]
    assert (numbers["boundaries"], numbers["chunks"], numbers["dropped"]) == (8, 24, 16)


def test_what_led_nowhere_is_counted(trimtab, file, searched):
    shown, whole = trimtab("trace", file).out, json.loads(searched)
    assert shown.count("\n") < trimtab("trace", file, "--all").out.count("\n")
    lines = shown.splitlines()
    for found in whole["found"]:
        nodes = found["trace"]
        alive = {node["number"] for node in nodes if node["finish"] and node["kept"]}
        assert len(alive) == 2  # W answers are kept at the last boundary
        for node in reversed(nodes):
            if node["number"] in alive and node["parent"] is not None:
                alive.add(node["parent"])
        start = lines.index(next(line for line in lines if line.startswith(repr(found["hypotheses"][0]["prompt"]))))
        stop = next((i for i in range(start + 1, len(lines)) if lines[i].startswith("'")), len(lines))
        told = "\n".join(lines[start:stop])
        counted = sum(int(part.split(" more")[0]) for part in told.split("(+")[1:])
        assert counted == len(nodes) - len(alive)
        assert f"= {found['hypotheses'][0]['score']:+.3f}" in told


def test_the_page_is_written_and_the_numbers_are_told(trimtab, file, searched, tmp_path):
    page = tmp_path / "pages" / "tree.html"
    ran = trimtab("trace", file, "--html", page, "--json")
    first = json.loads(searched)["found"][0]
    assert ran.json["html"] == str(page) and ran.err == ""
    assert ran.json["searches"][0] == {
        "prompt": "w1 w2",
        "best": first["hypotheses"][0]["text"],
        "score": first["hypotheses"][0]["score"],
        "hypotheses": 6,
        "boundaries": 4,
        "chunks": 24,
        "dropped": 16,
        "tokens": 48,
    }
    text = page.read_text()
    assert text.count('class="box') == 48 and "<script" not in text
    assert trimtab("trace", file, "--html", page).out.strip() == str(page)


def test_texts_cannot_command_the_terminal(trimtab, searched):
    content = json.loads(searched)
    node = content["found"][0]["trace"][-1]
    node["text"] = "\x1b[2J[bold]"
    ran = trimtab("trace", "--all", stdin=json.dumps(content))
    assert "\x1b" not in ran.out and "'\\x1b[2J[bold]'" in ran.out


def test_long_lines_are_whole_where_a_program_reads_them(trimtab, searched):
    content = json.loads(searched)
    content["found"][0]["trace"][-1]["text"] = text = "long " * 200
    assert repr(text) in trimtab("trace", "--all", stdin=json.dumps(content)).out


def changed(field, value):
    def change(content):
        content["found"][1]["trace"][7][field] = value

    return change


def end_before(content):
    nodes = content["found"][1]["trace"]
    nodes[nodes[7]["parent"]]["finish"] = "end"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (changed("parent", 7), "search 1: chunk 7 of the trace: parent 7"),
        (changed("parent", -1), "chunk 7 of the trace: parent -1"),
        (changed("number", 9), "chunk 7 of the trace: number 9"),
        (changed("depth", 4), "chunk 7 of the trace: depth 4"),
        (changed("score", "high"), "chunk 7 of the trace: score 'high'"),
        (changed("finish", "bored"), "chunk 7 of the trace: finish 'bored'"),
        (changed("tokens", -2), "chunk 7 of the trace: -2 tokens"),
        (changed("text", 3), "chunk 7 of the trace: text 3"),
        (end_before, "where an answer ends"),
        (lambda content: content["found"][1]["trace"].pop(0), "chunk 0 of the trace: number 1"),
        (lambda content: content["found"][1]["trace"][0].pop("kept"), "chunk 0 of the trace: kept"),
        (lambda content: content["found"][1].update(trace=[]), "no answer that ends a chunk"),
        (lambda content: content["found"][1].update(trace=None), "trace: None"),
        (lambda content: content["found"][1].update(trace=["a"]), "chunk 0 of the trace"),
        (lambda content: content["found"][1].update(hypotheses=[]), "no answer"),
        (lambda content: content["found"][1]["hypotheses"][0].pop("score"), "hypothesis 0: score None"),
        (lambda content: content["found"][1]["hypotheses"][0].pop("prompt"), "hypothesis 0: prompt"),
        (lambda content: content["found"][1].update(kl=["much"]), "search 1: kl: 0 'much'"),
        (lambda content: content["found"][1].pop("kl"), "search 1: no search"),
        (lambda content: content["found"].append(3), "search 2: no search"),
        (lambda content: content.update(found=[]), "holds no search"),
        (lambda content: content.pop("found"), "holds no search"),
    ],
)
def test_a_damaged_file_is_told_by_its_place(trimtab, searched, change, told):
    content = json.loads(searched)
    change(content)
    ran = trimtab("trace", stdin=json.dumps(content))
    assert ran.code == 2 and told in ran.err and "Traceback" not in ran.err and ran.out == ""


@pytest.mark.parametrize("text", ["", "[", "[]", "3", '{"answers": []}', "[" * 100_000])
def test_what_is_no_search_at_all(trimtab, text):
    ran = trimtab("trace", stdin=text)
    assert ran.code == 2 and "standard input" in ran.err and "--search METHOD --json" in ran.err


def test_files_that_cannot_be_read_or_written(trimtab, file, tmp_path):
    assert "cannot be read" in trimtab("trace", tmp_path / "missing.json").err
    assert trimtab("trace", tmp_path).code == 2
    (tmp_path / "binary.json").write_bytes(os.urandom(64) + b"\xff")
    assert trimtab("trace", tmp_path / "binary.json").code == 2
    ran = trimtab("trace", file, "--html", tmp_path)
    assert ran.code == 1 and "a file that can be written" in ran.err


def test_scores_that_are_missing_survive(trimtab, searched):
    content = json.loads(searched)
    lost = next(node for node in content["found"][0]["trace"] if not node["kept"])
    lost["score"] = None
    ran = trimtab("trace", "--all", stdin=json.dumps(content))
    assert ran.code == 0 and f"x +nan {lost['text']!r}" in ran.out
