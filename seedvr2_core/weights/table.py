"""The public weights: repositories, files, digests, and which parts a model needs. Plain data.

Source: digests of conversions from a public model registry, digests of ByteDance's own files (the
masters) from public listings of their repositories, file names from the original inference scripts.
We have opened none of them; nothing was downloaded to write this. Left out is numz' plain fp8 file
of the 7B, which the mixed one replaced. All files of one part hold the same tensor names.

ByteDance replaced its 3B on 2025-06-22. The fp16 and fp8 conversions in circulation were made
before and hold the first weights: in all 635 tensors, as a public comparison found. `seedvr2-3b`
means the master of 2025-06-22. The first ones are told by digest and by file name alone: nobody
publishes values of theirs by which a file that was packed anew could be told. Which of the two the
GGUF conversions hold is not known to us.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Precision = Literal["fp16", "fp8", "original", "q8_0", "q4_k_m"]

VAE = "vae"
TEXT = "pos_emb"
NEGATIVE_TEXT = "neg_emb"
"""A public file beside the others, so it is recognised; no model here reads it."""
SHARP = "-sharp"
"""Ending of the sharp 7B's part, whose tensors have the names and shapes of the 7B."""

FIRST_3B = "first 3B weights, replaced by their publisher"
"""What is said wherever such a file is used."""
UNTRACED_3B = (
    "which 3B weights it holds is not known: its digest is not that of the publisher's file of "
    "2025-06-22"
)
"""What is said of a 3B file that no listing vouches for."""
UPDATED = "dit-3b"
"""The part of which there are two generations."""

MODEL_PARTS: Mapping[str, tuple[str, ...]] = {
    "seedvr2-3b": ("dit-3b", VAE, TEXT),
    "seedvr2-7b": ("dit-7b", VAE, TEXT),
    "seedvr2-7b-sharp": ("dit-7b" + SHARP, VAE, TEXT),
    "seedvr2-1.4b": ("dit-1.4b", VAE, TEXT),
}
"""Model -> the parts it reads: transformer, VAE, positive text embedding."""

_FP16_REPO = "numz/SeedVR2_comfyUI"
_MORE_REPO = "AInVFX/SeedVR2_comfyUI"
_3B_REPO = "ByteDance-Seed/SeedVR2-3B"
_7B_REPO = "ByteDance-Seed/SeedVR2-7B"
_DISTILLED_REPO = "lvladikov/SeedVR2-1.4B"
_DISTILLED = "seedvr2_distill_6l_1.4b"
"""How names of its files begin, in lower case."""


def model_of_file(value: object) -> object:
    """The model whose checkpoint has that file name, as the old service named models. Any other
    name comes back in lower case, and what is no name as it is."""
    if isinstance(value, str) and value.lower().startswith(_DISTILLED):
        return "seedvr2-1.4b"
    if not isinstance(value, str) or not value.lower().startswith("seedvr2_ema_"):
        return value.lower() if isinstance(value, str) else value
    name = value.lower()
    size = "3b" if "_3b" in name else "7b"
    return f"seedvr2-{size}{SHARP}" if "sharp" in name else f"seedvr2-{size}"


def with_named_file(given: Any) -> Any:
    """A request's fields; where `model` is the name of a file that serves only those who name it,
    that file is named in `weights_file` too."""
    model = str(given.get("model")).lower() if isinstance(given, Mapping) else ""
    rows = (row for row in PUBLIC_FILES if row.superseded and row.file == model)
    named = next(rows, None)
    if named is None or given.get("weights_file"):
        return given
    return {**given, "weights_file": named.file}


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicFile:
    """A file that anyone can download."""

    file: str
    repo: str
    """owner/name on the hub."""
    part: str
    """dit-3b, dit-7b, dit-7b-sharp, dit-1.4b, vae, pos_emb or neg_emb."""
    precision: Precision
    sha256: str | None = None
    """The publisher's digest; None where it is not known to us."""
    num_bytes: int | None = None
    """Its size, where a listing tells it."""
    superseded: str = ""
    """Why it is used only by those who name it; "" for all others."""


