"""Which of the small engines suits a source: the measured sign is how much it was compressed.

SPAN draws finest, but what coding has added to a picture it draws finer as well. waifu2x takes that
away, and with it the finest detail of a source that is nearly as it was filmed. On seven clips,
halved and coded at five to seven qualities, the bits that were left for a pixel told best which
one comes closer to the original (`benchmarks/media/small_engines.py`): with fewer than the limits
here that is waifu2x. A smooth source takes few bits too, even where it was coded well, and there
waifu2x is no worse.
"""

FEW_BITS = 0.5
"""Bits per pixel of codecs that code differences between pictures: MPEG-2 to AV1."""
FEW_BITS_ALONE = 1.5
"""Of codecs that code each picture on its own."""
_ALONE = frozenset(("jpeg", "mjpeg", "dvvideo", "prores", "dnxhd", "jpeg2000", "cfhd", "webp"))
_LOSSLESS = frozenset(
    (
        *("ffv1", "huffyuv", "ffvhuff", "utvideo", "rawvideo", "v210", "png", "apng", "tiff"),
        *("bmp", "gif", "qtrle", "magicyuv", "flashsv", "cscd", "zmbv", "exr"),
    )
)


def small_engine(codec: str, bits_per_pixel: float) -> tuple[str, str]:
    """The small engine for a source.

    Args:
        codec: of its video, as FFmpeg names it.
        bits_per_pixel: of its file, over all pictures; 0: nobody counted.

    Returns:
        The engine's name; and why, as part of a sentence ("" if nothing is known).
    """
    if bits_per_pixel <= 0:
        return "span", ""
    if codec in _LOSSLESS:
        return "span", f"the source is coded without loss ({codec})"
    few = FEW_BITS_ALONE if codec in _ALONE else FEW_BITS
    figures = f"{codec}, {bits_per_pixel:.2g} bits per pixel, the limit is {few:g}"
    if bits_per_pixel < few:
        return "waifu2x", f"the source is much compressed ({figures})"
    return "span", f"the source is little compressed ({figures})"
