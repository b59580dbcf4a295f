"""One transformer block: windowed attention, then the MLP, each normed, modulated and gated.

The residual streams are float32 whatever the dtype of the weights; the video's is updated in
place, batch by batch, so that temporaries are bounded by the batch and not by the clip.

Shape legend: N video tokens in the layer's order, M rows of a batch, L text tokens, D width.
"""

import torch
from torch import Tensor, nn

from seedvr2_core.config import DiTConfig
from seedvr2_core.dit.attention import Attention, TextHeads, layer_streams, without_text
from seedvr2_core.dit.layers import PerStream, Stream, make_mlp, rms_norm
from seedvr2_core.dit.modulation import BlockModulation, Modulation, Slot, gated, modulate_
from seedvr2_core.dit.tables import LayerTables
from seedvr2_core.dit.window import Batch
from seedvr2_core.kernels import dit as kernels


class Block(nn.Module):
    """A layer of the model; `folded` ones have their modulation inside the Linears."""

    def __init__(self, config: DiTConfig, layer: int, *, folded: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.is_last = layer == config.num_layers - 1
        self.text_is_plain = self.is_last and config.output_modulation
        self.eps = config.norm_eps
        self.dtype = dtype
        streams = layer_streams(config, layer)
        if self.text_is_plain or (folded and self.is_last):
            streams = without_text(streams)
        self.attn = Attention(config, layer, folded=folded, dtype=dtype)
        self.mlp = PerStream(streams, lambda _: make_mlp(config, folded=folded, dtype=dtype))
        self.ada = None if folded else PerStream(streams, lambda _: BlockModulation(config.width))

    def forward(
        self,
        video_ND: Tensor,
        text_LD: Tensor,
        tables: LayerTables,
        emb_6D: Tensor | None,
        *,
        rows_N: Tensor | None = None,
    ) -> Tensor:
        """Run the block.

        Args:
            video_ND: float32 residual stream, in the layer's order where `rows_N` does not say
                otherwise; changed in place.
            text_LD: float32 residual stream of the text.
            tables: for the grid and the layer's window method.
            emb_6D: time embedding, or None for a folded block.
            rows_N: where the stream is in another order: its row for each place in the layer's.
                For folded blocks alone.

        Returns:
            The new text stream; in the last layer the old one, because nothing reads it after that.
        """
        text_emb = None if self.text_is_plain else emb_6D
        text_modulation = self._modulation("txt", "attn", text_emb)
        heads = self.attn.project_text(self._normed(text_LD, text_modulation), tables.text_rotation)
        if rows_N is None:
            said = self._update(video_ND, heads, tables, emb_6D)
        else:
            said = self._update_rows(video_ND, heads, tables, rows_N)
        if self.is_last:
            return text_LD
        out_LD = self.attn.project_text_out(said, tables.window_rank_W)
        text_LD = text_LD + gated(out_LD, text_modulation)
        modulation = self._modulation("txt", "mlp", emb_6D)
        hidden_LD = self.mlp.of("txt")(self._normed(text_LD, modulation))
        return text_LD + gated(hidden_LD, modulation)

    def _update(
        self, video_ND: Tensor, heads: TextHeads, tables: LayerTables, emb_6D: Tensor | None
    ) -> list[Tensor]:
        """Attention and MLP of the video; returns the text's attention output in every window."""
        modulation = self._modulation("vid", "attn", emb_6D)
        said: list[Tensor] = []
        for batch in tables.batches:
            said += self._attend_batch(video_ND, batch, heads, tables, modulation)
        modulation = self._modulation("vid", "mlp", emb_6D)
        for rows_MD in video_ND.split(tables.chunk_tokens):
            rows_MD.add_(gated(self.mlp.of("vid")(self._normed(rows_MD, modulation)), modulation))
        return said

    def _attend_batch(
        self,
        video_ND: Tensor,
        batch: Batch,
        heads: TextHeads,
        tables: LayerTables,
        modulation: Modulation | None,
    ) -> list[Tensor]:
        """Update a batch's rows; returns the text's attention output in each of its windows."""
        rows_MD = video_ND[batch.start : batch.stop]
        out_MD, said = self.attn(self._normed(rows_MD, modulation), heads, batch.runs, tables)
        rows_MD.add_(gated(out_MD, modulation))
        return said

    def _update_rows(
        self, video_ND: Tensor, heads: TextHeads, tables: LayerTables, rows_N: Tensor
    ) -> list[Tensor]:
        """`_update` by our own kernels, with both parts for one batch of windows after another.

        So what attention adds to the rows and the norm before the MLP are one kernel.
        """
        said: list[Tensor] = []
        for batch in tables.batches:
            rows_M = rows_N[batch.start : batch.stop]
            said += self._update_batch(video_ND, rows_M, batch, heads, tables)
        return said

    def _update_batch(
        self, video_ND: Tensor, rows_M: Tensor, batch: Batch, heads: TextHeads, tables: LayerTables
    ) -> list[Tensor]:
        normed_MD = video_ND.new_empty((len(rows_M), video_ND.shape[1]), dtype=self.dtype)
        kernels.norm_rows(normed_MD, video_ND, rows_M, eps=self.eps)
        out_MD, said = self.attn(normed_MD, heads, batch.runs, tables)
        kernels.add_norm_rows(normed_MD, video_ND, rows_M, out_MD, eps=self.eps)
        del out_MD
        chunk = tables.chunk_tokens
        for part_M, part_MD in zip(rows_M.split(chunk), normed_MD.split(chunk), strict=True):
            kernels.add_rows(video_ND, part_M, self.mlp.of("vid")(part_MD))
        return said

    def _modulation(self, stream: Stream, slot: Slot, emb_6D: Tensor | None) -> Modulation | None:
        if self.ada is None or emb_6D is None:
            return None
        return self.ada.of(stream)(emb_6D, slot)

    def _normed(self, rows_MD: Tensor, modulation: Modulation | None) -> Tensor:
        """Normed and modulated in float32, then rounded to the dtype of the weights."""
        return modulate_(rms_norm(rows_MD, eps=self.eps), modulation).to(self.dtype)
