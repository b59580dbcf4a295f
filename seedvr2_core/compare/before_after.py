"""The before/after picture of a finished job: the same part of one frame, twice, with labels.

Of a job that makes one picture it is the whole picture: there the details are all that counts.

moviepy enlarges the source, and reads a short output, which is upright and has square pixels. The
source is read by our own reader, because moviepy turns and stretches pictures wrongly; so is the
output of a job that still has its segments, because moviepy reads a hundred frames on its way to
the middle.
"""

from fractions import Fraction
from pathlib import Path

import numpy as np
from moviepy import ImageClip, VideoFileClip
from PIL import Image

from seedvr2_core.beat import Beat, no_beat
from seedvr2_core.compare.label import drawn_label
from seedvr2_core.errors import InvalidVideoError
from seedvr2_core.files.durable import replace_file
from seedvr2_core.frames import Frame
from seedvr2_core.video.alpha.colours import as_shown, each_plane, shown
from seedvr2_core.video.info import VideoInfo
from seedvr2_core.video.output.sequence import is_sequence, picture_of
from seedvr2_core.video.picture.opening import look_at_picture
from seedvr2_core.video.probe import probe_video
from seedvr2_core.video.reader import read_frames

MAX_HEIGHT = 720
MAX_WHOLE = (3840, 2160)
"""Width and height of each half where a single picture is shown whole."""
QUALITY, WHOLE_QUALITY = 85, 94
"""Of the JPEG. The page lays both halves over each other, so what it loses is seen."""
DIVIDER_PX = 4
LABEL_SHARE = 24
"""The letters' height is this part of the picture's height, and at least MIN_LABEL_PX."""
MIN_LABEL_PX = 12
LETTERS = 6
"""Of the longer word: where a picture is high and narrow, it must not reach into the other half."""
STEPS = 4
"""Of the drawing: the result is read, the source is read, both are drawn, the file is written."""


def write_before_after(
    source: Path,
    info: VideoInfo,
    output: Path,
    picture: Path,
    *,
    restored: tuple[int, Frame] | None = None,
    beat: Beat = no_beat,
) -> None:
    """Write a JPEG of a frame's middle: left before (enlarged by Lanczos), right after.

    Where the output is a single picture, all of it is shown.

    Args:
        source: the job's source.
        info: of the source.
        output: the joined video.
        picture: where the JPEG goes; complete or absent.
        restored: the frame that is shown, by its index in the source, as the output has it, so
            that the output need not be read; None: the middle one, and moviepy reads it.
        beat: sign of life, after each step, and while the source is read on the way to the frame.

    Raises:
        InvalidVideoError: a frame could not be read.
    """
    if restored is None:
        index = info.num_frames // 2
        after = _restored_frame(output, info, index)
    else:
        index, frame = restored
        after = as_shown(frame)
    beat("picture", 1, STEPS)
    height, width, _ = after.shape

    def read(done: int, total: int) -> None:
        beat("picture", max(1, total) + done, STEPS * max(1, total))

    alpha = info.keeps_alpha
    before = next(read_frames(source, info, index, index + 1, alpha=alpha, on_bytes=read))
    beat("picture", 2, STEPS)
    enlarged = _enlarged(before, width, height)
    whole = info.num_frames == 1 and look_at_picture(output) is not None
    part = slice(0, width) if whole else slice(width // 4, width // 4 + width // 2)
    labelled = _sheet(enlarged[:, part], after[:, part], MAX_WHOLE if whole else None)
    beat("picture", 3, STEPS)
    _write_label(labelled, "before", left=0)
    _write_label(labelled, "after", left=(labelled.shape[1] + DIVIDER_PX) // 2)
    unfinished = picture.with_name(picture.stem + ".part.jpg")
    image = Image.fromarray(labelled)
    image.save(unfinished, quality=WHOLE_QUALITY if whole else QUALITY, subsampling=0)
    replace_file(unfinished, picture)


def _sheet(before: np.ndarray, after: np.ndarray, most: tuple[int, int] | None) -> np.ndarray:
    """Both pictures beside each other, with a white line between them.

    Each is made smaller by itself, so that the line keeps its width and the page finds the halves.

    Args:
        before: (H, W, 3) uint8.
        after: the same size.
        most: width and height that each may have at most; None: only the height is limited.

    Returns:
        (H', W', 3) uint8.
    """
    height, width, _ = after.shape
    least = MAX_HEIGHT if most is None else min(most[1], round(height * most[0] / width))
    if height > least:
        size = (max(1, round(width * least / height)), max(1, least))
        before, after = (_smaller(picture, size) for picture in (before, after))
    divider = np.full((len(after), DIVIDER_PX, 3), 255, np.uint8)
    return np.concatenate([before, divider, after], axis=1)


def _smaller(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    image = Image.fromarray(np.ascontiguousarray(picture))
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS))


def _write_label(sheet: np.ndarray, text: str, *, left: int) -> None:
    """Write a word on black into the top corner of the part that begins at column `left`.

    Args:
        sheet: (H, W, 3) uint8, changed in place.
        text: the word.
        left: first column of the part.
    """
    height, width, _ = sheet.shape
    letters = max(MIN_LABEL_PX, min(height // LABEL_SHARE, width // 2 // LETTERS))
    label = drawn_label(text, letters)
    place = sheet[: label.shape[0], left : left + label.shape[1]]
    place[:] = label[: place.shape[0], : place.shape[1]]


def _enlarged(frame: Frame, width: int, height: int) -> np.ndarray:
    """A frame by Lanczos, as people are to see it."""

    def resized(picture: np.ndarray) -> np.ndarray:
        colours = picture if picture.ndim > 2 else np.dstack([picture] * 3)
        large = np.asarray(ImageClip(colours).resized((width, height)).get_frame(0))
        return large if picture.ndim > 2 else large[:, :, 0]

    return as_shown(each_plane(frame, resized))


def _restored_frame(output: Path, info: VideoInfo, index: int) -> np.ndarray:
    """(H, W, 3) uint8, the frame shown at the time of frame `index`."""
    alpha = info.keeps_alpha
    if is_sequence(output):
        pixels = picture_of(output, index)
        return shown(pixels[:, :, :3], pixels[:, :, 3]) if pixels.shape[2] > 3 else pixels
    if look_at_picture(output) is not None:
        return as_shown(next(read_frames(output, probe_video(output), 0, 1, alpha=alpha)))
    time = float((info.pts[index] - info.pts[0]) * Fraction(*info.time_base))
    try:
        with VideoFileClip(str(output), audio=False, has_mask=alpha) as clip:
            # moviepy keeps its own clock from 0; a frame more or less does not matter here.
            time = min(time, max(0.0, clip.duration - 0.1))
            rgb = np.asarray(clip.get_frame(time))
            if not alpha:
                return rgb
            return shown(rgb, np.rint(np.asarray(clip.mask.get_frame(time)) * 255).astype(np.uint8))
    except (OSError, ValueError) as error:
        raise InvalidVideoError(f"moviepy reads no frame of {output.name}: {error}") from error
