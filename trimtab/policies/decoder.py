"""A lean forward pass for decoder-only transformers of the Llama family: frozen weights, stacked rows, any adapters.

It computes what the ``transformers`` modules compute, from their weights, with a few large operations a layer: one
matmul for queries, keys and values, one for gate and up, attention with the query heads of a key head as one group,
keys and values written into their slots without copying the cache. Rows may use different adapters. The residual stream
is kept in float32. It gives no gradients; architectures it does not know run through ``transformers`` itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from trimtab.policies.attention import Sight, attend, in_pieces
from trimtab.policies.cache import Layers, Rows
from trimtab.policies.company import filled, rows_for
from trimtab.policies.family import acts_on, base_of, projections
from trimtab.policies.layer import Layer, Sources, pack
from trimtab.policies.lowrank import Use, fusable, strengths, tensors, trace
from trimtab.policies.packed import can_reorder
from trimtab.policies.ragged import Ragged
from trimtab.policies.scales import Scales
from trimtab.policies.shared import Shared
from trimtab.policies.shift import EMBEDDINGS, FINAL_NORM, HEAD, Norm, Shifts, Table, stacked
from trimtab.policies.slots import Slots, whole_chunks
from trimtab.policies.transfer import to_device

_BESIDE = 128
"""Adapters are multiplied together with the frozen weights up to this sum of ranks."""

_KEPT = 512
"""Adapters are kept up to this sum of ranks; beyond it, only those in use."""


@dataclass(frozen=True)
class _Adapters:
    """Whose factors are read, and what they were read from.

    Args:
        names: the adapters.
        beside: whether their first factors are multiplied together with the frozen weights.
        changed: whether factors have been changed before; then they are kept apart, where they are cheap to renew.
        sources: the tensors they were read from.
        state: what would tell that these have been changed.
    """

    names: tuple[str, ...]
    beside: bool
    changed: bool
    sources: tuple[Tensor, ...] = ()
    state: tuple[object, ...] = ()


@dataclass(frozen=True)
class _Context:
    """Where the tokens of a block are.

    Args:
        rotation: cosines and sines of their positions, each (.., T, 1, D).
        sight: what they may attend to.
        place: which of the rows' own slots they take: the same in all rows, or a tensor, (N, T).
        prompts: which of them are tokens of prompts and not padding; None for blocks without padding.
    """

    rotation: tuple[Tensor, Tensor]
    sight: Sight
    place: slice | Tensor
    prompts: Ragged | None = None


@dataclass(frozen=True)
class FixedContext:
    """Where one token a row is, in tensors whose shapes never change.

    Args:
        lengths: tokens before this one, (N,).
        place: which of the rows' own slots the token takes, (N, 1).
        seen: which of the rows' own slots hold a token, this one's included, (N, W).
        shared: slots before the rows' own, that they have in common.
    """

    lengths: Tensor
    place: Tensor
    seen: Tensor
    shared: Shared | None


class Decoder:
    """The lean forward pass of one model.

    Args:
        model: a model of the family, see :func:`~trimtab.policies.family.knows`.
        apart: adapters that will be trained, whose factors are kept apart from the start.
        shifts: plain differences that go with adapters.
    """

    def __init__(self, model: PreTrainedModel, apart: Collection[str] = (), shifts: Shifts | None = None) -> None:
        config = model.config
        self._model, self._apart, self._shifts = model, apart, {} if shifts is None else shifts
        self._points = [point for layer in model.model.layers for point in projections(layer)]
        self._sources = [p for name, p in model.named_parameters() if "lora_" not in name]
        self._read_from = self._weights_now()
        self._heads, self._key_heads = config.num_attention_heads, config.num_key_value_heads
        self._head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self._eps: float = config.rms_norm_eps
        self._widest: int = config.intermediate_size
        self._activation = model.model.layers[0].mlp.act_fn
        self._embeddings = model.get_input_embeddings().weight.detach()
        self.dtype = self._embeddings.dtype
        total = sum(p.numel() * p.element_size() for p in self._sources)
        self._reorder = can_reorder(self._embeddings, total)
        self._adapters = _Adapters((), beside=True, changed=False)
        self._layers: list[Layer] = []  # read when it is known which adapters go with them
        self._head = pack([model.get_output_embeddings()], None, reorder=self._reorder)
        self._tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
        self._read_ends(())
        self._frequencies = model.model.rotary_emb.inv_freq.detach().float()
        self._rotation_scale: float = model.model.rotary_emb.attention_scaling
        self._tables = self._rotations(1024)
        self.version = 0
        """Counts up when tensors that a step reads are replaced by others."""
        self._last_use: tuple[Scales, int, Use] | None = None

    def fuses(self, adapter: str | None) -> bool:
        """Return whether an adapter is low rank and acts on nothing but this pass's projections."""
        if adapter is None:
            return True
        known = {module for point in self._points for module in point}
        layers = (module for module in self._model.modules() if isinstance(module, BaseTunerLayer))
        acting = [module for module in layers if acts_on(module, adapter)]
        return all(module in known and fusable(module, adapter) for module in acting)

    def stale(self) -> bool:
        """Return whether the model's weights have been changed or replaced since they were read.

        Looked at before each prompt. A change that torch does not count (through ``.data``) is not seen.
        """
        return self._read_from != self._weights_now()

    def renew(self) -> None:
        """Read adapters again that have been changed or are being trained; looked at before each prompt.

        A fused optimiser changes tensors without torch counting it, so whatever has a gradient counts as changed.
        """
        if not self._adapters.names:
            return
        trained = any(each.requires_grad or each.grad is not None for each in self._adapters.sources)
        if trained or self._adapters.state != self._adapters_now(self._adapters.names):
            self._read_adapters(self._adapters.names, changed=True)

    def start(self, lengths: Tensor) -> Rows:
        """Return rows of tokens that are still to be fed, as :meth:`prompts`."""
        shape = (len(lengths), self._key_heads, 0, self._head_size)
        empty = torch.empty(shape, dtype=self.dtype, device=self._embeddings.device)
        layers, more = len(self._model.model.layers), int(lengths.max()) + 64
        slots = Slots.holding([empty] * (2 * layers), lengths, lanes=len(lengths), room=more)
        return Rows(lengths, lengths, None, slots)

    def embed(self, tokens: Tensor, use: Use | None) -> Tensor:
        """Look token ids up, (N, T) to (N, T, d)."""
        amounts = None if use is None else use.amounts
        return self._embedding_shifts.embed(F.embedding(tokens, self._embeddings), tokens, amounts)

    @torch.no_grad()
    def prompts(self, embedded: Tensor, lengths: Tensor, scales: Scales) -> tuple[Tensor, Rows]:
        """Feed whole prompts.

        Args:
            embedded: what is fed, (N, T, d), anything past a prompt's end.
            lengths: of the prompts, in tokens, (N,), on the CPU.
            scales: how strongly the rows use which adapters.

        Returns:
            Logits after each prompt, (N, 1, columns), and the rows.
        """
        rows, block = self.start(lengths), embedded.shape[1]
        self.reach(block)
        cosines, sines = (table[:block].unsqueeze(1) for table in self._tables)
        ragged = Ragged.of(lengths, block, embedded.device)
        context = _Context((cosines, sines), self._sight(None, causal=True), slice(0, block), ragged)
        logits, broken = self._run(embedded, rows.layers(block), self.use(scales, block), context)
        rows.slots.poison(broken)
        return logits, rows

    @torch.no_grad()
    def block(self, embedded: Tensor, rows: Rows, scales: Scales) -> Tensor:
        """Feed a block whose slots are there already, and write its keys and values into them.

        Args:
            embedded: what is fed, (N, T, d).
            rows: the rows, the block's slots included.
            scales: how strongly the rows use which adapters.

        Returns:
            Logits, (N, T, columns).
        """
        block = embedded.shape[1]
        width = rows.width if self._exact(rows, block) else whole_chunks(rows.width)
        use, context = self.use(scales, block), self._context(rows, block, width)
        logits, broken = self._run(embedded, rows.layers(width), use, context)
        rows.slots.poison(broken)
        return logits

    @torch.no_grad()
    def one_token(self, tokens: Tensor, layers: Layers, use: Use | None, where: FixedContext) -> Tensor:
        """Feed one token to every row in shapes that never change, so that a GPU can replay it as a graph.

        Args:
            tokens: token ids, (N, 1).
            layers: the rows' own slots, those that are still free included.
            use: of :meth:`use`.
            where: the tokens' places.

        Returns:
            Logits, (N, 1, columns).
        """
        cosines, sines = (table[where.lengths][:, None, None] for table in self._tables)
        context = _Context((cosines, sines), self._looking(where.seen[:, None], where.shared), where.place)
        return self._run(self.embed(tokens, use), layers, use, context)[0]

    def _run(self, embedded: Tensor, layers: Layers, use: Use | None, context: _Context) -> tuple[Tensor, Tensor]:
        """Return the logits of all tokens or the last ones of prompts, and whether any token of the block is NaN."""
        size, block, _ = embedded.shape
        x, shared, prompts = embedded.flatten(0, 1).float(), context.sight.shared, context.prompts
        placed = None if use is None else use.amounts
        if prompts is not None:
            x, use = prompts.packed(x), None if use is None else use.packed(prompts)
        count, rows = len(x), rows_for(len(x), self._widest, x.device)
        x, use = filled(x, rows), None if use is None else use.filled(rows)
        common = [None] * len(layers) if shared is None else shared.layers
        amounts = None if use is None else use.amounts
        for layer, (keys, values), both in zip(self._layers, layers, common, strict=True):
            h = self._norm(x, layer.norm_in.at(amounts))
            mixed = layer.qkv(h, use)[:count]
            mixed = (mixed if prompts is None else prompts.padded(mixed)).view(size, block, -1, self._head_size)
            queries = self._place(layer, mixed, context, keys, values, placed)
            h = attend(queries, keys, values, context.sight, both).reshape(size * block, -1)
            layer.out.add_to(x, filled(h if prompts is None else prompts.packed(h), rows), use)
            h = self._norm(x, layer.norm_mid.at(amounts))
            gate, up = layer.gate_up(h, use).chunk(2, dim=-1)
            layer.down.add_to(x, self._activation(gate).mul_(up), use)
        # NaN anywhere in a token makes its sum NaN; infinities of both signs would too, and are as bad.
        broken = x.sum().isnan()
        if prompts is not None:
            count, x, amounts = size, x[prompts.last], None if amounts is None else amounts[prompts.last]
        h = self._norm(x, self._final_norm.at(amounts))
        logits = self._head_shifts.read_out(self._head(h), h, amounts)[:count]
        return logits.view(size, count // size, -1), broken

    # -- one layer ---------------------------------------------------------------------------------------------------

    def _place(
        self, layer: Layer, mixed: Tensor, context: _Context, keys: Tensor, values: Tensor, amounts: Tensor | None
    ) -> Tensor:
        """Rotate queries and keys by their positions and write keys and values into their slots; (N, T, H, D)."""
        block, turned = mixed.shape[1], self._heads + self._key_heads
        moved = mixed[:, :, :turned]
        if layer.q_norm is not None and layer.k_norm is not None:
            heads = moved[:, :, : self._heads].float(), moved[:, :, self._heads :].float()
            weights = (norm.at_heads(amounts, block) for norm in (layer.q_norm, layer.k_norm))
            moved = torch.cat([self._norm(x, weight) for x, weight in zip(heads, weights, strict=True)], 2)
        cosines, sines = context.rotation
        # The sign of the first half's sines is in the table, so that a roll stands for "rotate half".
        moved = torch.addcmul(moved * cosines, moved.roll(self._head_size // 2, -1), sines)
        new_keys, new_values, place = moved[:, :, self._heads :], mixed[:, :, turned:], context.place
        if isinstance(place, slice):
            keys[:, :, place], values[:, :, place] = new_keys.transpose(1, 2), new_values.transpose(1, 2)
        else:
            rows = torch.arange(len(place), device=place.device)[:, None]
            keys[rows, :, place], values[rows, :, place] = new_keys, new_values
        return moved[:, :, : self._heads]

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """Divide float32 vectors by their root mean square."""
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True).add_(self._eps))
        return (x * scale).to(self.dtype) * weight

    # -- what all layers share ---------------------------------------------------------------------------------------

    def _exact(self, rows: Rows, block: int) -> bool:
        """Return whether all slots up to one end are seen, and a kernel may be told so by their number alone."""
        return block == 1 and rows.even and not in_pieces(self._embeddings.device)

    def _context(self, rows: Rows, block: int, width: int) -> _Context:
        """Return what a block at the ends of rows is rotated by, may attend to, and where it goes."""
        device, order = self._embeddings.device, torch.arange(block)
        self.reach(int(rows.lengths.max()))
        cosines, sines = self._tables
        start = int(rows.lengths[0])
        if bool((rows.lengths == start).all()):
            rotation = cosines[start - block : start].unsqueeze(1), sines[start - block : start].unsqueeze(1)
        else:
            positions = to_device((rows.lengths - block)[:, None] + order, device)
            rotation = cosines[positions].unsqueeze(2), sines[positions].unsqueeze(2)
        end, place = int(rows.ends[0]), to_device((rows.ends - block)[:, None] + order, device)
        where = slice(end - block, end) if bool((rows.ends == end).all()) else place
        if self._exact(rows, block):
            return _Context(rotation, self._sight(None), where)
        seen = rows.seen(width)[:, None, :]
        if block > 1:
            seen = seen & (torch.arange(width, device=device) <= place[:, :, None])
        return _Context(rotation, self._looking(seen, rows.shared), where)

    def _looking(self, seen: Tensor, shared: Shared | None) -> Sight:
        """Return the sight of rows that see these of their own slots, (N, T or 1, W), and what they share."""
        if shared is not None and not in_pieces(seen.device):
            seen = torch.cat([shared.seen[:, None].expand(-1, seen.shape[1], -1), seen], 2)
        return self._sight(self._additive(seen).unsqueeze(1), shared=shared)

    def _sight(self, mask: Tensor | None, *, causal: bool = False, shared: Shared | None = None) -> Sight:
        return Sight(mask, self._key_heads, self._heads // self._key_heads, causal, shared)

    def reach(self, length: int) -> None:
        """Make the tables of rotations cover texts of a length, in tokens."""
        if length > len(self._tables[0]):
            self._tables = self._rotations(2 * length)
            self.version += 1

    def _additive(self, seen: Tensor) -> Tensor:
        """Return 0 where a slot is seen and a very low number elsewhere.

        The number is finite, so that a padded query, which sees nothing, gives a number too: NaN would spread.
        """
        lowest = torch.finfo(self.dtype).min / 4
        return torch.zeros(seen.shape, dtype=self.dtype, device=seen.device).masked_fill_(~seen, lowest)

    def _rotations(self, length: int) -> tuple[Tensor, Tensor]:
        """Return cosines and signed sines of every position's angles, (length, D) each."""
        angles = torch.arange(length, device=self._frequencies.device).float()[:, None] * self._frequencies
        cosines, sines = angles.cos() * self._rotation_scale, angles.sin() * self._rotation_scale
        return torch.cat([cosines, cosines], -1).to(self.dtype), torch.cat([-sines, sines], -1).to(self.dtype)

    def use(self, scales: Scales, block: int) -> Use | None:
        """Return how strongly each fed token uses each adapter, or None where no row uses any."""
        names = set(scales.names)
        if not names:
            self._layers = self._layers or self._read((), beside=True, kept=None)
            return None
        if not names <= set(self._adapters.names):
            self._read_adapters(names, changed=False)
        if self._last_use is None or self._last_use[0] is not scales or self._last_use[1] != block:
            factors = [each.factors for layer in self._layers for each in layer.projections]
            found = Use.of(factors, self._adapters.names, scales, block, self._embeddings)
            self._last_use = scales, block, found
        return self._last_use[2]

    def _read_adapters(self, names: Iterable[str], *, changed: bool) -> None:
        """Read the factors of adapters, with those that are there already as long as they are few."""
        before, wanted = self._adapters, set(names)
        both = wanted.union(name for name in before.names if self._rank(name))
        kept = tuple(sorted(both if sum(map(self._rank, both)) <= _KEPT else wanted))
        sources = tuple(tensors(self._points, kept))
        changed = changed or before.changed or any(name in self._apart for name in kept)
        beside = not changed and sum(map(self._rank, kept)) <= _BESIDE
        state = self._adapters_now(kept)
        layers = self._read(kept, beside=beside, kept=None if beside or before.beside else self._layers)
        # All at once and last, so that an interruption leaves everything as it was.
        self._layers, self._adapters = layers, _Adapters(kept, beside, changed, sources, state)
        self._read_ends(kept)
        self._last_use = None
        self.version += 1

    # -- reading weights ---------------------------------------------------------------------------------------------

    def _read(self, adapters: tuple[str, ...], *, beside: bool, kept: Sequence[Layer] | None) -> list[Layer]:
        """Read all layers; with those that are kept, the frozen weights stay as they are."""
        sources = Sources(self._model, adapters, self._shifts, beside, self._reorder)
        count = len(self._model.model.layers)
        return [Layer.read(sources, number, kept[number] if kept else None) for number in range(count)]

    def _read_ends(self, adapters: tuple[str, ...]) -> None:
        """Read what stands before and after the layers."""
        norm, head = self._model.model.norm.weight.detach(), EMBEDDINGS if self._tied else HEAD
        self._final_norm = Norm(norm, stacked(self._shifts, adapters, FINAL_NORM, norm))
        self._embedding_shifts = Table.of(self._shifts, adapters, EMBEDDINGS, self._embeddings)
        self._head_shifts = Table.of(self._shifts, adapters, head, self._embeddings)

    def _rank(self, name: str) -> int:
        config = getattr(self._model, "peft_config", {}).get(name)
        return 0 if config is None else int(config.r)

    def _weights_now(self) -> tuple[object, ...]:
        live = (base_of(module).weight for point in self._points for module in point)
        return (*map(trace, self._sources), *map(id, live))

    def _adapters_now(self, names: tuple[str, ...]) -> tuple[object, ...]:
        return (*map(trace, tensors(self._points, names)), *strengths(self._points, names))
