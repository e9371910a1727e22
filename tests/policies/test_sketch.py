"""Sketches: what is known of models before they are read, and that they stand for them in policies."""

import json

import pytest

from trimtab.errors import UsageError
from trimtab.policies.policy_file import PolicyFile
from trimtab.policies.sketch import Sketch, sketch_vector


@pytest.fixture
def guide(tmp_path):
    """Return a guide folder without its weights."""
    folder = tmp_path / "guide"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "trimtab.json").write_text(json.dumps({"base": {"source": "org/base"}}))
    return folder


def test_a_guide_is_its_base_with_an_adapter(guide):
    sketch = Sketch.read(str(guide))
    assert (sketch.source, sketch.adapter, sketch.control, sketch.name) == ("org/base", str(guide), False, "guide")
    assert sketch.reference == Sketch.read("org/base") != sketch
    (guide / "control.safetensors").touch()
    assert Sketch.read(str(guide)).control


def test_sketches_are_equal_where_the_models_will_be(guide):
    assert Sketch.read("org/base", label="a") == Sketch.read("org/base", label="b") != Sketch.read("org/other")
    assert Sketch.read(str(guide)) == Sketch.read(f"{guide}/../guide")
    assert Sketch.read("org/base", system="x") != Sketch.read("org/base", prompt="x")


def test_sources_that_make_no_path_are_names():
    assert Sketch.read("x" * 5000).source == "x" * 5000


def test_a_policy_of_sketches_flattens_like_one_of_models(guide):
    models = {"base": "org/base", "again": "org/base", "guide": str(guide), "spare": str(guide / "nothing")}
    vectors = {"care": "some/folder"}
    file = {"models": models, "vectors": vectors, "knobs": {"w": {}}, "policy": "base * guide^w / again"}
    assert str(PolicyFile.model_validate(file).sketch()) == "base^0 * guide^w"
    summed = PolicyFile.model_validate(file | {"policy": "(base - w * care) * top_k(guide, 20)"}).sketch()
    assert str(summed) == "(base - w * care) * top_k(guide, 20)" and [knob.name for knob in summed.knobs] == ["w"]


def test_vectors_are_told_apart_by_their_folders(tmp_path):
    assert sketch_vector(str(tmp_path), "a") == sketch_vector(str(tmp_path), "b") != sketch_vector("elsewhere", "a")
    assert not sketch_vector(str(tmp_path), "a").dense
    (tmp_path / "deltas.safetensors").touch()
    assert sketch_vector(str(tmp_path), "a").dense


def test_a_sketch_cannot_be_run():
    with pytest.raises(UsageError, match="weights were not read"):
        _ = Sketch.read("org/base").host
