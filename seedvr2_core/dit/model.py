"""The SeedVR2 diffusion transformer, 3B and 7B style, one sample at a time.

`DiT` carries the checkpoint's own tensors under the checkpoint's own names. `FoldedDiT` is the
same network for one text and one timestep, with all modulation folded into the weights (fold.py);
that is what production runs.

Shape legend: T H W latent frames, rows, columns, C channels; N video tokens (T * H/2 * W/2),
L text tokens, X text input channels, D width.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from seedvr2_core.config import PATCH, PERMUTE_COLUMNS, DiTConfig
from seedvr2_core.dit import rope
from seedvr2_core.dit.block import Block
from seedvr2_core.dit.layers import (
    Projection,
    RMSNorm,
    TimeEmbedding,
    patchify,
    rms_norm,
    unpatchify,
)
from seedvr2_core.dit.modulation import OutputModulation
from seedvr2_core.dit.tables import DiTTables, fuses, make_tables
from seedvr2_core.errors import CheckpointError, PlanError
from seedvr2_core.kernels.switches import switches

ROPE_BUFFER = "attn.rope.rope.freqs"


class _Trunk(nn.Module):
    """What plain and folded model share: patches in, blocks, patches out."""

    def __init__(self, config: DiTConfig, *, folded: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.config = config
        patch_pixels = PATCH * PATCH
        self.vid_in = Projection(patch_pixels * config.in_channels, config.width)
        self.blocks = nn.ModuleList(
            Block(config, layer, folded=folded, dtype=dtype) for layer in range(config.num_layers)
        )
        self.vid_out_norm: RMSNorm | None = None
        self.vid_out_ada: OutputModulation | None = None
        if config.output_modulation and not folded:
            self.vid_out_norm = RMSNorm(config.width, eps=config.norm_eps)
            self.vid_out_ada = OutputModulation(config.width)
        self.vid_out = Projection(config.width, patch_pixels * config.latent_channels)

    def _run(
        self, vid_THWC: Tensor, text_LD: Tensor, emb_6D: Tensor | None, tables: DiTTables
    ) -> Tensor:
        """Latent and text in, velocity (T, H, W, 16) float32 out."""
        num_frames, height, width, channels = vid_THWC.shape
        grid = (num_frames, height // PATCH, width // PATCH)
        if (grid, text_LD.shape[0]) != (tables.grid, tables.text_len):
            raise PlanError(
                f"tables are for a token grid {tables.grid} and {tables.text_len} text tokens, "
                f"got {grid} and {text_LD.shape[0]}; make them with make_tables"
            )
        if channels != self.config.in_channels:
            raise PlanError(f"input must have {self.config.in_channels} channels, got {channels}")
        if emb_6D is None and switches().fused_rows and fuses(vid_THWC.device):
            return self._run_in_grid_order(vid_THWC, text_LD, tables)
        method = self.config.shifted[0]
        video_ND = self.vid_in(patchify(vid_THWC.float()).index_select(0, tables.order_N[method]))
        for block, shifted in zip(self.blocks, self.config.shifted, strict=True):
            if shifted != method:
                permute_rows_(video_ND, tables.switch_N[shifted])
                method = shifted
            text_LD = block(video_ND, text_LD, tables.layers[shifted], emb_6D)
        out_NC = self._output(video_ND, emb_6D, tables.layers[method].chunk_tokens)
        return unpatchify(
            out_NC.index_select(0, tables.place_N[method]), (num_frames, height, width)
        )

    def _run_in_grid_order(self, vid_THWC: Tensor, text_LD: Tensor, tables: DiTTables) -> Tensor:
        """The same by our own kernels: the tokens stay where they are, windows are gathered."""
        num_frames, height, width, _ = vid_THWC.shape
        video_ND = self.vid_in(patchify(vid_THWC.float()))
        for block, shifted in zip(self.blocks, self.config.shifted, strict=True):
            layer, rows_N = tables.layers[shifted], tables.order_N[shifted]
            text_LD = block(video_ND, text_LD, layer, None, rows_N=rows_N)
        chunk = tables.layers[False].chunk_tokens
        return unpatchify(self._output(video_ND, None, chunk), (num_frames, height, width))

    def _output(self, video_ND: Tensor, emb_6D: Tensor | None, chunk: int) -> Tensor:
        return torch.cat([self._output_rows(rows, emb_6D) for rows in video_ND.split(chunk)])

    def _output_rows(self, rows_MD: Tensor, emb_6D: Tensor | None) -> Tensor:
        if self.config.output_modulation:
            weight_D = None if self.vid_out_norm is None else self.vid_out_norm.weight
            rows_MD = rms_norm(rows_MD, weight_D, eps=self.config.norm_eps)
        if self.vid_out_ada is not None and emb_6D is not None:
            shift_D, scale_D = self.vid_out_ada(emb_6D)
            rows_MD.mul_(scale_D).add_(shift_D)
        return self.vid_out(rows_MD)


class DiT(_Trunk):
    """The model as trained, for any text and timestep; what `FoldedDiT` is compared with."""

    def __init__(self, config: DiTConfig, *, dtype: torch.dtype = torch.float32) -> None:
        """Build with arbitrary values; `load_plain` gives it a checkpoint's.

        Args:
            config: architecture.
            dtype: of the Linears; vectors, first and last Linear and the residual are float32.
        """
        super().__init__(config, folded=False, dtype=dtype)
        self.txt_in = nn.Linear(config.text_dim, config.width, dtype=dtype)
        self.emb_in = TimeEmbedding(config, dtype=dtype)
        self.requires_grad_(False)

    def forward(
        self,
        vid_THWC: Tensor,
        text_LX: Tensor,
        timestep: float = 1000.0,
        *,
        tables: DiTTables | None = None,
    ) -> Tensor:
        """Predict the velocity.

        Args:
            vid_THWC: noise, condition and mask (T, H, W, 33); H and W even.
            text_LX: text embedding (L, 5120).
            timestep: in [0, 1000].
            tables: from `make_tables` for this size; None makes them.

        Returns:
            (T, H, W, 16) float32.

        Raises:
            PlanError: shapes do not fit.
        """
        text_LD = self.txt_in(text_LX.to(self.txt_in.weight.dtype)).float()
        emb_6D = self.emb_in(torch.tensor([timestep], device=vid_THWC.device))[0]
        if tables is None:
            tables = make_tables(
                self.config, _latent_size(vid_THWC), text_LX.shape[0], device=vid_THWC.device
            )
        return self._run(vid_THWC, text_LD, emb_6D, tables)


class FoldedDiT(_Trunk):
    """The model for one text and one timestep; see fold.py."""

    text_LD: Tensor

    def __init__(
        self, config: DiTConfig, *, text_len: int, dtype: torch.dtype = torch.float32
    ) -> None:
        """Build with arbitrary values; `fold.load_folded` gives it a checkpoint's.

        Args:
            config: architecture.
            text_len: tokens of the text.
            dtype: of the Linears; vectors, first and last Linear and the residual are float32.
        """
        super().__init__(config, folded=True, dtype=dtype)
        self.register_buffer("text_LD", torch.zeros(text_len, config.width))
        self.requires_grad_(False)

    def forward(self, vid_THWC: Tensor, *, tables: DiTTables | None = None) -> Tensor:
        """Predict the velocity; as `DiT.forward` with the text and timestep folded in."""
        if tables is None:
            tables = make_tables(
                self.config,
                _latent_size(vid_THWC),
                self.text_LD.shape[0],
                device=vid_THWC.device,
            )
        return self._run(vid_THWC, self.text_LD, None, tables)


def _latent_size(vid_THWC: Tensor) -> tuple[int, int, int]:
    num_frames, height, width, _ = vid_THWC.shape
    return num_frames, height, width


def permute_rows_(x_ND: Tensor, rows_N: Tensor) -> None:
    """x = x[rows] in place, some columns at a time: needs a fraction of a second copy."""
    for columns in x_ND.split(PERMUTE_COLUMNS, dim=1):
        columns.copy_(columns.index_select(0, rows_N))


def expected_keys(config: DiTConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a checkpoint's tensors, rope buffers included.

    The buffers are in public files and are never read (see rope.py).
    """
    with torch.device("meta"):
        shapes = {name: tuple(t.shape) for name, t in DiT(config).state_dict().items()}
    num_freqs = rope.num_frequencies(config.rope, config.head_dim)
    for layer in range(config.num_layers):
        shapes[f"blocks.{layer}.{ROPE_BUFFER}"] = (num_freqs,)
    return shapes


