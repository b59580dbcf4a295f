"""Rungs of memory plans for the tiny networks."""

from seedvr2_core.config import VAE_TINY
from seedvr2_core.planning.rungs.slices import Slices

STRIP = 3 * 8 * 16 * 7
"""Elements of a strip of a band, four rows of a frame at full size."""
AWAY = {"weights_resident": False}
ELSEWHERE: dict[str, dict[str, object]] = {
    "parked": {"park_caches": True, **AWAY},
    "streamed": {"stream_caches": True, "streamed_layers": 3, **AWAY},
    "half": {
        "stream_caches": True,
        "encoder_block_bytes": 16_384,
        "decoder_block_bytes": 16_384,
        "streamed_layers": 1,
    },
    "straight": {"stream_caches": True, "encoder_block_bytes": 0, "decoder_block_bytes": 0, **AWAY},
}
"""What must decide no bit."""


def memory_of(slices: Slices, dtype: str, *, chunk_tokens: int = 0) -> dict[str, object]:
    """What may decide bits, of a rung of encoder and decoder."""
    frames = slices.level_frames(VAE_TINY, (2048, 2048))
    return {
        "vae_dtype": dtype,
        "dit_dtype": dtype,
        "encoder_slice": slices.latents,
        "decoder_slice": slices.latents,
        "encoder_level_frames": frames,
        "decoder_level_frames": frames[::-1],
        "encoder_rings": slices.rings,
        "decoder_rings": slices.rings,
        "encoder_bands": slices.bands,
        "decoder_bands": slices.bands,
        "chunk_tokens": chunk_tokens,
    }
