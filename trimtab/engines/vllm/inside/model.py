"""All LMs of a product as one vLLM model: each runs on the same tokens, with layers of its own in the paged cache.

The exponents of a token travel beside its hidden states, as raw bits in extra columns, so that the weighted sum of
logits depends on nothing but the rows it is asked for: sampled tokens, log-probs of prompts, and any order of rows come
out right.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from vllm.compilation.backends import set_model_tag
from vllm.config import VllmConfig
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.model_executor.models.interfaces import SupportsLoRA
from vllm.model_executor.models.utils import (
    AutoWeightsLoader,
    WeightsMapper,
    init_vllm_registered_model,
    maybe_prefix,
)
from vllm.transformers_utils.config import get_config

from trimtab.engines.vllm.inside.rows import exponents_of_tokens
from trimtab.engines.vllm.plan import Plan
from trimtab.engines.vllm.refusals import check_context, check_model_config
from trimtab.policies.freed import keep_freed_memory
from trimtab.policies.product import FLOOR

FIRST = "lm0"


class TrimtabForCausalLM(nn.Module, SupportsLoRA):
    """``logits(y | s) = sum_i w_i logits_i(y | s)`` with the exponents w of the row's own request.

    Constants of a row do not matter to softmax, so what LMs say is not normalised first. Where an exponent may be
    negative, its LM's logits are floored at ``FLOOR`` nats under the row's maximum, as everywhere in trimtab.
    """

    embedding_modules: ClassVar[dict[str, str]] = {}

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        keep_freed_memory()  # sums of logits are large
        config = vllm_config.model_config
        self.config = config.hf_config
        self.plan = Plan.from_json(config.hf_config.trimtab)
        check_model_config(vllm_config, self.plan)
        self.names = [f"lm{number}" for number in range(len(self.plan.models))]
        sources = [config.model, *self.plan.models[1:]]
        self.widths: list[int] = []
        for name, source in zip(self.names, sources, strict=True):
            own = get_config(source, trust_remote_code=False, revision=config.revision if name == FIRST else None)
            check_context(own, source, config.max_model_len)
            self.widths.append(own.hidden_size)
            with set_model_tag(name):  # compiled code is kept by this name
                inner = init_vllm_registered_model(vllm_config, prefix=maybe_prefix(prefix, name), hf_config=own)
            self.add_module(name, inner)
        self.packed_modules_mapping = dict(self.inner[0].packed_modules_mapping)
        self.hf_to_vllm_mapper = WeightsMapper(orig_to_new_prefix={"": f"{FIRST}."})
        self.lora_skip_prefixes = [f"{name}." for name in self.names[1:]]
        self.secondary_weights = [
            DefaultModelLoader.Source(source, revision=None, prefix=f"{name}.")
            for name, source in zip(self.names[1:], sources[1:], strict=True)
        ]
        self.dtype = config.dtype
        self._columns = 4 // config.dtype.itemsize * len(self.names)

    @property
    def inner(self) -> list[Any]:
        """The LMs, in the plan's order."""
        return [self.get_submodule(name) for name in self.names]

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        """Embed tokens as the first LM does."""
        return self.inner[0].embed_input_ids(input_ids)  # type: ignore[no-any-return]

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        intermediate_tensors: None = None,
        inputs_embeds: None = None,
        exponents: Tensor | None = None,
    ) -> Tensor:
        """Run all LMs.

        Args:
            input_ids: of T tokens of all rows, one row after another.
            positions: of the tokens in their rows.
            intermediate_tensors: of pipeline stages, of which there are none.
            inputs_embeds: of prompts that are not tokens, which the LMs could not share.
            exponents: of each token, shape (T, number of LMs), float32; None where the legacy runner's rows have them.

        Returns:
            The hidden states of all LMs and the bits of the exponents, shape (T, sum of widths + columns).
        """
        tokens = input_ids.clamp(max=self.plan.columns - 1)  # a smaller LM has no row for ids that no tokenizer makes
        told = torch.empty(len(tokens), sum(self.widths) + self._columns, dtype=self.dtype, device=tokens.device)
        place, end = 0, 0
        for inner, width in zip(self.inner, self.widths, strict=True):
            hidden = inner(tokens, positions)
            end = place + width
            told[:, place:end] = hidden  # at once: the next LM's captured graphs may use the same memory
            place = end
        if exponents is None:
            exponents = exponents_of_tokens(len(told), len(self.names), told.device)
        told[:, end:] = exponents.view(told.dtype)
        return told

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """Return the weighted sum of logits, shape (rows, V), float32; None on the ranks that do not gather them."""
        *parts, bits = torch.split(hidden_states, [*self.widths, self._columns], -1)
        exponents = bits.contiguous().view(torch.float32)
        said = [inner.compute_logits(part.contiguous()) for inner, part in zip(self.inner, parts, strict=True)]
        if any(logits is None for logits in said):
            return None
        total: Tensor | None = None
        columns = min(self.plan.columns, *(logits.shape[1] for logits in said))
        for logits, weight, floored in zip(said, exponents.unbind(-1), self.plan.floored, strict=True):
            # In float32 first: torch's products of two dtypes cost a CPU twenty times what the copy does.
            scores, weight = logits[:, :columns].float(), weight[:, None]
            if floored and (weight.is_cuda or bool((weight < 0).any())):  # a GPU is not waited for
                scores = torch.where(weight < 0, torch.maximum(scores, scores.amax(-1, keepdim=True) - FLOOR), scores)
            total = scores.mul_(weight) if total is None else total.addcmul_(scores, weight)
        assert total is not None
        total = total.log_softmax(-1)  # penalties multiply, so what they act on must not depend on a row's constant
        missing = said[0].shape[1] - columns
        return nn.functional.pad(total, (0, missing), value=-torch.inf) if missing else total

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load the weights of all LMs; those of the first come without its name in front."""
        others = tuple(f"{name}." for name in self.names[1:])
        named = ((name if name.startswith(others) else f"{FIRST}.{name}", tensor) for name, tensor in weights)
        loaded: set[str] = AutoWeightsLoader(self).load_weights(named)
        return loaded

    @classmethod
    def get_model_state_cls(cls) -> type:
        """Return who hands exponents over in model runner V2."""
        from trimtab.engines.vllm.inside.state import ExponentState

        return ExponentState
