"""What a segment is: how it is encoded, and what a probe of it would find; no av, no numpy."""

from dataclasses import replace

from seedvr2_core.video.info import EncoderSettings, VideoInfo
from seedvr2_core.video.output.formats import CODECS, counts_frames, depth_of

_COUNTED = 25
"""Frames a second of a segment that counts them: milliseconds, in which Matroska has times, tell
them apart."""


def coded_as(settings: EncoderSettings) -> EncoderSettings:
    """How a segment is encoded: as the job is, or at a steady rate if it counts frames."""
    if not counts_frames(settings.codec):
        return settings
    return replace(settings, time_base=(1, _COUNTED), rate=(_COUNTED, 1))


def video_of_segment(
    settings: EncoderSettings, pts: tuple[int, ...], *, last_duration: int
) -> VideoInfo:
    """What a probe would find out about a segment, which holds nothing but what we have put in.

    A probe decodes a short video to know the times of its frames, and those of a segment are
    known: they are the source's, counted from its first frame. The pixel format is the encoder's;
    a decoder may give more bits (ProRes 4444).

    Args:
        settings: with which it was encoded.
        pts: times of its frames in the source's ticks, rising, counted from anywhere.
        last_duration: how long the last one is shown, in ticks.
    """
    if counts_frames(settings.codec):
        settings, pts, last_duration = coded_as(settings), tuple(range(len(pts))), 1
    return VideoInfo(
        format_name=CODECS[settings.codec].segments,
        size_bytes=0,
        stream_index=0,
        codec=settings.codec,
        pix_fmt=settings.pix_fmt,
        bit_depth=depth_of(settings),
        width=settings.width,
        height=settings.height,
        rotation=0,
        sar=(1, 1),
        color=settings.color,
        time_base=settings.time_base,
        pts=tuple(time - pts[0] for time in pts),
        last_duration=last_duration,
        nominal_rate=settings.rate,
    )
