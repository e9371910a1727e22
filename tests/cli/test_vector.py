"""Vectors from the command line: what is written, what is said, and what is refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from trimtab.policies.lm import LM
from trimtab.policies.vector import Vector
from trimtab.vectors.combine import dare, realise, slerp, ties
from trimtab.vectors.mask import only

UP = "model.layers.1.mlp.up_proj.weight"


def aligned_folder(base, folder, *, seed):
    """A copy of a model with everything changed a little."""
    shutil.copytree(base, folder)
    stored = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(seed)
    for tensor in stored.values():
        tensor += 0.1 * torch.randn(tensor.shape, generator=generator)
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def folders(tiny_lm_folder, tmp_path_factory):
    """Two vectors of the tiny model, medical and legal."""
    home = tmp_path_factory.mktemp("vectors")
    for seed, name in ((1, "medical"), (2, "legal")):
        aligned = aligned_folder(tiny_lm_folder, home / f"{name}-model", seed=seed)
        Vector.between(aligned, tiny_lm_folder, domain=name).save(home / name)
    return home


@pytest.fixture
def medical(folders):
    return Vector.load(folders / "medical")


@pytest.fixture
def legal(folders):
    return Vector.load(folders / "legal")


def test_extract(trimtab, folders, tiny_lm_folder, medical, tmp_path):
    arguments = ("vector", "extract", folders / "medical-model", tiny_lm_folder, "--out", tmp_path / "v")
    ran = trimtab(*arguments, "--domain", "medical", "--level", "expert", "--json")
    assert ran.code == 0 and ran.err == ""
    assert ran.json["folder"] == str(tmp_path / "v") and (ran.json["domain"], ran.json["level"]) == (
        "medical",
        "expert",
    )
    assert (ran.json["low_rank"], ran.json["dense"]) == (0, 21)
    assert Vector.load(tmp_path / "v") == medical
    ran = trimtab(*arguments)
    assert ran.out.strip() == str(tmp_path / "v") and "comparing" in ran.err
    assert trimtab(*arguments, "--quiet").err == ""


def test_inspect(trimtab, folders, medical, tmp_path):
    picture = tmp_path / "pictures" / "norms.svg"
    ran = trimtab("vector", "inspect", folders / "medical", "--json", "--picture", picture)
    norm = next(each for each in ran.json["tensors"] if each["name"] == UP)
    assert norm["norm"] == pytest.approx(float(medical.dense[UP].norm())) and norm["kind"] == "up_proj"
    total = sum(float(medical.dense[name].square().sum()) for name in medical.dense) ** 0.5
    assert ran.json["norm"] == pytest.approx(total) and ran.json["picture"] == str(picture)
    drawn = picture.read_text()
    assert "<svg" in drawn and "up_proj" in drawn and "lm_head" in drawn and "medical" in drawn
    shown = trimtab("vector", "inspect", folders / "medical", "--picture", tmp_path / "norms.png")
    assert f"{float(medical.dense[UP].norm()):.3g}" in shown.out and "domain: medical" in shown.out
    assert (tmp_path / "norms.png").read_bytes().startswith(b"\x89PNG")


def test_combine(trimtab, folders, medical, legal, tmp_path):
    part = {"layers": [1], "modules": ["up_proj"]}
    for extra, expected in (
        (("--method", "sum"), realise(0.7 * medical - 0.3 * legal)),
        ((), realise(0.7 * medical - 0.3 * legal)),
        (("--method", "ties", "--density", 0.5), ties(0.7 * medical - 0.3 * legal, density=0.5)),
        (("--method", "dare", "--seed", 3), dare(0.7 * medical - 0.3 * legal, seed=3)),
        (
            ("--layers", "1", "--module", "up_proj"),
            realise(0.7 * only(medical, **part) - 0.3 * only(legal, **part)),
        ),
    ):
        arguments = (f"{folders / 'medical'}=0.7", f"{folders / 'legal'}=-0.3", *extra, "--out", tmp_path / "mix")
        ran = trimtab("vector", "combine", *arguments, "--json")
        assert ran.code == 0, ran.err
        assert Vector.load(tmp_path / "mix") == expected
        assert set(ran.json["domain"].split(" + ")) == {"medical", "legal"}


def test_combine_by_slerp(trimtab, folders, medical, legal, tmp_path):
    both = (folders / "medical", folders / "legal")
    ran = trimtab("vector", "combine", *both, "--method", "slerp", "--at", 0.25, "--out", tmp_path / "mix")
    assert ran.code == 0 and Vector.load(tmp_path / "mix") == realise(slerp(medical, legal, 0.25))


def test_compress(trimtab, folders, tmp_path):
    ran = trimtab("vector", "compress", folders / "medical", "--energy", 0.9, "--out", tmp_path / "small", "--json")
    assert ran.json["low_rank"] == 14 and ran.json["dense"] == 7 and 0.9 <= ran.json["kept_energy"] < 1
    about = json.loads((tmp_path / "small" / "trimtab.json").read_text())
    assert about["kept_energy"] == ran.json["kept_energy"] and len(about["modules"]) == 14
    assert about["log_prob_error"] == ran.json["log_prob_error"] > 1e-3
    base = LM.load(Vector.load(folders / "medical").origin.source)
    before, after = (
        (base + Vector.load(each)).next_log_probs(["My favourite colour is"])
        for each in (
            folders / "medical",
            tmp_path / "small",
        )
    )
    assert float((before - after).abs().max()) <= ran.json["log_prob_error"]
    exact = ("vector", "compress", folders / "medical", "--energy", 1, "--out", tmp_path / "exact", "--json")
    assert trimtab(*exact).json["log_prob_error"] < 1e-3
    assert trimtab(*exact, "--no-measure").json["log_prob_error"] is None
    capped = ("vector", "compress", folders / "medical", "--max-rank", 2, "--out", tmp_path / "small", "--json")
    ran = trimtab(*capped)
    assert ran.json["ranks"] == {"smallest": 2, "median": 2, "largest": 2} and ran.json["kept_energy"] < 0.9
    assert "14 of 14 modules" in trimtab(*capped[:-1]).err


def test_siblings(trimtab, folders, smaller_lm_folder, tiny_lm_folder, tmp_path):
    sibling = aligned_folder(tiny_lm_folder, tmp_path / "sibling", seed=9)
    trimtab("vector", "extract", folders / "medical-model", sibling, "--out", tmp_path / "theirs")
    both = ("vector", "combine", folders / "medical", tmp_path / "theirs", "--out", tmp_path / "mix")
    ran = trimtab(*both)
    assert ran.code == 1 and "one base" in ran.err and "--allow-sibling" in ran.err
    ran = trimtab(*both, "--allow-sibling")
    assert ran.code == 0 and f"warning: a vector of {sibling}" in ran.err and str(tiny_lm_folder) in ran.err
    other = aligned_folder(smaller_lm_folder, tmp_path / "smaller", seed=3)
    trimtab("vector", "extract", other, smaller_lm_folder, "--out", tmp_path / "theirs")
    ran = trimtab(*both, "--allow-sibling")
    assert ran.code == 1 and "same architecture" in ran.err


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["extract", "{medical}-model", "{medical}-model", "--out", "{out}"], 1, "all zero"),
        (["extract", "nowhere", "{medical}-model", "--out", "{out}"], 1, "nowhere"),
        (["extract", "{medical}-model", "--out", "{out}"], 2, "base"),
        (["extract", "{medical}-model", "{base}", "--out", "{medical}-model"], 2, "no vector"),
        (["inspect", "nowhere"], 1, "nowhere"),
        (["inspect", "{medical}", "--picture", "norms.gif"], 2, "norms.gif"),
        (["combine", "{medical}=much", "--out", "{out}"], 2, "FOLDER=WEIGHT"),
        (["combine", "{medical}=nan", "--out", "{out}"], 2, "FOLDER=WEIGHT"),
        (["combine", "=1", "--out", "{out}"], 2, "FOLDER=WEIGHT"),
        (["combine", "{medical}=0", "--out", "{out}"], 1, "nothing is left"),
        (["combine", "{medical}", "--layers", "a", "--out", "{out}"], 2, "0-11,20"),
        (["combine", "{medical}", "--layers", "7", "--out", "{out}"], 2, "layer 7"),
        (["combine", "{medical}", "--method", "ties", "--density", "2", "--out", "{out}"], 2, "density"),
        (["combine", "{medical}", "--density", "0.5", "--out", "{out}"], 2, "ties or dare"),
        (["combine", "{medical}", "--method", "slerp", "--out", "{out}"], 2, "two vectors"),
        (["combine", "{medical}", "--method", "magic", "--out", "{out}"], 2, "magic"),
        (["compress", "{medical}", "--energy", "0", "--out", "{out}"], 2, "energy"),
        (["compress", "{medical}", "--base", "nowhere", "--out", "{out}"], 1, "nowhere"),
    ],
)
def test_what_is_refused(trimtab, folders, tiny_lm_folder, tmp_path, arguments, code, told):
    names = {"medical": folders / "medical", "base": tiny_lm_folder, "out": tmp_path / "out"}
    ran = trimtab("vector", *(each.format(**names) for each in arguments))
    assert ran.code == code and told in ran.err and "Traceback" not in ran.err
    assert not (tmp_path / "out").exists()