PUBLIC_FILES: tuple[PublicFile, ...] = (
    PublicFile(
        file="seedvr2_ema_3b_fp16.safetensors",
        repo=_FP16_REPO,
        part="dit-3b",
        precision="fp16",
        sha256="2fd0e03a3dad24e07086750360727ca437de4ecd456f769856e960ae93e2b304",
        superseded=FIRST_3B,
    ),
    PublicFile(
        file="seedvr2_ema_3b_fp8_e4m3fn.safetensors",
        repo=_FP16_REPO,
        part="dit-3b",
        precision="fp8",
        sha256="3bf1e43ebedd570e7e7a0b1b60d6a02e105978f505c8128a241cde99a8240cff",
        superseded=FIRST_3B,
    ),
    PublicFile(
        file="seedvr2_ema_3b.pth",
        repo=_3B_REPO,
        part="dit-3b",
        precision="original",
        sha256="6bcc5ac59447e97b100477480aebb01be2ec724c8340bb83faae21f64848604b",
        num_bytes=13_566_090_228,
    ),
    PublicFile(
        file="seedvr2_ema_3b-Q8_0.gguf",
        repo=_MORE_REPO,
        part="dit-3b",
        precision="q8_0",
        sha256="be0d60083a2051a265eb4b77f28edf494e6db67ffc250216f32b72292e5cbd96",
    ),
    PublicFile(
        file="seedvr2_ema_3b-Q4_K_M.gguf",
        repo=_MORE_REPO,
        part="dit-3b",
        precision="q4_k_m",
        sha256="e665e3909de1a8c88a69c609bca9d43ff5a134647face2ce4497640cc3597f0e",
    ),
    PublicFile(
        file="seedvr2_ema_7b_fp16.safetensors",
        repo=_FP16_REPO,
        part="dit-7b",
        precision="fp16",
        sha256="7b8241aa957606ab6cfb66edabc96d43234f9819c5392b44d2492d9f0b0bbe4a",
    ),
    PublicFile(
        file="seedvr2_ema_7b_fp8_e4m3fn_mixed_block35_fp16.safetensors",
        repo=_MORE_REPO,
        part="dit-7b",
        precision="fp8",
        sha256="3d68b5ec0b295ae28092e355c8cad870edd00b817b26587d0cb8f9dd2df19bb2",
    ),
    PublicFile(
        file="seedvr2_ema_7b.pth",
        repo=_7B_REPO,
        part="dit-7b",
        precision="original",
        sha256="e1b2ae25505607e61f2a7dc7967ba778aaf3e3626d9969ce6e24c52d9ddebfcd",
    ),
    PublicFile(
        file="seedvr2_ema_7b-Q4_K_M.gguf",
        repo=_MORE_REPO,
        part="dit-7b",
        precision="q4_k_m",
        sha256="db9cb2ad90ebd40d2e8c29da2b3fc6fd03ba87cd58cbadceccca13ad27162789",
    ),
    PublicFile(
        file="seedvr2_ema_7b_sharp_fp16.safetensors",
        repo=_FP16_REPO,
        part="dit-7b" + SHARP,
        precision="fp16",
        sha256="20a93e01ff24beaeebc5de4e4e5be924359606c356c9c51509fba245bd2d77dd",
    ),
    PublicFile(
        file="seedvr2_ema_7b_sharp_fp8_e4m3fn_mixed_block35_fp16.safetensors",
        repo=_MORE_REPO,
        part="dit-7b" + SHARP,
        precision="fp8",
        sha256="0d2c5b8be0fda94351149c5115da26aef4f4932a7a2a928c6f184dda9186e0be",
    ),
    PublicFile(
        file="seedvr2_ema_7b_sharp.pth",
        repo=_7B_REPO,
        part="dit-7b" + SHARP,
        precision="original",
        sha256="ced5706c976d5879efcab9e108349d67abcbd8a9b36a1f48bf0f19c24164a264",
    ),
    PublicFile(
        file="seedvr2_ema_7b_sharp-Q4_K_M.gguf",
        repo=_MORE_REPO,
        part="dit-7b" + SHARP,
        precision="q4_k_m",
        sha256="7aed800ac4eb8e0d18569a954c0ff35f5a1caa3ed5d920e66cc31405f75b6e69",
    ),
    PublicFile(
        file="seedvr2_distill_6L_1.4B_sharp_fp16.safetensors",
        repo=_DISTILLED_REPO,
        part="dit-1.4b",
        precision="fp16",
        num_bytes=2_885_236_568,
    ),
    PublicFile(
        file="ema_vae_fp16.safetensors",
        repo=_FP16_REPO,
        part=VAE,
        precision="fp16",
        sha256="20678548f420d98d26f11442d3528f8b8c94e57ee046ef93dbb7633da8612ca1",
    ),
    PublicFile(
        file="ema_vae.pth",
        repo=_3B_REPO,
        part=VAE,
        precision="original",
        sha256="c7df8a67e68b7f9aca3d5d2153d2ce8ab4373687741a0f9ce87cb356ace51cac",
    ),
    PublicFile(
        file="pos_emb.pt",
        repo=_3B_REPO,
        part=TEXT,
        precision="original",
        sha256="fa07a14844314772266b66c3b95deb0027696d8fe7065721263db5176f45d799",
    ),
    PublicFile(
        file="neg_emb.pt",
        repo=_3B_REPO,
        part=NEGATIVE_TEXT,
        precision="original",
        sha256="6a43e5800ef2354f1c156d27535834da055cbec8248298b8923492bba2076581",
    ),
)
