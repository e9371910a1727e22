"""Safetensors files written and read one tensor at a time."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from trimtab.errors import ModelError
from trimtab.policies.tensor_files import TensorFiles, write_tensors

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
SHAPES = st.lists(st.integers(0, 4), max_size=3)


@given(st.dictionaries(st.text(min_size=1), st.tuples(st.sampled_from(DTYPES), SHAPES), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_what_the_library_reads(tmp_path_factory, kinds):
    path = tmp_path_factory.mktemp("files") / "x.safetensors"
    tensors = {name: torch.randn(shape).to(dtype) for name, (dtype, shape) in kinds.items() if name != "__metadata__"}
    write_tensors(path, tensors)
    files = TensorFiles.open([path])
    for found in (load_file(path), files):
        assert set(found) == set(tensors)
        for name, tensor in tensors.items():
            assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)
    assert dict(files.shapes) == {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def test_views_are_written_as_they_look(tmp_path):
    tensor = torch.arange(12.0).view(3, 4)
    write_tensors(tmp_path / "x.safetensors", {"t": tensor.t(), "part": tensor[1:, ::2]})
    found = load_file(tmp_path / "x.safetensors")
    assert torch.equal(found["t"], tensor.t()) and found["part"].tolist() == [[4, 6], [8, 10]]


def test_each_tensor_is_asked_for_once_and_let_go(tmp_path):
    asked = []

    class Counting(dict):
        def __getitem__(self, name):
            asked.append(name)
            return torch.ones(3)

    write_tensors(tmp_path / "x.safetensors", Counting(a=None, b=None))
    assert asked == ["a", "b"]


@pytest.mark.parametrize(("value", "told"), [(float("nan"), "NaN"), (float("inf"), "infinite")])
def test_values_that_are_not_finite_are_named(tmp_path, value, told):
    save_file({"good": torch.ones(2), "bad": torch.tensor([0.0, value])}, tmp_path / "x.safetensors")
    files = TensorFiles.open([tmp_path / "x.safetensors"])
    assert files["good"].tolist() == [1, 1]
    with pytest.raises(ModelError, match=rf"'bad'.*{told}"):
        files["bad"]
    with pytest.raises(ModelError, match=rf"'bad'.*{told}"):
        write_tensors(tmp_path / "y.safetensors", load_file(tmp_path / "x.safetensors"))


def test_integers_are_no_differences(tmp_path):
    with pytest.raises(ModelError, match=r"'x' of torch\.int64"):
        write_tensors(tmp_path / "x.safetensors", {"x": torch.ones(2, dtype=torch.int64)})


def test_a_file_that_goes_away_or_is_written_again_is_told(tmp_path):
    save_file({"x": torch.ones(2)}, tmp_path / "x.safetensors")
    files = TensorFiles.open([tmp_path / "x.safetensors"])
    with pytest.raises(KeyError):
        files["y"]
    save_file({"x": torch.ones(2), "y": torch.ones(2)}, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match="written again"):
        files["x"]
    (tmp_path / "x.safetensors").unlink()
    with pytest.raises(ModelError, match="no longer"):
        files["x"]
