"""How many bytes convolutions need that are cut into strips of rows; arithmetic without torch."""

# Figures of conv.py, which imports torch; a test compares them.
CONV_ELEMENTS = 2**31 - 1
"""conv.MAX_ELEMENTS."""
STRIP_ELEMENTS = 1 << 27
"""conv.STRIP_ELEMENTS."""
CHANNEL_STEP = 8
"""conv.CHANNEL_STEP."""
_TAPS = _KERNEL = 3
_FLOAT32 = 4


def band_bytes(
    channels: tuple[int, int], frames: int, size: tuple[int, int], itemsize: int, *, on_cpu: bool
) -> int:
    """What is held of a causal 3x3x3 convolution's input at once where frames are worked in bands
    of rows; 0 where they are not (conv.band_rows).

    Args:
        channels: of input and output.
        frames: new ones.
        size: (height, width) of the level.
        itemsize: bytes of an element.
        on_cpu: with what a CPU adds: the temporal taps side by side, and a band of the result.
    """
    before, after = channels
    height, width = size
    given = _TAPS - 1 + frames
    row = width * max(before * given, after * frames)
    if before % CHANNEL_STEP or row * (height + _KERNEL) <= STRIP_ELEMENTS:
        return 0
    rows = max(1, STRIP_ELEMENTS // row - _KERNEL)
    made = rows * width * after * frames
    numbers = (rows + _KERNEL - 1) * width * before * given
    if on_cpu:
        numbers += (rows + _KERNEL - 1) * width * before * frames * _TAPS + made
    elif frames > 1 or after % CHANNEL_STEP:
        numbers += made  # is copied to its place
    return numbers * itemsize + frames * 2 * before * _FLOAT32  # and the norm's statistics


def part_bytes(
    given: int,
    out: int,
    frames: int,
    out_frames: int,
    *,
    taps: int,
    height: int,
    itemsize: int,
    on_cpu: bool,
) -> int:
    """Where a tensor is too large for a kernel: the part of the result that is copied into it, and,
    where parts are strips of rows, the rows that one reads.

    A GPU copies no part that is some whole frames (conv.py). Where it has to, on one without cuDNN,
    parts are as small as what is reserved for convolutions.

    Args:
        given: bytes of the input.
        out: of the result.
        frames: of the input.
        out_frames: of the result.
        taps: frames that an output reads.
        height: of the padded picture.
        itemsize: bytes of an element.
        on_cpu: whether a CPU works.
    """
    most = CONV_ELEMENTS * itemsize
    # Three rows more are read than made.
    share = most / (max(given, out) * (1 + 3 / height))
    if share >= 1:
        return 0
    at_once = min(most * frames // given - taps + 1, most * out_frames // out)
    if at_once >= 1 and not on_cpu:
        return 0
    # A GPU writes a strip of one frame where it belongs (conv.py).
    direct = out_frames == 1 and not on_cpu
    share *= 1 if on_cpu else min(1, STRIP_ELEMENTS / CONV_ELEMENTS)
    rows = max(1, int(share * (height + 3)) - 3)
    return ((rows + 2) * given + (0 if direct else rows * out)) // height
