"""Checks that the public address of a stored file shows the file's first and last bytes.

The public address shows one of four things:
- the file;
- not yet (404, 5xx, no answer): CDNs remember a 404 for some seconds and replicas lag, so we ask
  again;
- forbidden (401, 403): waiting does not help, so this fails at once;
- something else (other bytes, another length, a web page with the status 200): it may be an old
  copy that is replaced soon, so we ask again until the time is up.

Ask only after the storage has taken the file: the CDN would remember an early 404.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import httpx

from seedvr2_core.errors import ForbiddenError, NotServedError, StorageError, WrongBytesError
from tasks.net.answers import content_length, is_web_page, status_text, whole_number
from tasks.net.trusted import open_client
from tasks.net.untrusted import shown_url

RANGE_BYTES = 65536
"""Bytes that are compared at the beginning and at the end of the file."""

_PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Seconds between looks; the last pause is repeated."""
_LOOK_SECONDS = 10.0
"""Limit of one request."""
_FORBIDDEN = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
_WHOLE_OR_PART = (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT)
_ADVICE = {
    NotServedError: "look at the pull zone's origin and at its errors; running the job again sends "
    "nothing twice",
    WrongBytesError: "look at the pull zone's origin and at pages it shows for errors, purge the "
    "address there, then run the job again",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """The file that was stored, and the public address that must show it."""

    url: str
    """Public address; it may hold a token."""
    path: Path
    """The file on this machine."""
    num_bytes: int
    shown: str
    """The address without its token, for messages."""

    def ranges(self) -> Iterator[range]:
        """Positions of the first and of the last bytes; one range if the file is that small."""
        last = range(max(0, self.num_bytes - RANGE_BYTES), self.num_bytes)
        if last.start:
            yield range(min(self.num_bytes, RANGE_BYTES))
        yield last

    def read(self, part: range) -> bytes:
        """The file's bytes at these positions."""
        with self.path.open("rb") as stream:
            stream.seek(part.start)
            return stream.read(len(part))


def wait_until_served(
    url: str, path: Path, *, patience: float, on_wait: Callable[[StorageError], None]
) -> None:
    """Look at the public address, with growing pauses, until it shows the file.

    Args:
        url: public address, signed if the pull zone wants that.
        path: the file that was stored, on this machine.
        patience: seconds after which no new look is begun.
        on_wait: called before every pause with what was seen instead of the file.

    Raises:
        ForbiddenError: the address is closed, or does not accept the token.
        NotServedError: the last look saw no file.
        WrongBytesError: the last look saw something else.
    """
    wanted = _Wanted(url=url, path=path, num_bytes=path.stat().st_size, shown=shown_url(url))
    began = time.monotonic()
    deadline = began + patience
    pauses = iter(_PAUSES)
    with open_client(follow_redirects=True) as client:
        while True:
            try:
                return _look(client, wanted, deadline)
            except (NotServedError, WrongBytesError) as error:
                pause = next(pauses, _PAUSES[-1])
                if time.monotonic() + pause > deadline:
                    seconds = time.monotonic() - began
                    told = f"{error}, still so after {seconds:.0f} s; {_ADVICE[type(error)]}"
                    raise type(error)(told) from error
                on_wait(error)
                time.sleep(pause)


def _look(client: httpx.Client, wanted: _Wanted, deadline: float) -> None:
    """Ask once for the first and for the last bytes.

    Raises:
        ForbiddenError, NotServedError, WrongBytesError: the address shows that instead of the file.
    """
    for part in wanted.ranges():
        seconds = min(_LOOK_SECONDS, max(1.0, deadline - time.monotonic()))
        asked = {"Range": f"bytes={part.start}-{part.stop - 1}", "Accept-Encoding": "identity"}
        try:
            with client.stream("GET", wanted.url, headers=asked, timeout=seconds) as answer:
                _check_answer(answer, wanted)
                got = _body(answer, part, time.monotonic() + seconds)
        except httpx.TooManyRedirects:
            raise NotServedError(f"{wanted.shown} redirects in a circle") from None
        except httpx.TransportError as error:
            timed_out = isinstance(error, httpx.TimeoutException)
            told = "does not answer in time" if timed_out else "is away or breaks off"
            raise NotServedError(f"{wanted.shown} {told} ({type(error).__name__})") from error
        if got != wanted.read(part):
            raise WrongBytesError(
                f"{wanted.shown} shows other bytes than were stored "
                f"(bytes {part.start} to {part.stop - 1} of {wanted.num_bytes} differ)"
            )


def _check_answer(answer: httpx.Response, wanted: _Wanted) -> None:
    """Judge an answer by its status and headers."""
    status = answer.status_code
    said = f"{wanted.shown} answers {status_text(status)}"
    if status in _FORBIDDEN:
        raise ForbiddenError(
            f"{said} though the file is in storage: the pull zone asks for a token that is not "
            "given (SEEDVR2_BUNNY_TOKEN_KEY), does not take the one it gets, or is closed; running "
            "the job again sends nothing twice"
        )
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        raise WrongBytesError(f"{said}: what it shows is shorter than {wanted.num_bytes} bytes")
    if status not in _WHOLE_OR_PART:
        raise NotServedError(f"{said}{_from_cache(answer)}, though the file is in storage")
    if is_web_page(answer):
        raise WrongBytesError(f"{said}, but with a web page where the video should be")
    if encoding := answer.headers.get("content-encoding"):
        raise WrongBytesError(f"{said}, but encoded ({encoding[:20]!r})")
    total = _total(answer)
    if total != wanted.num_bytes:
        shown = "no length" if total is None else f"{total} bytes"
        raise WrongBytesError(f"{said}, but with {shown}, expected {wanted.num_bytes} bytes")


def _total(answer: httpx.Response) -> int | None:
    """Length of the whole file as the answer states it; None if it does not."""
    if answer.status_code == HTTPStatus.PARTIAL_CONTENT:
        return whole_number(answer.headers.get("content-range", "").rpartition("/")[2])
    return content_length(answer)


def _body(answer: httpx.Response, part: range, deadline: float) -> bytes:
    """The bytes of this part; a server without ranges sends the whole file, so we skip the rest.

    Raises:
        NotServedError: they do not come in time.
    """
    position = part.start if answer.status_code == HTTPStatus.PARTIAL_CONTENT else 0
    got = bytearray()
    for piece in answer.iter_raw():
        got += piece[max(0, part.start - position) :]
        position += len(piece)
        if position >= part.stop:
            break
        if time.monotonic() > deadline:
            raise NotServedError(
                f"{shown_url(str(answer.url))} is too slow: {position} bytes of {part.stop} came"
            )
    return bytes(got[: len(part)])


def _from_cache(answer: httpx.Response) -> str:
    """Words for the message if the CDN says that it answered from its cache; else ""."""
    told = answer.headers.get("cdn-cache") or answer.headers.get("x-cache") or ""
    return " from its cache" if "HIT" in told.upper() else ""
