"""What a file of each part must hold: names and shapes of its tensors.

Importing this module loads no torch.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from seedvr2_core.config import DIT_1_4B, DIT_3B, DIT_7B, VAE_PRODUCTION, DiTConfig, VAEConfig
from seedvr2_core.weights.table import NEGATIVE_TEXT, SHARP, TEXT, VAE

TEXT_SHAPE = (58, 5120)
NEGATIVE_TEXT_SHAPE = (64, 5120)
POSITIVE, NEGATIVE = "positive_conditioning", "negative_conditioning"
"""Names of the text embeddings that some files bring beside the transformer."""

_OLD_ATTENTION = (
    (".query.", ".to_q."),
    (".key.", ".to_k."),
    (".value.", ".to_v."),
    (".proj_attn.", ".to_out.0."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What a file of one part must hold."""

    shapes: Mapping[str, tuple[int, ...]]
    """Name -> shape of what is read."""
    unread: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Tensors that a public file holds too (all of them or none) and that are never read: the rope
    buffers. They lose too much in half precision, so they are computed anew."""
    texts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Text embeddings that a file may bring, each with or without leading axes of length 1."""
    quantizable: Mapping[str, int] = field(default_factory=dict)
    """Weights that may stay quantised in memory, the matrices of the blocks, and how many copies of
    each the folded model holds. All other tensors are small."""
    old_names: tuple[tuple[str, str], ...] = ()
    """Replacements that turn an older convention's names into today's."""
    any_name: bool = False
    """The file holds one tensor, which may have any name."""


Layouts = Callable[[], Mapping[str, Layout]]
"""Gives the layout of each part. A function, because building layouts takes torch and a second."""


@functools.cache
def public_layouts() -> Mapping[str, Layout]:
    """Layouts of the parts that have public weights."""
    return {
        "dit-3b": dit_layout(DIT_3B),
        "dit-7b": dit_layout(DIT_7B),
        "dit-1.4b": dit_layout(DIT_1_4B),
        VAE: vae_layout(VAE_PRODUCTION),
        TEXT: text_layout(TEXT_SHAPE),
        NEGATIVE_TEXT: text_layout(NEGATIVE_TEXT_SHAPE),
    }


def dit_layout(
    config: DiTConfig,
    *,
    text: tuple[int, int] = TEXT_SHAPE,
    negative: tuple[int, int] = NEGATIVE_TEXT_SHAPE,
) -> Layout:
    """Names and shapes of a transformer's tensors, and of the texts that may lie beside them."""
    from seedvr2_core.dit.model import ROPE_BUFFER, expected_keys

    shapes = expected_keys(config)
    unread = {name: shape for name, shape in shapes.items() if name.endswith(ROPE_BUFFER)}
    read = {name: shape for name, shape in shapes.items() if name not in unread}
    return Layout(
        shapes=read,
        unread=unread,
        texts={POSITIVE: text, NEGATIVE: negative},
        quantizable={
            name: _copies(config, name)
            for name, shape in read.items()
            if name.startswith("blocks.") and len(shape) == 2
        },
    )


def _copies(config: DiTConfig, name: str) -> int:
    """How often the folded model (dit/fold.py) holds a block's weight.

    Of the last layer's text only queries, keys and values are used; where it comes unmodulated
    (3B), what is folded for the video is another copy.
    """
    is_last = name.startswith(f"blocks.{config.num_layers - 1}.")
    if is_last and ".proj_qkv.all." in name and config.output_modulation:
        return 2
    return 0 if is_last and ".txt." in name and ".proj_qkv." not in name else 1


def vae_layout(config: VAEConfig) -> Layout:
    """Names and shapes of the VAE's tensors."""
    import torch

    from seedvr2_core.vae.model import VideoVAE

    with torch.device("meta"):
        state = VideoVAE(config).state_dict()
    return Layout(
        shapes={name: tuple(t.shape) for name, t in state.items()}, old_names=_OLD_ATTENTION
    )


def text_layout(shape: tuple[int, int]) -> Layout:
    """A text embedding: one tensor."""
    return Layout(shapes={TEXT: shape}, any_name=True)


def base_part(part: str) -> str:
    """The part whose layout a file of that part has: dit-7b for dit-7b-sharp."""
    return part.removesuffix(SHARP)
