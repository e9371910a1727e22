"""What is refused when vLLM starts, because it would not steer, or not as the policy says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from transformers import AutoConfig, PretrainedConfig

from trimtab.assets import quiet_transformers
from trimtab.engines.vllm.plan import Plan
from trimtab.errors import ConfigError

if TYPE_CHECKING:
    from vllm.config import VllmConfig

OLDEST, NEWEST = (0, 32), (0, 32)
"""The versions of vLLM, first two numbers, that were tested; its interfaces are young and change."""

_FORMATS = ("auto", "hf", "safetensors")


def check_version(version: str) -> None:
    """Refuse a version of vLLM that was not tested.

    Raises:
        ConfigError: it is outside the range.

    Example:
        >>> check_version("0.32.0+cpu")
        >>> check_version("0.33.1")
        Traceback (most recent call last):
        trimtab.errors.ConfigError: given: vLLM 0.33.1
        expected: vLLM from 0.32 to 0.32, which trimtab was tested with
        try: pip install "vllm>=0.32,<0.33"
    """
    parts = version.split(".")
    numbers = tuple(int(part) for part in parts[:2] if part.isdigit())
    if not OLDEST <= numbers <= NEWEST:
        oldest, newest = (".".join(map(str, bound)) for bound in (OLDEST, NEWEST))
        above = f"{NEWEST[0]}.{NEWEST[1] + 1}"
        raise ConfigError(
            given=f"vLLM {version}",
            expected=f"vLLM from {oldest} to {newest}, which trimtab was tested with",
            hint=f'pip install "vllm>={oldest},<{above}"',
        )


def check_heads(models: Sequence[str], ranks: int) -> None:
    """Refuse to split models over ranks that do not divide their attention heads.

    Args:
        models: folders or hub ids.
        ranks: size of tensor parallelism.

    Raises:
        ConfigError: a model cannot be split so.
    """
    for model in models if ranks > 1 else ():
        with quiet_transformers():
            heads = AutoConfig.from_pretrained(model, trust_remote_code=False).num_attention_heads
        if heads % ranks:
            fit = [size for size in range(2, heads + 1) if heads % size == 0]
            raise ConfigError(
                given=f"tensor parallelism over {ranks} ranks with {model}, which has {heads} attention heads",
                expected=f"a number of ranks that divides the heads of every model; for this one 1 or {fit}",
                hint="use --data-parallel-size, or a guide with other heads",
            )


def check_targets(layers: Sequence[str]) -> None:
    """Refuse to score answers where a vector changes the output layer, which vLLM 0.32 cannot do.

    Args:
        layers: the last names of those that vectors change.

    Raises:
        ConfigError: the output layer is one of them.

    Example:
        >>> check_targets(["down_proj", "q_proj"])
    """
    if "lm_head" in layers:
        raise ConfigError(
            given="a vector that changes the output layer, with answers that are to be read again under the base",
            expected="vectors on other layers: vLLM tells no log-probs of prompts beside one on the output layer",
            hint="run it with the local engine, or write the sum as a model with `trimtab vector apply`",
        )


def check_context(config: PretrainedConfig, model: str, length: int) -> None:
    """Refuse sequences that one of the LMs cannot read.

    Args:
        config: of the LM.
        model: its folder or hub id.
        length: of the longest sequence, in tokens.

    Raises:
        ConfigError: the LM's context is shorter.
    """
    context = config.max_position_embeddings
    if length > context:
        raise ConfigError(
            given=f"sequences of up to {length} tokens with {model}, which reads {context}",
            expected="a length that every LM of the policy can read",
            hint=f"--max-model-len {context}",
        )


def check_model_config(config: VllmConfig, plan: Plan) -> None:
    """Refuse settings of vLLM under which requests would not be steered.

    Raises:
        ConfigError: there is one.
    """
    import vllm

    check_version(vllm.__version__)
    parallel, model = config.parallel_config, config.model_config
    for wrong, what, hint in (
        (
            config.speculative_config is not None and not config.use_v2_model_runner,
            "speculative decoding on the legacy model runner, which hides the rows' exponents from the model",
            "leave --speculative-config out, or use model runner V2",
        ),
        (parallel.pipeline_parallel_size > 1, "pipeline parallelism", "use --tensor-parallel-size"),
        (parallel.use_ubatching, "micro-batches", "leave --enable-dbo and --ubatch-size out"),
        (
            str(config.load_config.load_format) not in _FORMATS,
            f"the load format {config.load_config.load_format}, which reads the first LM's weights alone",
            f"one of {', '.join(_FORMATS)}",
        ),
        (model.enable_prompt_embeds, "prompts as embeddings, which LMs do not share", "send tokens or texts"),
    ):
        if wrong:
            raise ConfigError(given=what, expected="settings under which every request is steered", hint=hint)
    if model.dtype.itemsize not in (2, 4):
        raise ConfigError(given=f"the dtype {model.dtype}", expected="float32, bfloat16 or float16", hint="--dtype")
