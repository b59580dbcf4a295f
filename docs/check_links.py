"""Looks at a built site: `python docs/check_links.py site`. Needs the standard library alone.

Each link to a page, a part of a page or a file must lead to one that is there, and nothing that a
browser loads by itself (scripts, styles, pictures, fonts) may come from another host.
"""

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_LOADED = {"link": "href", "script": "src", "img": "src", "source": "src", "iframe": "src"}
"""Elements whose address a browser asks for without a click."""


class _Page(HTMLParser):
    """The addresses and the anchors of one page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors = {""}
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what an element names and what it refers to."""
        told = dict(attrs)
        self.anchors |= {told.get("id") or "", told.get("name") or ""}
        if tag == "a" and (address := told.get("href")) is not None:
            self.links.append(address)
        if (address := told.get(_LOADED.get(tag, ""))) is not None:
            self.loaded.append(address)


def faults(site: Path) -> Iterator[str]:
    """A sentence for each link that leads nowhere and each thing that comes from elsewhere."""
    site = site.resolve()
    pages = {path: _Page(path.read_text("utf-8")) for path in sorted(site.rglob("*.html"))}
    if not pages:
        yield f"{site} has no page"
    for path, page in pages.items():
        where = path.relative_to(site)
        for address in page.loaded:
            if urlsplit(address).netloc:
                yield f"{where} loads {address}"
        for address in [*page.links, *page.loaded]:
            told = urlsplit(address)
            if told.scheme or told.netloc:
                continue
            target = _target(site, path, unquote(told.path))
            if not target.is_file():
                yield f"{where} leads to {address}, which is not there"
            elif target in pages and unquote(told.fragment) not in pages[target].anchors:
                yield f"{where} leads to {address}; the page has no such part"


def _target(site: Path, page: Path, path: str) -> Path:
    """The file that an address on a page means."""
    if not path:
        return page
    found = site / path.lstrip("/") if path.startswith("/") else page.parent / path
    found = found.resolve()
    return found / "index.html" if found.is_dir() else found


def main() -> None:
    """Look at the site that is named; exit code 1 if something is wrong."""
    found = list(faults(Path(sys.argv[1])))
    sys.stderr.write("".join(f"{fault}\n" for fault in found))
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
