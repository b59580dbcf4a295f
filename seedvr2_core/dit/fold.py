"""Folding: text and timestep are constants in production, so their modulation becomes weights.

With scale s, shift b and gate g of a layer: W (x s + b) = (W diag(s)) x + W b, and
g (W h + c) = (diag(g) W) h + g c. Exact but for rounding; done in float32 on the target device,
one tensor at a time. The last layer keeps only what the video needs; with output modulation (3B)
its text weights stay unfolded, since that text is not modulated.

Shape legend: L text tokens, X text input channels, D width.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedvr2_core.config import DiTConfig
from seedvr2_core.dit.attention import layer_streams, without_text
from seedvr2_core.dit.layers import TimeEmbedding
from seedvr2_core.dit.model import FoldedDiT, assign_state, check_keys, expected_keys
from seedvr2_core.dit.modulation import BlockModulation, Modulation, OutputModulation
from seedvr2_core.errors import CheckpointError

FOLD_VERSION = 1
"""Raised by hand when the same checkpoint folds to other numbers: files of folded weights that were
kept (weights/fold_cache.py) are then made again."""

_Get = Callable[[str], Tensor]
Named = Iterator[tuple[str, Tensor]]


class Assign(Protocol):
    """As `assign_state`."""

    def __call__(
        self, model: nn.Module, state: Mapping[str, Tensor], *, device: torch.device | str
    ) -> None:
        """Give a model made on "meta" its tensors."""
        ...


def load_folded(
    config: DiTConfig,
    tensors: Mapping[str, Tensor],
    text_LX: Tensor,
    *,
    timestep: float = 1000.0,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    place: torch.device | str | None = None,
    assign: Assign = assign_state,
) -> FoldedDiT:
    """The production model from a checkpoint's tensors.

    Args:
        config: architecture.
        tensors: name -> tensor of any float dtype; may read lazily, each is asked for at most
            three times.
        text_LX: embedding of the one text, (58, 5120) for the public models.
        timestep: in [0, 1000].
        dtype: of the Linears.
        device: where the model will run; folding happens there.
        place: where its tensors lie; None: there too.
        assign: gives the model its tensors. Another one than the usual may know weights that are
            no tensors (weights/quantized.py), which folding multiplies, moves and casts alike.

    Raises:
        CheckpointError: names or shapes differ.
    """
    check_keys(config, tensors)
    with torch.device("meta"):
        model = FoldedDiT(config, text_len=text_LX.shape[0], dtype=dtype)
    wanted = model.state_dict()
    folded = fold_tensors(config, tensors, text_LX, timestep=timestep, device=device)
    place = device if place is None else place
    state = {name: value.to(wanted[name].dtype).to(place) for name, value in folded}
    assign(model, state, device=place)
    return model


def load_kept(
    config: DiTConfig,
    tensors: Iterable[tuple[str, Tensor]],
    text_len: int,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
) -> FoldedDiT:
    """The production model from tensors that were folded before.

    Args:
        config: architecture.
        tensors: all of a `FoldedDiT`'s, on the device or on the host, in page-locked memory.
        text_len: tokens of the text.
        dtype: of the Linears.
        device: where the model will run.

    Raises:
        CheckpointError: names, shapes or dtypes differ.
    """
    with torch.device("meta"):
        model = FoldedDiT(config, text_len=text_len, dtype=dtype)
    wanted = model.state_dict()
    state: dict[str, Tensor] = {}
    for name, tensor in tensors:
        if name not in wanted or wanted[name].dtype != tensor.dtype:
            raise CheckpointError(f"{name} of {tensor.dtype} is no folded tensor of this model")
        state[name] = tensor.to(device, non_blocking=tensor.is_pinned())
    assign_state(model, state, device=device)
    return model


def order_of_reads(config: DiTConfig, text_shape: tuple[int, ...]) -> list[str]:
    """Names in the order in which `load_folded` asks for them, from a run without data."""
    asked: list[str] = []
    shapes = expected_keys(config)

    class Recorded(Mapping[str, Tensor]):
        def __getitem__(self, name: str) -> Tensor:
            asked.append(name)
            return torch.empty(shapes[name], device="meta")

        def __iter__(self) -> Iterator[str]:
            return iter(shapes)

        def __len__(self) -> int:
            return len(shapes)

    text_LX = torch.empty(text_shape, device="meta")
    for _ in fold_tensors(config, Recorded(), text_LX, device="meta"):
        pass
    return asked


def fold_tensors(
    config: DiTConfig,
    tensors: Mapping[str, Tensor],
    text_LX: Tensor,
    *,
    timestep: float = 1000.0,
    device: torch.device | str = "cpu",
) -> Named:
    """Yield the tensors of a `FoldedDiT` in float32 on the device, one at a time."""

    def get(name: str) -> Tensor:
        return tensors[name].to(device).float()

    text_X = text_LX.to(device).float()
    yield "text_LD", F.linear(text_X, get("txt_in.weight"), get("txt_in.bias"))
    yield "vid_in.proj.weight", get("vid_in.proj.weight")
    yield "vid_in.proj.bias", get("vid_in.proj.bias")
    emb_6D = _time_embedding(config, get, timestep, device)
    for layer in range(config.num_layers):
        yield from _fold_block(config, layer, get, emb_6D)
    yield from _fold_output(config, get, emb_6D)


def _time_embedding(
    config: DiTConfig, get: _Get, timestep: float, device: torch.device | str
) -> Tensor:
    with torch.device("meta"):
        embed = TimeEmbedding(config)
    assign_state(embed, {n: get(f"emb_in.{n}") for n in embed.state_dict()}, device=device)
    return embed(torch.tensor([timestep], device=device))[0]


def _fold_output(config: DiTConfig, get: _Get, emb_6D: Tensor) -> Named:
    weight, bias = get("vid_out.proj.weight"), get("vid_out.proj.bias")
    if config.output_modulation:
        with torch.device("meta"):
            ada = OutputModulation(config.width)
        state = {n: get(f"vid_out_ada.{n}") for n in ada.state_dict()}
        assign_state(ada, state, device=emb_6D.device)
        shift_D, scale_D = ada(emb_6D)
        bias = bias + weight @ shift_D
        weight = weight * (get("vid_out_norm.weight") * scale_D)
    yield "vid_out.proj.weight", weight
    yield "vid_out.proj.bias", bias


def _fold_block(config: DiTConfig, layer: int, get: _Get, emb_6D: Tensor) -> Named:
    prefix = f"blocks.{layer}."
    streams = layer_streams(config, layer)
    is_last = layer == config.num_layers - 1
    text_is_plain = is_last and config.output_modulation
    for stream in without_text(streams) if is_last else streams:
        attn, mlp = _block_modulations(config, f"{prefix}ada.{stream}.", get, emb_6D)
        folded = "vid" if text_is_plain else stream
        yield from _fold_in(prefix + "attn.proj_qkv", stream, get, attn, target=folded)
        yield from _fold_out(f"{prefix}attn.proj_out.{stream}", get, attn, bias=True)
        yield f"{prefix}attn.norm_q.{stream}.weight", get(f"{prefix}attn.norm_q.{stream}.weight")
        yield from _fold_mlp(config, f"{prefix}mlp.", stream, get, mlp)
    for stream in streams:
        yield f"{prefix}attn.norm_k.{stream}.weight", get(f"{prefix}attn.norm_k.{stream}.weight")
    if text_is_plain:
        yield (
            prefix + "attn.proj_qkv.txt.weight",
            get(f"{prefix}attn.proj_qkv.{streams[-1]}.weight"),
        )
    elif is_last and "txt" in streams:
        attn, _ = _block_modulations(config, f"{prefix}ada.txt.", get, emb_6D)
        yield from _fold_in(prefix + "attn.proj_qkv", "txt", get, attn, target="txt")


def _block_modulations(
    config: DiTConfig, prefix: str, get: _Get, emb_6D: Tensor
) -> tuple[Modulation, Modulation]:
    """(attention, MLP) vectors of a stream."""
    with torch.device("meta"):
        ada = BlockModulation(config.width)
    assign_state(ada, {n: get(prefix + n) for n in ada.state_dict()}, device=emb_6D.device)
    return ada(emb_6D, "attn"), ada(emb_6D, "mlp")


def _fold_mlp(
    config: DiTConfig, prefix: str, stream: str, get: _Get, modulation: Modulation
) -> Named:
    has_bias = config.mlp == "gelu"
    for name in ("proj_in",) if has_bias else ("proj_in_gate", "proj_in"):
        weight = get(f"{prefix}{stream}.{name}.weight")
        bias = weight @ modulation.shift_D
        yield f"{prefix}{stream}.{name}.weight", weight * modulation.scale_D
        if has_bias:
            bias += get(f"{prefix}{stream}.{name}.bias")
        yield f"{prefix}{stream}.{name}.bias", bias
    yield from _fold_out(f"{prefix}{stream}.proj_out", get, modulation, bias=has_bias)


def _fold_in(name: str, stream: str, get: _Get, modulation: Modulation, *, target: str) -> Named:
    """Scale and shift go into a Linear without bias."""
    weight = get(f"{name}.{stream}.weight")
    yield f"{name}.{target}.bias", weight @ modulation.shift_D
    yield f"{name}.{target}.weight", weight * modulation.scale_D


def _fold_out(name: str, get: _Get, modulation: Modulation, *, bias: bool) -> Named:
    """The gate goes into the Linear before it."""
    yield name + ".weight", get(name + ".weight") * modulation.gate_D[:, None]
    if bias:
        yield name + ".bias", get(name + ".bias") * modulation.gate_D
