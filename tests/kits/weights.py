"""Small weights of every part of a model, a catalog that lists them, and a hub on loopback."""

import dataclasses
import functools
import hashlib
import http.server
import json
import struct
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save, save_file
from torch import Tensor

from seedvr2_core.config import DIT_TINY_3B, DIT_TINY_7B, VAE_TINY, DiTConfig
from seedvr2_core.dit.model import expected_keys
from seedvr2_core.engines.seedvr2.random_weights import pcg64_v1
from seedvr2_core.vae.model import random_weights
from seedvr2_core.weights.folder import Catalog
from seedvr2_core.weights.layouts import Layout, dit_layout, text_layout, vae_layout
from seedvr2_core.weights.table import FIRST_3B, MODEL_PARTS, PublicFile

TEXT_SHAPE = (6, 48)
NEGATIVE_TEXT_SHAPE = (7, 48)
ROPE = "attn.rope.rope.freqs"
REPO = "someone/weights"


@functools.cache
def tiny_layouts() -> Mapping[str, Layout]:
    return {
        "dit-3b": dit_layout(DIT_TINY_3B, text=TEXT_SHAPE, negative=NEGATIVE_TEXT_SHAPE),
        "dit-7b": dit_layout(DIT_TINY_7B, text=TEXT_SHAPE, negative=NEGATIVE_TEXT_SHAPE),
        "vae": vae_layout(VAE_TINY),
        "pos_emb": text_layout(TEXT_SHAPE),
    }


@functools.cache
def _tensors(part: str) -> dict[str, Tensor]:
    if part == "vae":
        return random_weights(VAE_TINY, seed=1)
    if part == "pos_emb":
        return {"pos_emb": torch.randn(TEXT_SHAPE, generator=torch.Generator().manual_seed(1))}
    config: DiTConfig = DIT_TINY_3B if part == "dit-3b" else DIT_TINY_7B
    shapes = expected_keys(config)
    weights = pcg64_v1(shapes, seed=2 if part.endswith("sharp") else 1)
    rope = {n: torch.full(s, 7.0) for n, s in shapes.items() if n.endswith(ROPE)}
    return {**weights, **rope}


def tensors(part: str, dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """The small weights of a part.

    Their rope buffers hold wrong values: a loader must calculate these tables and not read them.
    """
    return {name: t.to(dtype) for name, t in _tensors(part).items()}


def file_bytes(part: str) -> bytes:
    """The content of the part's .safetensors file in float16."""
    return save(tensors(part))


def write_safetensors(path: Path, state: Mapping[str, Tensor]) -> Path:
    save_file({name: t.clone().contiguous() for name, t in state.items()}, path)
    return path


def write_sparse(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Path:
    """Write a float16 file that says it is large and takes no space: after its header is a hole."""
    header, end = {}, 0
    for name in sorted(shapes):
        size = 2 * torch.Size(shapes[name]).numel()
        header[name] = {"dtype": "F16", "shape": shapes[name], "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(8 + len(text) + end)
    return path


def public(part: str, *, known: bool = True, file: str | None = None) -> PublicFile:
    """A row of the table for the small weights of a part."""
    content = file_bytes(part)
    return PublicFile(
        file=file or f"{part}.safetensors",
        repo=REPO,
        part=part,
        precision="fp16",
        sha256=hashlib.sha256(content).hexdigest() if known else None,
    )


@functools.cache
def tiny_catalog() -> Catalog:
    """The catalog of all small weights, with their digests."""
    parts = ("dit-3b", "dit-7b", "dit-7b-sharp", "vae", "pos_emb")
    return Catalog(
        files=tuple(public(part) for part in parts), layouts=tiny_layouts, models=MODEL_PARTS
    )


def with_first_3b() -> Catalog:
    """The small catalog where the 3B's file is one that its publisher has replaced."""
    files = [
        dataclasses.replace(row, superseded=FIRST_3B) if row.part == "dit-3b" else row
        for row in tiny_catalog().files
    ]
    return dataclasses.replace(tiny_catalog(), files=tuple(files))


def without_digest(part: str) -> Catalog:
    """The small catalog without that part's digest."""
    files = [public(row.part, known=row.part != part) for row in tiny_catalog().files]
    return dataclasses.replace(tiny_catalog(), files=tuple(files))


class FakeHub:
    """A weights hub as two servers: the hub, which only redirects, and the store of the bytes."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        """File name -> content, all in REPO."""
        self.etags: dict[str, str] = {}
        """File name -> the ETag that the hub tells instead of the content's SHA-256."""
        self.status: list[int] = []
        """Statuses that the hub's next answers have instead of a redirect."""
        self.cut: list[int] = []
        """For each of the store's next answers, after how many bytes of the body it hangs up."""
        self.commit = "c" * 40
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        """Method, path and headers (names in lower case) of each request to the hub."""
        self.ranges: list[str | None] = []
        """The Range header of each request to the store, or None."""
        self._hub, self._store = self._serve(self._answer), self._serve(self._give)
        self.url = self._address(self._hub)

    def offer(self, part: str, content: bytes | None = None) -> None:
        """Put a part's file on the hub."""
        self.files[f"{part}.safetensors"] = file_bytes(part) if content is None else content

    def close(self) -> None:
        for server, thread in (self._hub, self._store):
            server.shutdown()
            server.server_close()
            thread.join()

    @staticmethod
    def _address(running: tuple[http.server.HTTPServer, threading.Thread]) -> str:
        return f"http://127.0.0.1:{running[0].server_address[1]}"

    def _answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        headers = {name.lower(): value for name, value in handler.headers.items()}
        self.asked.append((handler.command, handler.path, headers))
        name = handler.path.rpartition("/")[2]
        right = handler.path in (f"/{REPO}/resolve/{v}/{name}" for v in ("main", self.commit))
        if self.status or not right or name not in self.files:
            handler.send_response(self.status.pop(0) if self.status else 404)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        content = self.files[name]
        etag = self.etags.get(name, hashlib.sha256(content).hexdigest())
        handler.send_response(302)
        handler.send_header("Location", f"{self._address(self._store)}/{name}?signed=1")
        handler.send_header("X-Repo-Commit", self.commit)
        handler.send_header("X-Linked-Etag", f'"{etag}"')
        handler.send_header("X-Linked-Size", str(len(content)))
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    def _give(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        content = self.files[handler.path.strip("/").partition("?")[0]]
        asked = handler.headers["Range"]
        self.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        handler.send_response(206 if start else 200)
        if start:
            told = f"bytes {start}-{len(content) - 1}/{len(content)}"
            handler.send_header("Content-Range", told)
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        end = start + self.cut.pop(0) if self.cut else None
        handler.wfile.write(content[start:end])
        handler.close_connection = end is not None

    def _serve(
        self, answer: Callable[[http.server.BaseHTTPRequestHandler], None]
    ) -> tuple[http.server.HTTPServer, threading.Thread]:
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                answer(self)

            def do_GET(self) -> None:
                answer(self)

            def log_message(self, *_: object) -> None:
                """Silent."""

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """Clients that leave early are part of the tests."""

        server = Server(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        return server, thread
