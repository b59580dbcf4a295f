"""What a page owes to everybody: contrast, names and roles, in both colour schemes."""

from collections.abc import Iterator
from pathlib import Path

from tests.kits.http.person import Person


def each_look(person: Person, folder: Path, name: str) -> Iterator[str]:
    """Show what is open narrow and wide, in both colour schemes, and keep a picture of each.

    Yields:
        The picture's name, while the page looks so; nothing lies beside the window.
    """
    for width in (390, 1280):
        for dark in (False, True):
            picture = f"{name}-{width}-{'dark' if dark else 'light'}.png"
            person.looks(folder / picture, width=width, dark=dark)
            assert not person.overflows(), picture
            yield picture


def looks_everywhere(person: Person, folder: Path, name: str) -> None:
    """Keep pictures at both widths in both schemes; nothing lies beside the window."""
    for _ in each_look(person, folder, name):
        pass


def judge(person: Person, axe: str | None) -> None:
    """No serious fault in names, roles and contrast, in both colour schemes; axe: its script."""
    for scheme in ("light", "dark"):
        told = {"name": "prefers-color-scheme", "value": scheme}
        person.page.call("Emulation.setEmulatedMedia", features=[told])
        assert contrasts(person) == [], scheme
        assert nameless(person) == [], scheme
        if axe is not None:
            assert person.axe(axe) == [], scheme


def contrasts(person: Person) -> list[str]:
    """Texts whose contrast with what is behind them is less than 4.5 (WCAG 2.2, 1.4.3)."""
    return person.page.run("""(() => {
      const channel = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
      const numbers = (c) => c.match(/[\\d.]+/g).map(Number);
      const light = ([r, g, b]) =>
        0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
      const behind = (e) => {
        for (; e; e = e.parentElement) {
          const c = numbers(getComputedStyle(e).backgroundColor);
          if (c.length < 4 || c[3] > 0) return c;
        }
        return [255, 255, 255];
      };
      const bad = [];
      for (const e of document.querySelectorAll('body *')) {
        const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
        if (!own || !e.checkVisibility() || e.disabled) continue;
        const [a, b] = [light(numbers(getComputedStyle(e).color)), light(behind(e))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < 4.5) bad.push(`${e.tagName} ${e.id} ${ratio.toFixed(2)}`);
      }
      return bad;
    })()""")


def nameless(person: Person) -> list[str]:
    """What can be operated and has no name, by the browser's own accessibility tree."""
    tree = person.page.call("Accessibility.getFullAXTree")["nodes"]
    operable = {"button", "link", "textbox", "searchbox", "combobox", "slider", "checkbox"}
    return [
        node["role"]["value"]
        for node in tree
        if not node.get("ignored")
        and node.get("role", {}).get("value") in operable
        and not node.get("name", {}).get("value")
    ]
