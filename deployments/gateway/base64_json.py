"""Reads a JSON object whose video_base64 may be gigabytes: decoded and handed on as it comes."""

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
    """Decodes the inside of a JSON string that holds base64, piece by piece."""

    def __init__(self, sink: Callable[[bytes], None]) -> None:
        """Hand decoded bytes to `sink`."""
        self._sink = sink
        self._escaped = b""
        self._head: bytes | None = b""
        self._rest = b""
        self._padded = False
        self.any = False

    def feed(self, text: bytes) -> None:
        """The next piece, escapes and line breaks included.

        Raises:
            InvalidRequestError: it is not base64.
        """
        text = self._escaped + text
        # An escape may be cut anywhere: what follows the last backslash waits for six characters.
        cut = text.rfind(b"\\", max(0, len(text) - 6))
        incomplete = cut >= 0 and len(text) - cut < (6 if text[cut + 1 : cut + 2] in b"u" else 2)
        self._escaped = text[cut:] if incomplete else b""
        text = _unescaped(text[:cut] if incomplete else text)
        self._strip_head(text.translate(None, _WHITE_SPACE))

    def finish(self) -> None:
        """The string ends."""
        if self._head is not None:
            head, self._head = self._head, None
            self._decode(
                _DATA_URL.sub(b"", head, count=1) if head[:5].lower() == b"data:" else head
            )
        if self._rest or self._escaped:
            raise _not_base64()

    def _strip_head(self, text: bytes) -> None:
        """Drop the prefix of a data URL, once enough has come to see it."""
        if self._head is None:
            self._decode(text)
            return
        self._head += text
        if len(self._head) >= _DATA_URL_BYTES:
            head, self._head = self._head, None
            match = _DATA_URL.match(head)
            self._decode(head[match.end() :] if match else head)

    def _decode(self, text: bytes) -> None:
        """Decode whole groups of four characters."""
        text = self._rest + text
        whole = len(text) // 4 * 4
        self._rest = text[whole:]
        if not text:
            return
        if self._padded:  # nothing may follow the padding
            raise _not_base64()
        self.any = True
        self._padded = text[:whole].endswith(b"=")
        try:
            self._sink(base64.b64decode(text[:whole], validate=True))
        except binascii.Error as error:
            raise _not_base64() from error


class JsonReader:
    """A JSON object without its large string, which goes to a sink."""

    def __init__(self, sink: Callable[[bytes], None], *, max_bytes: int) -> None:
        """Hand the video's bytes to `sink`; everything else may have `max_bytes`."""
        self._video = Base64Stream(sink)
        self._max_bytes = max_bytes
        self._text = bytearray()
        self._depth = 0
        self._string_at: int | None = None
        self._escape = False
        self._last = b""
        self._wanted = False
        self._in_video = False
        self._seen = False

    def feed(self, data: bytes) -> None:
        """The next piece of the body."""
        at = 0
        while at < len(data):
            at = self._feed_video(data, at) if self._in_video else self._feed_text(data, at)

    def finish(self) -> dict[str, Any]:
        """The object's fields, without the video if it was handed on.

        Raises:
            InvalidRequestError: the body is no JSON object.
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
        if self._video.any:
            del fields[_KEY]
        return fields

    def _feed_video(self, data: bytes, at: int) -> int:
        """Inside the large string: all up to its closing quote."""
        end = data.find(b'"', at)
        self._video.feed(data[at:] if end < 0 else data[at:end])
        if end < 0:
            return len(data)
        self._video.finish()
        self._in_video = False
        self._text += b'"'
        return end + 1

    def _feed_text(self, data: bytes, at: int) -> int:
        """Outside of it: one byte after the other, until it begins or the data end."""
        for position in range(at, len(data)):
            byte = data[position : position + 1]
            self._text += byte
            if len(self._text) > self._max_bytes:
                raise HTTPException(
                    413, f"the body holds more than {self._max_bytes} bytes beside {_KEY}"
                )
            self._in_string(byte) if self._string_at is not None else self._outside(byte)
            if self._in_video:
                return position + 1
        return len(data)

    def _in_string(self, byte: bytes) -> None:
        """A byte of a key or of a small value."""
        if self._escape:
            self._escape = False
        elif byte == b"\\":
            self._escape = True
        elif byte == b'"':
            self._last = bytes(self._text[self._string_at :])
            self._string_at = None

    def _outside(self, byte: bytes) -> None:
        """A byte between strings."""
        if byte == b'"':
            if self._wanted:
                self._begin_video()
            else:
                self._string_at = len(self._text) - 1
        elif byte in (b"{", b"["):
            self._depth += 1
            self._wanted = False
        elif byte in (b"}", b"]"):
            self._depth -= 1
        elif byte == b":":
            self._wanted = self._depth == 1 and _is_key(self._last)
        elif byte == b",":
            self._wanted = False

    def _begin_video(self) -> None:
        """The large string begins."""
        if self._seen:
            raise InvalidRequestError(f"{_KEY} is given twice")
        self._seen = self._in_video = True
        self._wanted = False


def _is_key(text: bytes) -> bool:
    """Whether a JSON string is the field's name."""
    try:
        return json.loads(text) == _KEY
    except ValueError:
        return False  # the whole body will be refused when it is read


def _unescaped(text: bytes) -> bytes:
    """JSON's escapes of characters that base64 may hold: / + = and line breaks."""
    if b"\\" not in text:
        return text

    def plain(match: re.Match[bytes]) -> bytes:
        if match[1]:
            code = int(match[1], 16)
            return bytes([code]) if code < 128 else b"?"
        return _PLAIN.get(match[2], b"?")  # no base64: refused when it is decoded

    return _ESCAPE.sub(plain, text)


def _not_base64() -> InvalidRequestError:
    return InvalidRequestError(
        f"{_KEY} is not base64; expected the file's bytes in the standard alphabet, padded, with "
        "or without data:video/...;base64, in front"
    )
