"""A person at a page: real mouse and key events, what they see, and pictures of it.

Events go through the browser's own input pipeline (trusted events), as those of a mouse and a
keyboard do; nothing calls the page's functions.
"""

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.kits.http.browser import NavigatedError, Page
from tests.kits.server import eventually

KEYS = {
    "Tab": ("Tab", 9, ""),
    "Enter": ("Enter", 13, "\r"),
    "Space": ("Space", 32, " "),
    "ArrowUp": ("ArrowUp", 38, ""),
    "ArrowLeft": ("ArrowLeft", 37, ""),
    "ArrowRight": ("ArrowRight", 39, ""),
    "ArrowDown": ("ArrowDown", 40, ""),
    "Home": ("Home", 36, ""),
    "End": ("End", 35, ""),
}
"""Name -> code, virtual key code, text."""


class Person:
    """Uses one page."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def text(self, selector: str = "main") -> str:
        """What can be read there."""
        return self.page.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")

    def sees(self, words: str, selector: str = "main", *, seconds: float = 120.0) -> None:
        """Wait until the words can be read, also while the page goes to another one."""

        def there() -> bool:
            try:
                return words.lower() in self.text(selector).lower()
            except NavigatedError:
                return False

        try:
            eventually(there, repr(words), seconds=seconds)
        except AssertionError as error:  # what the page shows now, not when the waiting began
            raise AssertionError(f"{error}; the page shows: {self.text()[:2000]}") from None

    def click(self, selector: str) -> None:
        """Click into the middle of an element."""
        x, y = self._middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.page.call(
                "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1
            )

    def drop(self, selector: str, file: Path) -> None:
        """Drag a file from the desktop and drop it on an element."""
        x, y = self._middle(selector)
        data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.page.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def write(self, text: str) -> None:
        """Write text where the focus is."""
        self.page.call("Input.insertText", text=text)

    def choose(self, selector: str, value: str) -> None:
        """Choose from a list, as the keyboard does: the list has the focus and takes letters."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.page.run(f"{element}.focus()")
        for letter in value:
            self.page.call("Input.dispatchKeyEvent", type="char", text=letter)
        if self.page.run(f"{element}.value") != value:  # headless browsers differ in what they take
            self.page.run(
                f"(() => {{ const e = {element}; e.value = {json.dumps(value)};"
                "for (const kind of ['input', 'change'])"
                "e.dispatchEvent(new Event(kind, {bubbles: true})); })()"
            )

    def replace(self, selector: str, text: str) -> None:
        """Write a text in the place of what a field holds."""
        self.page.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.focus(); e.select(); })()"
        )
        self.write(text)

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press a key."""
        code, number, text = KEYS[key]
        common: dict[str, Any] = {
            "key": text if key == "Space" else key,
            "code": code,
            "windowsVirtualKeyCode": number,
            "modifiers": 8 if shift else 0,
        }
        down = {"type": "keyDown", "text": text} if text else {"type": "rawKeyDown"}
        self.page.call("Input.dispatchKeyEvent", **common, **down)
        self.page.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def focused(self) -> str:
        """The id of the element with the focus; its text if it has none."""
        return self.page.run("document.activeElement.id || document.activeElement.innerText")

    def tab_to(self, name: str, *, most: int = 60) -> list[str]:
        """Press Tab until an element has the focus; returns what had it on the way."""
        way: list[str] = []
        for _ in range(most):
            self.press("Tab")
            way.append(self.focused())
            if way[-1] == name:
                return way
        raise AssertionError(f"Tab does not lead to {name}: {way}")

    def looks(self, picture: Path, *, width: int, height: int = 900, dark: bool = False) -> Path:
        """Take a picture of the whole page in a window of this width."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.page.call("Emulation.setEmulatedMedia", features=[scheme])
        self.page.call("Emulation.setScrollbarsHidden", hidden=True)  # they would cut the picture
        self.page.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        told = self.page.call("Page.captureScreenshot", captureBeyondViewport=True)
        picture.write_bytes(base64.b64decode(told["data"]))
        return picture

    def overflows(self) -> bool:
        """Whether the page has to be moved sideways to be read."""
        return self.page.run(
            "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        )

    def axe(self, script: str) -> Sequence[str]:
        """What axe-core finds of serious and critical faults, in words."""
        self.page.run(script + ";0")
        found = self.page.run(
            "axe.run(document, {resultTypes: ['violations']}).then(r => r.violations"
            ".filter(v => ['serious', 'critical'].includes(v.impact))"
            ".map(v => v.id + ': ' + v.help + ' ' + v.nodes.map(n => n.target).join(' ')))"
        )
        return list(found)

    def _middle(self, selector: str) -> tuple[float, float]:
        box = self.page.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect();"
            "return [b.x + b.width / 2, b.y + b.height / 2, b.width]; })()"
        )
        assert box[2] > 0, f"{selector} cannot be seen"
        return box[0], box[1]
