"""Downloads as the fetch task makes them, and what they leave in the intake."""

from tasks.fetch import fetch
from tasks.schemas import FetchedSource, UpscaleRequest
from tasks.settings import Settings


def by_url(url: str) -> UpscaleRequest:
    """The request for the video at an address."""
    return UpscaleRequest(video_url=url)


def get(url: str) -> FetchedSource:
    """Fetch the video at an address, without Prefect."""
    source = fetch.fn(by_url(url))
    assert source is not None
    return source


def parts(settings: Settings) -> list[str]:
    """Suffixes of the files in the intake, without locks."""
    found = sorted(path.suffix for path in settings.intake_dir.glob("*"))
    return [suffix for suffix in found if suffix != ".lock"]
