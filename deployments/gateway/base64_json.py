"""Reads a JSON object whose field video_base64 may hold gigabytes.

The field's text is decoded and handed on while it arrives; only the rest of the object is kept in
memory and given to Python's JSON parser in the end.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable
from typing import Any

from fastapi import HTTPException

from seedvr2_core.errors import InvalidRequestError

_KEY = "video_base64"
_WHITE_SPACE = b" \t\r\n"
_ESCAPE = re.compile(rb"\\(?:u([0-9a-fA-F]{4})|(.))", re.S)
_PLAIN = {b"/": b"/", b"n": b"", b"r": b"", b"t": b""}
_DATA_URL = re.compile(rb"data:[^,]{0,200};base64,", re.I)
_DATA_URL_BYTES = 256


class Base64Stream:
    """Decodes the text between the quotes of a JSON string of base64, piece by piece.

    The text may hold JSON escapes and line breaks, and may begin with data:...;base64, as in a data
    URL.
    """

    def __init__(self, sink: Callable[[bytes], None]) -> None:
        """Start; `sink` takes the decoded bytes."""
        self._sink = sink
        self._escaped = b""  # an escape that the last piece cut
        self._head: bytes | None = b""  # the beginning, while it may be that of a data URL
        self._rest = b""  # fewer than four characters that wait for more
        self._padded = False
        self.has_data = False
        """Whether the string holds anything that was decoded."""

    def feed(self, text: bytes) -> None:
        """Take the next piece of the text.

        Raises:
            InvalidRequestError: it is not base64.
        """
        text = self._escaped + text
        # A piece may end inside an escape (2 characters, or 6 for \\uXXXX): it waits for the rest.
        cut = text.rfind(b"\\", max(0, len(text) - 6))
        incomplete = cut >= 0 and len(text) - cut < (6 if text[cut + 1 : cut + 2] in b"u" else 2)
        self._escaped = text[cut:] if incomplete else b""
        text = _unescaped(text[:cut] if incomplete else text)
        self._strip_head(text.translate(None, _WHITE_SPACE))

    def finish(self) -> None:
        """End the string and decode what is left.

        Raises:
            InvalidRequestError: it is not base64.
        """
        if self._head is not None:
            head, self._head = self._head, None
            self._decode(
                _DATA_URL.sub(b"", head, count=1) if head[:5].lower() == b"data:" else head
            )
        if self._rest or self._escaped:
            raise _not_base64()

    def _strip_head(self, text: bytes) -> None:
        """Drop the prefix of a data URL, as soon as enough has arrived to recognise it."""
        if self._head is None:
            self._decode(text)
            return
        self._head += text
        if len(self._head) >= _DATA_URL_BYTES:
            head, self._head = self._head, None
            match = _DATA_URL.match(head)
            self._decode(head[match.end() :] if match else head)

    def _decode(self, text: bytes) -> None:
        """Decode whole groups of four characters and keep the rest."""
        text = self._rest + text
        whole = len(text) // 4 * 4
        self._rest = text[whole:]
        if not text:
            return
        if self._padded:  # nothing may follow the padding
            raise _not_base64()
        self.has_data = True
        self._padded = text[:whole].endswith(b"=")
        try:
            self._sink(base64.b64decode(text[:whole], validate=True))
        except binascii.Error as error:
            raise _not_base64() from error


class JsonReader:
    """Reads a JSON object piece by piece and hands the bytes of its video_base64 to a sink.

    It follows the nesting depth and the strings only as far as is needed to find the field at the
    top level. Whether the text is valid JSON is for json.loads to say in `finish`.
    """

    def __init__(self, sink: Callable[[bytes], None], *, max_bytes: int) -> None:
        """Start; `sink` takes the video's bytes, and all other text may have `max_bytes`."""
        self._video = Base64Stream(sink)
        self._max_bytes = max_bytes
        self._text = bytearray()  # all that has arrived, the video's string left empty
        self._depth = 0
        self._string_at: int | None = None  # where in the text the string began that is read now
        self._escape = False
        self._last_string = b""
        self._video_follows = False  # the next string is the video
        self._in_video = False
        self._has_video = False

    def feed(self, data: bytes) -> None:
        """Take the next piece of the body.

        Raises:
            InvalidRequestError: the video is not base64, or is given twice.
            HTTPException: 413, the rest of the body is too large.
        """
        at = 0
        while at < len(data):
            at = self._feed_video(data, at) if self._in_video else self._feed_text(data, at)

    def finish(self) -> dict[str, Any]:
        """Return the object's fields, without video_base64 if it held data.

        Raises:
            InvalidRequestError: the body is not a JSON object.
        """
        try:
            fields = json.loads(self._text)
        except ValueError as error:
            raise InvalidRequestError(f"the body is not JSON: {error}") from error
        except RecursionError as error:
            raise InvalidRequestError("the body is nested too deeply") from error
        if not isinstance(fields, dict):
            raise InvalidRequestError(
                f"the body is a JSON {type(fields).__name__}; expected an object with fields"
            )
        if self._video.has_data:
            del fields[_KEY]
        return fields

    def _feed_video(self, data: bytes, at: int) -> int:
        """Decode the video's text up to its closing quote; returns the position to go on from."""
        end = data.find(b'"', at)
        self._video.feed(data[at:] if end < 0 else data[at:end])
        if end < 0:
            return len(data)
        self._video.finish()
        self._in_video = False
        self._text += b'"'
        return end + 1

    def _feed_text(self, data: bytes, at: int) -> int:
        """Read other text until the video begins or the data end; returns where to go on."""
        for position in range(at, len(data)):
            byte = data[position : position + 1]
            self._text += byte
            if len(self._text) > self._max_bytes:
                raise HTTPException(
                    413, f"the body holds more than {self._max_bytes} bytes besides {_KEY}"
                )
            self._in_string(byte) if self._string_at is not None else self._outside(byte)
            if self._in_video:
                return position + 1
        return len(data)

    def _in_string(self, byte: bytes) -> None:
        """Read a byte of a key or of another string value."""
        if self._escape:
            self._escape = False
        elif byte == b"\\":
            self._escape = True
        elif byte == b'"':
            self._last_string = bytes(self._text[self._string_at :])
            self._string_at = None

    def _outside(self, byte: bytes) -> None:
        """Read a byte between strings."""
        if byte == b'"':
            if self._video_follows:
                self._begin_video()
            else:
                self._string_at = len(self._text) - 1
        elif byte in (b"{", b"["):
            self._depth += 1
            self._video_follows = False
        elif byte in (b"}", b"]"):
            self._depth -= 1
        elif byte == b":":
            self._video_follows = self._depth == 1 and _is_key(self._last_string)
        elif byte == b",":
            self._video_follows = False

    def _begin_video(self) -> None:
        """The string that begins here is the video."""
        if self._has_video:
            raise InvalidRequestError(f"{_KEY} is given twice")
        self._has_video = self._in_video = True
        self._video_follows = False


def _is_key(text: bytes) -> bool:
    """Whether a JSON string, quotes included, is the name of the video's field."""
    try:
        return json.loads(text) == _KEY
    except ValueError:
        return False  # not valid JSON: `finish` will refuse the body


def _unescaped(text: bytes) -> bytes:
    """Replace JSON escapes; only those of base64's own characters and line breaks are kept."""
    if b"\\" not in text:
        return text

    def plain(match: re.Match[bytes]) -> bytes:
        if match[1]:
            code = int(match[1], 16)
            return bytes([code]) if code < 128 else b"?"
        return _PLAIN.get(match[2], b"?")  # "?" is no base64: it is refused when it is decoded

    return _ESCAPE.sub(plain, text)


def _not_base64() -> InvalidRequestError:
    return InvalidRequestError(
        f"{_KEY} is not base64; expected the file's bytes in the standard alphabet with padding, "
        "with or without data:video/...;base64, in front"
    )
