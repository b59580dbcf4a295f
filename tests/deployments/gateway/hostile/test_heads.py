"""Request lines, headers, queries and ids that are odd, broken or from somebody else's page."""

import pytest

from tests.kits.http.victim import CUT, DIGITS, Victim, cases

pytestmark = [pytest.mark.usefixtures("on_the_server"), pytest.mark.timeout(240)]

CLOSE = b"GET /none HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
NO_JOB = "00000000-0000-4000-8000-000000000000"
QUERIES: dict[str, tuple[str, str, str, int, str]] = {
    "offset-2-63": ("GET", "/jobs", f"?offset={2**63}", 422, "offset: "),
    "offset-2-31": ("GET", "/jobs", f"?offset={2**31}", 422, "offset: "),
    "offset-negative": ("GET", "/jobs", "?offset=-1", 422, "offset: "),
    "offset-of-4000-digits": ("GET", "/jobs", f"?offset={DIGITS}", 422, "offset: "),
    "offset-a-fraction": ("GET", "/jobs", "?offset=1.5", 422, "offset: "),
    "offset-arabic": ("GET", "/jobs", "?offset=%D9%A3x", 422, "offset: "),
    "offset-not-utf8": ("GET", "/jobs", "?offset=%ff", 422, "offset: "),
    "limit-0": ("GET", "/jobs", "?limit=0", 422, "limit: "),
    "limit-101": ("GET", "/jobs", "?limit=101", 422, "limit: "),
    "limit-2-63": ("GET", "/jobs", f"?limit={2**63}", 422, "limit: "),
    "status-unknown": ("GET", "/jobs", "?status=lost", 422, "status: "),
    "status-of-escape-codes": ("GET", "/jobs", "?status=%1b%5b2J", 422, "status: "),
    "plan-0": ("GET", "/plan", "?width=0&height=1", 422, "width: "),
    "plan-without": ("GET", "/plan", "", 422, "width: "),
    "plan-of-4000-digits": ("GET", "/plan", f"?width={DIGITS}&height=1", 422, "width: "),
    "plan-2-63": ("GET", "/plan", f"?width=1&height={2**63}", 422, "height: "),
    "plan-8k": ("GET", "/plan", "?width=1&height=1&resolution=8k", 422, "resolution: "),
    "logs-offset-2-63": ("GET", "/logs/{}", f"?offset={2**63}", 422, "offset: "),
    "logs-after-nonsense": ("GET", "/logs/{}", "?after=yesterday", 422, "after: "),
    "logs-after-the-end": (
        "GET", "/logs/{}", "?after=9999-12-31T23:59:59-14:00", 422, "after: "
    ),
    "logs-after-the-beginning": (
        "GET", "/logs/{}", "?after=0001-01-01T00:00:00%2B14:00", 422, "after: "
    ),
    "logs-after-1e300": ("GET", "/logs/{}", "?after=1e300", 422, "after: "),
    "logs-of-nobody": ("GET", "/logs/{}", "", 404, "there is no job"),
    "status-of-nobody": ("GET", "/status/{}", "", 404, "there is no job"),
    "cancel-of-nobody": ("POST", "/cancel/{}", "", 404, "there is no job"),
}  # fmt: skip


@pytest.mark.parametrize(("method", "path", "query", "status", "words"), cases(QUERIES))
def test_queries(
    victim: Victim, method: str, path: str, query: str, status: int, words: str
) -> None:
    told = victim.ask(method, path.format(NO_JOB) + query)
    assert told.status == status, told.body
    assert words in told.detail
    assert victim.declares(method, path.replace("{}", "{job_id}"), status)


IDS = {
    "nonsense": "nonsense",
    "dots": "%2e%2e",
    "quote": "'%20OR%201=1--",
    "nul": "%00",
    "not-utf8": "%ff",
    "escape-codes": "%1b%5b2J",
    "4000-digits": DIGITS,
    "8000-characters": "a" * 8000,
    "braces": "%7B%7B7*7%7D%7D",
    "urn": "urn:uuid:nonsense",
    "right-to-left": "%E2%80%AEabc",
}


@pytest.mark.parametrize("job_id", [pytest.param(one, id=name) for name, one in IDS.items()])
@pytest.mark.parametrize("address", ["GET /status", "POST /cancel", "GET /logs"])
def test_ids(victim: Victim, address: str, job_id: str) -> None:
    method, path = address.split()
    told = victim.ask(method, f"{path}/{job_id}")
    assert told.status == 404, told.body
    assert told.detail.startswith(("there is no job '", 'there is no job "'))
    assert told.detail.isprintable()


