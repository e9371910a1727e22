"""What a worker of vLLM does besides its own: it takes new weights for one of the LMs, in place."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors.torch import load_file
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload


class TakesWeights:
    """Extends vLLM's worker, which has what is declared here; the name of the method is called on every rank."""

    vllm_config: VllmConfig
    model_runner: Any

    @torch.inference_mode()
    def take_weights(self, name: str, file: str) -> None:
        """Replace weights of an LM.

        The tensors keep their places in memory, which captured graphs and other layers refer to; what the platform
        makes of them (packed copies on a CPU) is made again.

        Args:
            name: of the LM in the model.
            file: safetensors, under the names of the LM's own files; whole layers, as far as vLLM fuses them.
        """
        model = self.model_runner.get_model().get_submodule(name)
        with set_current_vllm_config(self.vllm_config), _without_warnings():
            initialize_layerwise_reload(model)
            model.load_weights(iter(load_file(file).items()))
            finalize_layerwise_reload(model, self.vllm_config.model_config)
            for module in model.modules():
                if isinstance(module, ParallelLMHead):  # one that is tied to the embeddings was not loaded itself
                    module.quant_method.process_weights_after_loading(module)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep vLLM from warning of every layer that is not in the file, since those are meant to stay as they are."""
    logger = logging.getLogger(initialize_layerwise_reload.__module__)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