def check_keys(config: DiTConfig, names: Mapping[str, object]) -> None:
    """Refuse a checkpoint with missing or unknown tensors; rope buffers may be absent.

    Raises:
        CheckpointError: with the first names of both kinds.
    """
    expected = expected_keys(config)
    missing = [n for n in expected if n not in names and not n.endswith(ROPE_BUFFER)]
    unknown = [n for n in names if n not in expected]
    if missing or unknown:
        raise CheckpointError(
            f"not a checkpoint of this model: {len(missing)} tensors missing {missing[:3]}, "
            f"{len(unknown)} unknown {unknown[:3]}; check that file and model belong together"
        )


def load_plain(
    config: DiTConfig,
    tensors: Mapping[str, Tensor],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> DiT:
    """A `DiT` with a checkpoint's tensors, strictly; shares their memory where dtypes agree.

    Raises:
        CheckpointError: names or shapes differ.
    """
    check_keys(config, tensors)
    with torch.device("meta"):
        model = DiT(config, dtype=dtype)
    assign_state(model, {name: tensors[name] for name in model.state_dict()}, device=device)
    return model


def assign_state(
    model: nn.Module, state: Mapping[str, Tensor], *, device: torch.device | str
) -> None:
    """Give a model made on "meta" its tensors, in its own dtypes.

    Raises:
        CheckpointError: names or shapes differ.
    """
    wanted = model.state_dict()
    try:
        model.load_state_dict(
            {n: t.to(device, wanted[n].dtype if n in wanted else None) for n, t in state.items()},
            strict=True,
            assign=True,
        )
    except RuntimeError as error:
        raise CheckpointError(f"tensors do not fit the model: {error}") from error
    model.requires_grad_(False)
    model.eval()
