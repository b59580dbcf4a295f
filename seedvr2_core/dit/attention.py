"""Attention of a layer: each window's video tokens and all text tokens attend to each other.

Windows of one shape go through one batched attention call; no padding, no mask, no loop over
windows. Rows arrive sorted by window (see window.py), so a run of equal windows is a view.

Shape legend: M token rows of a batch, W windows, S video tokens of a window, L text tokens,
J = S + L, D width, H heads, K channels of a head, P rotated channel pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from seedvr2_core.config import DiTConfig
from seedvr2_core.dit.layers import PerStream, RMSNorm
from seedvr2_core.dit.rope import rotate_
from seedvr2_core.dit.sdpa import keeps_text
from seedvr2_core.dit.tables import LayerTables, fuses
from seedvr2_core.dit.window import Run
from seedvr2_core.kernels import dit as kernels
from seedvr2_core.kernels.switches import switches


@dataclass(frozen=True, slots=True, kw_only=True)
class TextHeads:
    """The text's part in every window of a layer, in the dtype of the weights."""

    q_LHK: Tensor | None
    """None in the last layer, after which nothing reads the text, unless it keeps the text to have
    the shapes of the other layers (sdpa.py)."""
    k_LHK: Tensor
    v_LHK: Tensor
    all_3LHK: Tensor | None
    """All three in one, where our own kernel joins them to the video's."""


def layer_streams(config: DiTConfig, layer: int) -> tuple[str, ...]:
    """Names of a layer's weight sets."""
    return ("vid", "txt") if layer < config.num_separate_layers else ("all",)


def without_text(streams: tuple[str, ...]) -> tuple[str, ...]:
    """The weight sets that the video uses."""
    return tuple(stream for stream in streams if stream != "txt")


