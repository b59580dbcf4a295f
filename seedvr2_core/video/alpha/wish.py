"""What becomes of a source's alpha: the words of a request, and what they mean for a video.

Alpha is kept, or the video is put on a colour, or it is refused; whether the codec holds alpha is
for the plan to say (`planning/outputs.py`). Nothing here imports av or numpy.
"""

import re
from dataclasses import replace

from seedvr2_core.errors import InvalidRequestError
from seedvr2_core.video.alpha.facts import KEEP
from seedvr2_core.video.info import VideoInfo

AUTO, FLATTEN, REFUSE = "auto", "flatten", "refuse"
ALPHA_WORDS = (AUTO, KEEP, FLATTEN, REFUSE)
ALPHA_PATTERN = "^(auto|keep|refuse|flatten(:#?[0-9a-fA-F]{6})?)$"
ALPHA_EXAMPLES = (*ALPHA_WORDS, "flatten:#ffffff")
BLACK = "#000000"
_WISH = re.compile(ALPHA_PATTERN)


def parse_alpha(text: str) -> str:
    """A wish as jobs keep it: one of `ALPHA_WORDS`, or "flatten:#ffffff" with a colour.

    Raises:
        ValueError: it is none; which ones there are.
    """
    given = text.strip().lower()
    if not _WISH.fullmatch(given):
        raise ValueError(f"choose {', '.join(ALPHA_WORDS)}, or a colour as flatten:#ffffff has it")
    word, _, colour = given.partition(":")
    colour = f"#{colour.removeprefix('#')}"
    return word if colour in ("#", BLACK) else f"{word}:{colour}"


def treated(video: VideoInfo, wish: str) -> VideoInfo:
    """The video with what becomes of its alpha, and a sentence about that.

    Args:
        video: from the probe.
        wish: as `parse_alpha` takes it.

    Raises:
        InvalidRequestError: it is transparent, and that is refused.
    """
    facts = video.alpha
    if facts.unread:
        return _without_layer(video, wish)
    if not facts.looked_at:
        return video
    word, _, colour = parse_alpha(wish).partition(":")
    if facts.transparent and word == REFUSE:
        raise InvalidRequestError(
            "the source is transparent in places (alpha), and alpha refuse was asked for; choose "
            "alpha keep, with a codec that holds it, or alpha flatten"
        )
    if word == KEEP or (word == AUTO and facts.transparent):
        return _with(
            video,
            KEEP,
            "the source has alpha, which is kept: it is resized by Lanczos, and where nothing "
            "shows the colour is made of what is around",
        )
    colour = colour or BLACK
    on = "black" if colour == BLACK else colour
    if facts.transparent:
        return _with(video, colour, f"the source is transparent in places; it is put on {on}")
    if facts.looked_at >= video.num_frames:
        return video  # nothing shows through anywhere
    return _with(
        video,
        colour,
        f"the pixel format has alpha, but the {facts.looked_at} frames that were looked at are "
        f"opaque; what is transparent elsewhere is put on {on} (alpha keep would keep it)",
    )


def _without_layer(video: VideoInfo, wish: str) -> VideoInfo:
    """A video whose alpha cannot be read: never flattened without a word.

    Raises:
        InvalidRequestError: alpha was to be kept, or refused.
    """
    what = "the source has alpha in a layer beside its pictures (HEVC with alpha)"
    instead = "convert it to ProRes 4444 with a program that reads that layer, as those of Apple do"
    word = parse_alpha(wish).partition(":")[0]
    if word == REFUSE:
        raise InvalidRequestError(f"{what}, and alpha refuse was asked for")
    if word == KEEP:
        raise InvalidRequestError(f"{what}, which cannot be read here, nor kept; {instead}")
    told = f"{what}, which cannot be read here and is lost: its pictures are restored as they are"
    return replace(video, warnings=(*video.warnings, f"{told}; to keep it, {instead}"))


def _with(video: VideoInfo, alpha: str, told: str) -> VideoInfo:
    reading = replace(video.reading, alpha=alpha)
    return replace(video, reading=reading, warnings=(*video.warnings, told))