HEADS: dict[str, tuple[bytes, tuple[int, ...]]] = {
    "nonsense": (b"nonsense\r\n\r\n", (400,)),
    "tls": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n", (400,)),
    "http-2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400, 404)),
    "http-3": (b"GET /none HTTP/3.0\r\nHost: localhost\r\nConnection: close\r\n\r\n", (400, 404)),
    "no-host": (b"GET /jobs HTTP/1.1\r\n\r\n", (400,)),
    "two-hosts": (b"GET /jobs HTTP/1.1\r\nHost: localhost\r\nHost: evil.test\r\n\r\n", (400,)),
    "host-empty": (b"GET /jobs HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n", (421,)),
    "host-foreign": (
        b"GET /jobs HTTP/1.1\r\nHost: evil.test\r\nConnection: close\r\n\r\n", (421,)
    ),
    "host-like-ours": (
        b"GET /jobs HTTP/1.1\r\nHost: localhost.evil.test\r\nConnection: close\r\n\r\n", (421,)
    ),
    "host-with-a-user": (
        b"GET /jobs HTTP/1.1\r\nHost: localhost@evil.test\r\nConnection: close\r\n\r\n", (421,)
    ),
    "host-zero": (b"GET /jobs HTTP/1.1\r\nHost: 0.0.0.0\r\nConnection: close\r\n\r\n", (421,)),
    "host-of-escape-codes": (
        b"GET /jobs HTTP/1.1\r\nHost: \x80[2J\r\nConnection: close\r\n\r\n", (421, 400)
    ),
    "host-of-a-health-check": (
        b"GET /healthz HTTP/1.1\r\nHost: evil.test\r\nConnection: close\r\n\r\n", (421,)
    ),
    "host-of-the-page": (
        b"GET /docs HTTP/1.1\r\nHost: evil.test\r\nConnection: close\r\n\r\n", (421,)
    ),
    "absolute-target": (
        b"GET http://evil.test/jobs HTTP/1.1\r\nHost: evil.test\r\nConnection: close\r\n\r\n",
        (421,),
    ),
    "header-folded": (CLOSE + b"X: y\r\n z\r\n\r\n", (400, 404)),
    "header-without-colon": (b"GET /none HTTP/1.1\r\nHost: localhost\r\nnonsense\r\n\r\n", (400,)),
    "header-with-a-nul": (b"GET /none HTTP/1.1\r\nHost: localhost\r\nX: \0\r\n\r\n", (400,)),
    "header-name-with-a-space": (b"GET /none HTTP/1.1\r\nHost: localhost\r\nX : y\r\n\r\n", (400,)),
    "header-of-a-million": (
        CLOSE + b"X: " + b"y" * 10**6 + b"\r\n\r\n", (400, CUT)
    ),
    "200000-headers": (
        CLOSE + b"X: y\r\n" * 200_000 + b"\r\n", (400, CUT)
    ),
    "target-of-a-million": (
        b"GET /" + b"a" * 10**6 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", (400, CUT)
    ),
    "target-with-a-line-feed": (b"GET /a\nb HTTP/1.1\r\nHost: localhost\r\n\r\n", (400,)),
    "length-negative": (
        b"PUT /upscale/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", (400,)
    ),
    "length-no-number": (
        b"PUT /upscale/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1e9\r\n\r\n", (400,)
    ),
    "length-of-4000-digits": (
        b"PUT /upscale/a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: "
        + DIGITS.encode() + b"\r\n\r\n",
        (400, 413),
    ),
    "length-of-5000-digits": (
        b"PUT /upscale/a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: "
        + b"9" * 5000 + b"\r\n\r\n",
        (400, 413),
    ),
    "length-too-large": (
        b"PUT /upscale/a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Content-Length: 9999999999\r\n\r\n",
        (413,),
    ),
    "two-lengths": (
        b"PUT /upscale/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n"
        b"Content-Length: 2\r\n\r\nx",
        (400,),
    ),
    "length-and-chunks": (
        b"PUT /upscale/a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        (400, 422),
    ),
    "encoding-unknown": (
        b"PUT /upscale/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n",
        (400, 501),
    ),
    "chunk-no-number": (
        b"PUT /upscale/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        (400,),
    ),
    "chunk-too-long": (
        b"PUT /upscale/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"f" * 100 + b"\r\n",
        (400,),
    ),
    "key-of-300": (
        b"POST /upscale HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nIdempotency-Key: "
        + b"k" * 300 + b"\r\nContent-Length: 0\r\n\r\n",
        (422,),
    ),
    "origin-foreign": (
        b"GET /jobs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Origin: https://evil.test\r\n\r\n",
        (403,),
    ),
    "origin-null": (
        b"GET /jobs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nOrigin: null\r\n\r\n",
        (403,),
    ),
    "origin-of-another-port": (
        b"GET /jobs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Origin: http://localhost:1\r\n\r\n",
        (403,),
    ),
    "origin-that-is-none": (
        b"GET /jobs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Origin: http://[::1\r\n\r\n",
        (403,),
    ),
    "fetched-by-a-foreign-page": (
        b"GET /jobs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n\r\n",
        (403,),
    ),
    "fetched-by-a-page-of-another-port": (
        b"GET /jobs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Sec-Fetch-Site: same-site\r\nSec-Fetch-Mode: cors\r\n\r\n",
        (403,),
    ),
    "preflight": (
        b"OPTIONS /upscale HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Origin: https://evil.test\r\nAccess-Control-Request-Method: POST\r\n\r\n",
        (405,),
    ),
    "trace": (b"TRACE /jobs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", (405,)),
    "connect": (b"CONNECT a:1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", (404,)),
    "chunk-of-a-million-of-extension": (
        b"POST /upscale HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * 10**6 + b"\r\na\r\n0\r\n\r\n",
        (400, CUT),
    ),
    "trailer-of-a-million": (
        b"POST /upscale HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\nx: " + b"y" * 10**6 + b"\r\n\r\n",
        (400, CUT),
    ),
    "100000-trailers": (
        b"POST /upscale HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"x: y\r\n" * 100_000 + b"\r\n",
        (400, CUT),
    ),
    "100000-chunks-of-one-byte": (
        b"POST /upscale HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"1\r\n{\r\n" * 100_000 + b"0\r\n\r\n",
        (422, 413, CUT),
    ),
    "upgrade": (
        b"GET /jobs HTTP/1.1\r\nHost: localhost\r\nConnection: close, upgrade\r\n"
        b"Upgrade: websocket\r\nOrigin: https://evil.test\r\n\r\n",
        (403,),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("request_", "statuses"), cases(HEADS))
def test_heads(victim: Victim, request_: bytes, statuses: tuple[int, ...]) -> None:
    told = victim.raw(request_)
    assert told.status in statuses, told.body
    assert "access-control" not in told.headers.lower()
    assert told.body
