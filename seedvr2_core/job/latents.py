"""The latents that a part of a divided shot leaves on disk, so that work can go on after it.

Shape legend: Z latents along time, h w height and width of a latent, C channels.
"""

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from seedvr2_core.engines.protocol import Commit
from seedvr2_core.errors import SegmentError
from seedvr2_core.files.durable import replace_file, sync_directory, sync_file
from seedvr2_core.files.space import full_disk_told
from seedvr2_core.job.job_dir import JobDir
from seedvr2_core.planning import Piece, Plan, Segment
from seedvr2_core.planning.windows import num_latents


def write_commit(job_dir: JobDir, segment: Segment, commit: Commit) -> None:
    """Write the final latents and the tail of a segment, complete or not at all.

    Raises:
        SegmentError: the engine left no latents although the shot goes on after the segment.
        ResourceError: the disk is full.
    """
    if commit.latents is None:
        raise SegmentError(f"segment {segment.index} is part of a shot but left no latents")
    tensors = {"latents": commit.latents.contiguous()}
    if commit.tail is not None:
        tensors["tail"] = commit.tail.contiguous()
    path = job_dir.latents_path(segment.index)
    part = job_dir.latents_part_path(segment.index)
    with full_disk_told(f"writing the latents of segment {segment.index}"):
        save_file(tensors, part)
    sync_file(part)
    replace_file(part, path)
    sync_directory(path.parent)


def read_commits(
    job_dir: JobDir, plan: Plan, piece: Piece, first_latent: int
) -> tuple[Tensor, Tensor]:
    """Read what the earlier segments of a shot have committed.

    Args:
        job_dir: of the job.
        plan: of the job.
        piece: where work goes on, not at the start of its shot. The segments before it that hold
            wanted latents are finished.
        first_latent: first latent of the shot that is wanted.

    Returns:
        The shot's latents from `first_latent` up to the piece, (Z, h, w, C) float16, and the tail
        of the segment before the piece, (Z, h, w, C) float32.

    Raises:
        SegmentError: a file is missing or broken, or the files hold other latents than the frames
            before the piece need.
    """
    earlier = [
        segment
        for segment in plan.segments
        if len(segment.pieces) == 1
        and segment.pieces[0].shot == piece.shot
        and segment.stop <= piece.start
    ]
    lengths = [_num_latents(job_dir, segment) for segment in earlier]
    needed = num_latents(piece.start - plan.shots[piece.shot].start)
    if sum(lengths) != needed:
        raise SegmentError(
            f"the segments before frame {piece.start} hold {sum(lengths)} latents, expected "
            f"{needed}; start the job afresh (--fresh)"
        )
    missing = first_latent
    wanted: list[Tensor] = []
    for segment, length in zip(earlier, lengths, strict=True):
        if missing < length:
            wanted.append(_read(job_dir, segment, "latents")[missing:])
        missing = max(0, missing - length)
    return torch.cat(wanted), _read(job_dir, earlier[-1], "tail")


def _num_latents(job_dir: JobDir, segment: Segment) -> int:
    """How many latents the segment committed, from the file's header."""
    path = job_dir.latents_path(segment.index)
    try:
        with safe_open(path, "pt") as file:
            return file.get_slice("latents").get_shape()[0]
    except (OSError, SafetensorError) as error:
        raise SegmentError(f"latents of segment {segment.index}: {error}; run again") from error


def _read(job_dir: JobDir, segment: Segment, name: str) -> Tensor:
    """One tensor of a segment's commit."""
    try:
        with safe_open(job_dir.latents_path(segment.index), "pt") as file:
            return file.get_tensor(name)
    except (OSError, SafetensorError) as error:
        raise SegmentError(f"{name} of segment {segment.index}: {error}; run again") from error