class Attention(nn.Module):
    """Projections, per-head norms, rotation and windowed attention of one layer."""

    def __init__(self, config: DiTConfig, layer: int, *, folded: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.is_last = layer == config.num_layers - 1
        self.heads = (config.num_heads, config.head_dim)
        width, inner = config.width, config.inner_width
        streams = in_streams = layer_streams(config, layer)
        text_is_plain = self.is_last and config.output_modulation
        if folded and text_is_plain:
            # The modulation is folded into the video's copy only.
            in_streams = ("vid", "txt")
        video_streams = without_text(streams) if folded and self.is_last else streams

        def make_in(stream: str) -> nn.Linear:
            bias = folded and not (text_is_plain and stream == "txt")
            return nn.Linear(width, 3 * inner, bias=bias, dtype=dtype)

        def make_norm(_: str) -> RMSNorm:
            return RMSNorm(config.head_dim, eps=config.norm_eps)

        self.proj_qkv = PerStream(in_streams, make_in)
        self.proj_out = PerStream(video_streams, lambda _: nn.Linear(inner, width, dtype=dtype))
        self.norm_q = PerStream(video_streams, make_norm)
        self.norm_k = PerStream(streams, make_norm)

    def project_text(self, text_LD: Tensor, rotation_L1P: Tensor | None) -> TextHeads:
        """Normed (and with rope "lang" rotated) heads of the text, once for all windows.

        Args:
            text_LD: normed and modulated, in the dtype of the weights.
            rotation_L1P: complex64, or None where text does not rotate.
        """
        qkv_L3HK = self.proj_qkv.of("txt")(text_LD).unflatten(-1, (3, *self.heads))
        q_LHK, k_LHK, v_LHK = qkv_L3HK.unbind(1)
        k_LHK = self.norm_k.of("txt")(k_LHK)
        q_LHK = None if self.is_last else self.norm_q.of("txt")(q_LHK)
        if rotation_L1P is not None:
            rotate_(k_LHK, rotation_L1P)
            if q_LHK is not None:
                rotate_(q_LHK, rotation_L1P)
        k_LHK = k_LHK.to(text_LD.dtype)
        if q_LHK is not None:
            q_LHK = q_LHK.to(text_LD.dtype)
        elif keeps_text(text_LD.device):
            q_LHK = k_LHK  # anything finite: nobody reads what it finds
        joins = q_LHK is not None and switches().fused_heads and fuses(text_LD.device)
        return TextHeads(
            q_LHK=q_LHK,
            k_LHK=k_LHK,
            v_LHK=v_LHK,
            all_3LHK=torch.stack([q_LHK, k_LHK, v_LHK]) if joins and q_LHK is not None else None,
        )

    def forward(
        self,
        rows_MD: Tensor,
        text: TextHeads,
        runs: Sequence[Run],
        tables: LayerTables,
    ) -> tuple[Tensor, list[Tensor]]:
        """Attend inside the windows of a batch.

        Args:
            rows_MD: video tokens of whole windows, normed and modulated, dtype of the weights.
            text: from `project_text`.
            runs: the windows that `rows_MD` consists of.
            tables: of the layer's window method.

        Returns:
            Projected video rows (M, D), and for each run the text's attention output in its
            windows, (W, L, H K) before the projection; none in the last layer.
        """
        qkv_M3HK = self.proj_qkv.of("vid")(rows_MD).unflatten(-1, (3, *self.heads))
        said: list[Tensor] = []
        start = 0
        for run in runs:
            qkv_run = qkv_M3HK[start : start + run.num_tokens]
            said_WLD = self._attend_(qkv_run, text, run, tables)
            if not self.is_last:
                said.append(said_WLD)
            start += run.num_tokens
        return self.proj_out.of("vid")(qkv_M3HK[:, 0].flatten(1)), said

    def project_text_out(self, said: Sequence[Tensor], window_rank_W: Tensor) -> Tensor:
        """Mean of the text's attention output over all windows, then the output projection.

        Windows count equally whatever their size and are summed in canonical order in float32.
        Source: ByteDance SeedVR reference, text mean.

        Args:
            said: (W, L, H K) for each run, in sorted order.
            window_rank_W: place of each window of the canonical order in the sorted one.
        """
        said_WLD = torch.cat(list(said)).index_select(0, window_rank_W)
        mean_LD = said_WLD.sum(0, dtype=torch.float32) / window_rank_W.numel()
        return self.proj_out.of("txt")(mean_LD.to(said_WLD.dtype))

    def _attend_(self, qkv_M3HK: Tensor, text: TextHeads, run: Run, tables: LayerTables) -> Tensor:
        """Full attention over [video; text] of equal windows.

        The video's result overwrites its queries, which are not needed any more; the text's is
        returned, (W, L, H K).
        """
        qkv_WS3HK = qkv_M3HK.unflatten(0, (run.num_windows, run.window_len))
        if text.all_3LHK is None:
            heads = self._join(qkv_WS3HK, text, tables.rotations[run.shape])
        else:
            heads = self._join_by_kernel(qkv_M3HK, text.all_3LHK, run, tables.pairs[run.shape])
        out_WHJK = tables.sdpa(*heads)
        del heads
        qkv_WS3HK[:, :, 0] = out_WHJK[:, :, : run.window_len].transpose(1, 2)
        return out_WHJK[:, :, run.window_len :].transpose(1, 2).flatten(2).clone()

    def _join(
        self, qkv_WS3HK: Tensor, text: TextHeads, rotation_S1P: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values with the text behind them, each (W, H, J, K); keys and values
        alone have it where the text asks nothing."""
        q_WSHK, k_WSHK, v_WSHK = qkv_WS3HK.unbind(2)
        dtype = v_WSHK.dtype
        return (
            _joined(rotate_(self.norm_q.of("vid")(q_WSHK), rotation_S1P), text.q_LHK, dtype),
            _joined(rotate_(self.norm_k.of("vid")(k_WSHK), rotation_S1P), text.k_LHK, dtype),
            _joined(v_WSHK, text.v_LHK, dtype),
        )

    def _join_by_kernel(
        self, qkv_M3HK: Tensor, text_3LHK: Tensor, run: Run, pairs_S2P: Tensor
    ) -> tuple[Tensor, ...]:
        joined_len = run.window_len + text_3LHK.shape[1]
        joined_3WJHK = qkv_M3HK.new_empty((3, run.num_windows, joined_len, *self.heads))
        norm_q, norm_k = self.norm_q.of("vid"), self.norm_k.of("vid")
        kernels.join_heads(
            joined_3WJHK,
            qkv_M3HK,
            text_3LHK,
            torch.stack([norm_q.weight, norm_k.weight]),
            pairs_S2P,
            eps=norm_q.eps,
        )
        return joined_3WJHK.transpose(2, 3).unbind(0)


def _joined(video_WSHK: Tensor, text_LHK: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Each window's video tokens followed by the text, as (W, H, S + L, K) of `dtype`."""
    num_windows, video_len, *heads = video_WSHK.shape
    text_len = 0 if text_LHK is None else text_LHK.shape[0]
    out_WSHK = video_WSHK.new_empty((num_windows, video_len + text_len, *heads), dtype=dtype)
    out_WSHK[:, :video_len] = video_WSHK
    if text_LHK is not None:
        out_WSHK[:, video_len:] = text_LHK
    return out_WSHK.transpose(1, 2)
