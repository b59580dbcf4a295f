"""Pictures in, pictures out: libavfilter's graphs for pictures of one shape."""

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

import av.error
from av.filter import Graph
from av.video.frame import VideoFrame

from seedvr2_core.video.info import Reading

Pictures = Callable[[int, int], Iterator[tuple[int, VideoFrame]]]
"""(index, picture) of the file's pictures from one index to another, the last one left out."""

_CLOCK = Fraction(1, 1000)
_STEP = 40
"""Filters see pictures at even times; ours are put back by their order."""

Shape = tuple[int, int, str, object]


def shape_of_picture(picture: VideoFrame) -> Shape:
    """What must be the same for pictures that belong together: size, format and pixels' shape."""
    return picture.width, picture.height, picture.format.name, picture.opaque


def take_pixel_shape(picture: VideoFrame, source: VideoFrame) -> None:
    """Give a picture the `opaque` of another one, which is the shape of its pixels.

    As an object of its own: PyAV forgets one for all pictures that share it when one of them goes.
    """
    sar = source.opaque
    picture.opaque = Fraction(sar) if isinstance(sar, Fraction) else sar


class PictureGraph:
    """Filters for pictures of one shape.

    Args:
        picture: of that shape.
        steps: (filter, arguments) in order.
    """

    def __init__(self, picture: VideoFrame, *steps: tuple[str, str | None]) -> None:
        self.shape = shape_of_picture(picture)
        self._graph = Graph()
        self._count = 0
        previous = self._graph.add_buffer(
            width=picture.width, height=picture.height, format=picture.format, time_base=_CLOCK
        )
        for name, arguments in (*steps, ("buffersink", None)):
            step = self._graph.add(name, arguments)
            previous.link_to(step)
            previous = step
        self._graph.configure()

    def feed(self, picture: VideoFrame) -> Iterator[VideoFrame]:
        """What comes out after one more picture, which is as it was afterwards."""
        times = picture.pts, picture.time_base
        picture.pts, picture.time_base = self._count * _STEP, _CLOCK
        self._count += 1
        self._graph.vpush(picture)
        picture.pts, picture.time_base = times
        yield from self._pulled()

    def finish(self) -> Iterator[VideoFrame]:
        """What comes out at the end."""
        self._graph.vpush(None)
        yield from self._pulled()

    def _pulled(self) -> Iterator[VideoFrame]:
        while True:
            try:
                picture = self._graph.vpull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            assert isinstance(picture, VideoFrame)
            yield picture


def bwdif_steps(reading: Reading, *, each_field: bool) -> list[tuple[str, str | None]]:
    """The filter that makes whole frames of a picture's fields."""
    mode = "send_field" if each_field else "send_frame"
    parity = {None: "auto", True: "tff", False: "bff"}[reading.top_first]
    return [("bwdif", f"mode={mode}:parity={parity}:deint=all")]


def filtered(
    pictures: Iterator[tuple[int, VideoFrame]], per: int, steps: Sequence[tuple[str, str | None]]
) -> Iterator[tuple[int, VideoFrame]]:
    """(index of the picture, what filters make of it), `per` of each, in order.

    Where pictures change their shape the filters begin anew, as at the start of a file, so what
    comes out depends on a picture and its neighbours alone.
    """
    graph: PictureGraph | None = None
    waiting: list[tuple[int, VideoFrame]] = []
    given = 0

    def labelled(made: Iterator[VideoFrame]) -> Iterator[tuple[int, VideoFrame]]:
        nonlocal given
        for picture in made:
            index, source = waiting[0]
            take_pixel_shape(picture, source)
            yield index, picture
            given += 1
            if given == per:
                del waiting[0]
                given = 0

    for index, picture in pictures:
        if graph is not None and graph.shape != shape_of_picture(picture):
            yield from labelled(graph.finish())
            graph = None
        waiting.append((index, picture))
        graph = graph or PictureGraph(picture, *steps)
        yield from labelled(graph.feed(picture))
    if graph is not None:
        yield from labelled(graph.finish())
