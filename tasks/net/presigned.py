"""Addresses with a signature that allow one PUT: what can be read off them before they are used.

S3, Google Cloud Storage and Azure write into the address until when it works and which headers were
signed. So an address that has expired, or that asks for what we cannot send, is refused before a
job is made. What an address does not say is not known; most others have no such fields.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, urlsplit

_SIGNED_FOR = re.compile(r"x-(?:amz|goog)-signedheaders", re.I)
_WE_SEND = {"host", "content-type", "x-amz-content-sha256", "x-goog-content-sha256"}
_OLD = ("awsaccesskeyid", "googleaccessid")
"""Fields of signatures of version 2, in which Content-Type and Content-MD5 always count."""


def check_signed(url: str, *, now: datetime | None = None) -> None:
    """Refuse an address that cannot take a video any more, or not from us.

    Raises:
        ValueError: it has expired, or was signed for headers that we do not send. No part of the
            address is shown.
    """
    ends = expires_at(url)
    if ends is not None and ends <= (now or datetime.now(UTC)):
        raise ValueError(f"the address worked until {ends:%Y-%m-%d %H:%M:%S} UTC; sign a new one")
    fields = _fields(url)
    signed = {h for k, v in fields.items() if _SIGNED_FOR.fullmatch(k) for h in v.split(";")}
    if unknown := sorted({header.lower() for header in signed} - _WE_SEND):
        raise ValueError(
            f"the address was signed for the headers {', '.join(unknown)[:200]}; sign it for host "
            "alone, or for host and content-type"
        )


def expires_at(url: str) -> datetime | None:
    """Until when the address works; None if it does not say."""
    fields = _fields(url)
    try:
        for kind in ("x-amz", "x-goog"):
            if f"{kind}-expires" in fields:
                begins = datetime.strptime(fields[f"{kind}-date"], "%Y%m%dT%H%M%SZ")
                seconds = timedelta(seconds=int(fields[f"{kind}-expires"]))
                return begins.replace(tzinfo=UTC) + seconds
        if "sig" in fields and "se" in fields:
            ends = datetime.fromisoformat(fields["se"])
            return ends if ends.tzinfo else ends.replace(tzinfo=UTC)
        if "signature" in fields and "expires" in fields:
            return datetime.fromtimestamp(int(fields["expires"]), UTC)
    except (KeyError, ValueError, OverflowError, OSError):
        return None
    return None


def put_headers(url: str, *, content_type: str, checksums: Mapping[str, str]) -> dict[str, str]:
    """Headers of a PUT of a file to the address.

    Args:
        url: the address.
        content_type: of the file.
        checksums: headers that tell the file's digests.
    """
    fields = _fields(url)
    if any(name in fields for name in _OLD):
        return {}
    headers = {"Content-Type": content_type, **checksums}
    if "sig" in fields and "sv" in fields:
        headers["x-ms-blob-type"] = "BlockBlob"  # Azure asks for it
    for name in ("amz", "goog"):
        if f"x-{name}-content-sha256" in fields.get(f"x-{name}-signedheaders", "").lower():
            headers[f"x-{name}-content-sha256"] = "UNSIGNED-PAYLOAD"
    return headers


def _fields(url: str) -> dict[str, str]:
    """The fields of the query, by their names in lower case."""
    try:
        return {k.lower(): v for k, v in parse_qsl(urlsplit(url).query, keep_blank_values=True)}
    except ValueError:
        return {}
