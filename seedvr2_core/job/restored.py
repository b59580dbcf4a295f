"""Reads a job's restored frames from its segments, where they lie before the segments are joined.

The joined file would have to be read from a key frame far away. The plan says what a segment is: to
probe one takes as long as to decode it.
"""

from collections.abc import Iterator

from seedvr2_core.files.reading import OnBytes, no_bytes
from seedvr2_core.frames import Frame
from seedvr2_core.job import JobDir
from seedvr2_core.planning import Plan, Segment
from seedvr2_core.video.info import VideoInfo
from seedvr2_core.video.output.segment import video_of_segment
from seedvr2_core.video.reader import read_frames


def read_restored(
    plan: Plan,
    job_dir: JobDir,
    start: int,
    stop: int,
    *,
    deep: bool = False,
    alpha: bool = False,
    on_bytes: OnBytes = no_bytes,
) -> Iterator[Frame]:
    """Yield the restored frames [start, stop) of a job whose segments are still there.

    Args:
        plan: of the job.
        job_dir: its directory.
        start: index of the first frame in the film.
        stop: index after the last one.
        deep: give uint16, as outputs of more than 8 bits need it.
        alpha: give each frame its alpha too, where the segments hold some.
        on_bytes: called before every read of a segment.

    Yields:
        Frames in order, (H, W, 3) uint8 or uint16 R'G'B'; `index` and `pts` are the segment's own.

    Raises:
        InvalidVideoError: a frame cannot be decoded.
    """
    for segment in plan.segments:
        first, last = max(start, segment.start), min(stop, segment.stop)
        if first < last:
            path, info = job_dir.video_path(segment.index), video_in(plan, segment)
            begin, end = first - segment.start, last - segment.start
            yield from read_frames(
                path, info, begin, end, deep=deep, alpha=alpha, on_bytes=on_bytes
            )


def video_in(plan: Plan, segment: Segment) -> VideoInfo:
    """What a probe would find out about a segment of a job."""
    video = plan.video
    pts = video.pts[segment.start : segment.stop + 1]
    ends = pts[-1] if segment.stop < video.num_frames else pts[-1] + video.last_duration
    pts = pts[: segment.num_frames]
    return video_of_segment(plan.encoder, pts, last_duration=ends - pts[-1])


def near_middle(plan: Plan) -> int:
    """The index of a frame about the middle of the film that is decoded quickly.

    It is the first one of the segment with the middle frame. The film's own first frame is often
    black, so in the first segment it is the middle frame itself.
    """
    middle = plan.video.num_frames // 2
    segment = next(one for one in plan.segments if one.stop > middle)
    return segment.start or middle
