"""What is sent of a local source: the file, or of a sequence of pictures an archive of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from seedvr2_core.video.sequence.names import title_of
from seedvr2_core.video.sequence.pack import pack_files
from seedvr2_core.video.sequence.rate import parse_rate
from tasks.schemas import UpscaleRequest
from tasks.settings import Settings
from tasks.sources.kinds import SourceKind, kind_of
from tasks.sources.sequence import local_pictures


@contextmanager
def file_to_send(request: UpscaleRequest) -> Iterator[Path]:
    """The file that has a request's local source, inside the `with` block.

    Raises:
        SourceRefusedError: the pictures of a sequence are not there, or not all of them.
        SourceUnavailableError: they change while they are packed.
    """
    path = Path(request.video_path or "")
    if kind_of(request) is not SourceKind.PICTURES:
        yield path
        return
    paths = local_pictures(request, Settings(allow_local_files=True))
    with TemporaryDirectory(prefix="seedvr2-") as folder:
        packed = pack_files(paths, parse_rate(request.fps), Path(folder))
        named = packed.path.with_name(f"{title_of(path)}.zip")
        packed.path.rename(named)
        yield named
