"""A session that restores nothing: it takes the frames of segments from their masters.

For the pipeline it is an engine like any other, so what it gives is coded, checked and committed as
ever.
"""

from collections.abc import Iterator, Mapping, Sequence

from seedvr2_core.engines.protocol import Commit, Reads, ShotState
from seedvr2_core.errors import SegmentError
from seedvr2_core.files.reading import OnBytes
from seedvr2_core.frames import Frame
from seedvr2_core.job.masters import Masters, MasterSidecar
from seedvr2_core.planning import Piece, Plan, Segment, Shot
from seedvr2_core.video.output.master import read_master


class MasterSession:
    """Gives the frames of segments that have masters, in order."""

    def __init__(
        self,
        plan: Plan,
        masters: Masters,
        whole: Mapping[int, MasterSidecar],
        *,
        on_bytes: OnBytes,
    ) -> None:
        """Read nothing yet.

        Args:
            plan: of the job.
            masters: where they are.
            whole: those whose bytes were compared with their digests, by segment.
            on_bytes: called before every read.
        """
        self._plan, self._masters, self._whole = plan, masters, whole
        self._on_bytes = on_bytes
        self._segment_of = {
            piece.start: segment for segment in plan.segments for piece in segment.pieces
        }
        self._frames: Iterator[Frame] = iter(())
        self._commit = Commit()
        self.broken: int | None = None
        """The segment whose master could not be read to its end."""

    def reads(self, shot: Shot, pieces: Sequence[Piece], *, unaided: bool = False) -> Reads:
        """Nothing of the source, and no latents."""
        del shot, unaided
        return Reads(frames=range(pieces[0].start, pieces[0].start), latents=range(0))

    def begin(
        self,
        frames: Iterator[Frame],
        *,
        shot: Shot,
        piece: Piece,
        before: Commit | None = None,
        unaided: bool = False,
    ) -> ShotState:
        """Nothing has to be known of what comes before."""
        del frames, shot, piece, before, unaided
        return ShotState()

    def restore(
        self, frames: Iterator[Frame], *, shot: Shot, piece: Piece, state: ShotState
    ) -> Iterator[Frame]:
        """The piece's frames, from its segment's master.

        Raises:
            SegmentError: the master cannot be read; `broken` names its segment then.
        """
        del frames, shot, state
        segment = self._segment_of[piece.start]
        if segment.start == piece.start:
            self._frames = self._read(segment)
        master = self._whole[segment.index]
        self._commit = Commit(precision=master.precision, rung=master.rung)
        for index in range(piece.start, piece.stop):
            try:
                yield next(self._frames)
            except StopIteration as error:
                self.broken = segment.index
                raise SegmentError(
                    f"the master of segment {segment.index} ends before frame {index}"
                ) from error
            except (SegmentError, OSError):
                self.broken = segment.index
                raise

    def _read(self, segment: Segment) -> Iterator[Frame]:
        """The frames of a segment, with their times."""
        pts, path = self._plan.video.pts, self._masters.video_path(segment.index)
        pictures = read_master(path, deep=self._plan.deep, on_bytes=self._on_bytes)
        for index, rgb in enumerate(pictures, segment.start):
            yield Frame(rgb=rgb, pts=pts[index], index=index)

    def take_commit(self) -> Commit:
        """How the frames were made; a master has no latents."""
        return self._commit

    def step_down(self) -> str:
        """There is no step."""
        return ""

    def close(self) -> None:
        """Nothing is held."""
