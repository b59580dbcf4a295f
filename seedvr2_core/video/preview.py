"""The before/after picture of a finished job: the same part of one frame, twice, with labels.

moviepy reads the output, which is upright and has square pixels. The source is read by our own
reader, because moviepy turns and stretches pictures wrongly.
"""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from moviepy import ImageClip, TextClip, VideoFileClip, clips_array

from seedvr2_core.beat import Beat, no_beat
from seedvr2_core.errors import InvalidVideoError
from seedvr2_core.files.durable import replace_file
from seedvr2_core.frames import Frame
from seedvr2_core.video._container import look_at_picture
from seedvr2_core.video.alpha.colours import shown
from seedvr2_core.video.info import VideoInfo
from seedvr2_core.video.output.sequence import is_sequence, picture_of
from seedvr2_core.video.probe import probe_video
from seedvr2_core.video.reader import read_frames

MAX_HEIGHT = 720
DIVIDER_PX = 4
LABEL_SHARE = 24
"""The letters' height is this part of the picture's height, and at least MIN_LABEL_PX."""
MIN_LABEL_PX = 12
_STEPS = 4
"""Of the drawing: the result is read, the source is read, both are drawn, the file is written."""


def write_preview(
    source: Path, info: VideoInfo, output: Path, picture: Path, *, beat: Beat = no_beat
) -> None:
    """Write a JPEG of the middle frame's middle: left before (enlarged by Lanczos), right after.

    Args:
        source: the job's source.
        info: of the source.
        output: the joined video.
        picture: where the JPEG goes; complete or absent.
        beat: sign of life, after each step.

    Raises:
        InvalidVideoError: a frame could not be read.
    """
    index = info.num_frames // 2
    after = _restored_frame(output, info, index)
    beat("picture", 1, _STEPS)
    height, width, _ = after.shape
    before = next(read_frames(source, info, index, index + 1, alpha=info.keeps_alpha))
    beat("picture", 2, _STEPS)
    enlarged = _enlarged(before, width, height)
    middle = slice(width // 4, width // 4 + width // 2)
    divider = np.full((height, DIVIDER_PX, 3), 255, np.uint8)
    parts = [ImageClip(part) for part in (enlarged[:, middle], divider, after[:, middle])]
    sheet = clips_array([parts])
    if height > MAX_HEIGHT:
        sheet = sheet.resized(height=MAX_HEIGHT)
    labelled = np.array(sheet.get_frame(0))
    beat("picture", 3, _STEPS)
    _write_label(labelled, "before", left=0)
    _write_label(labelled, "after", left=(labelled.shape[1] + DIVIDER_PX) // 2)
    part = picture.with_name(picture.stem + ".part.jpg")
    ImageClip(labelled).save_frame(str(part), t=0, with_mask=False)
    replace_file(part, picture)


def _write_label(sheet: np.ndarray, text: str, *, left: int) -> None:
    """Write a word on black into the top corner of the part that begins at column `left`.

    Args:
        sheet: (H, W, 3) uint8, changed in place.
        text: the word.
        left: first column of the part.
    """
    letters = max(MIN_LABEL_PX, sheet.shape[0] // LABEL_SHARE)
    margin = (letters // 2, letters // 3)
    clip = TextClip(
        text=text, font_size=letters, color="white", bg_color="black", margin=margin, duration=1
    )
    label = np.asarray(clip.get_frame(0))
    place = sheet[: label.shape[0], left : left + label.shape[1]]
    place[:] = label[: place.shape[0], : place.shape[1]]


def _enlarged(frame: Frame, width: int, height: int) -> np.ndarray:
    """A frame by Lanczos, as people are to see it."""

    def resized(picture: np.ndarray) -> np.ndarray:
        return np.asarray(ImageClip(picture).resized((width, height)).get_frame(0))

    alpha = None if frame.alpha is None else resized(np.dstack([frame.alpha] * 3))[:, :, 0]
    return _as_shown(replace(frame, rgb=resized(frame.rgb), alpha=alpha))


def _as_shown(frame: Frame) -> np.ndarray:
    """A frame as people are to see it: what is transparent is on grey squares."""
    return frame.rgb if frame.alpha is None else shown(frame.rgb, frame.alpha)


def _restored_frame(output: Path, info: VideoInfo, index: int) -> np.ndarray:
    """(H, W, 3) uint8, the frame shown at the time of frame `index`."""
    alpha = info.keeps_alpha
    if is_sequence(output):
        pixels = picture_of(output, index).to_ndarray(format="rgba" if alpha else "rgb24")
        return shown(pixels[:, :, :3], pixels[:, :, 3]) if alpha else pixels
    if look_at_picture(output) is not None:
        return _as_shown(next(read_frames(output, probe_video(output), 0, 1, alpha=alpha)))
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
