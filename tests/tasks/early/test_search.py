"""Which jobs are begun early, and up to which frames cuts are told while the search goes on."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from seedvr2_core.child.protocol import CutsFound, FindCuts, Heartbeat
from seedvr2_core.errors import ChildFailedError
from seedvr2_core.files import write_record
from seedvr2_core.planning.plan import CutList
from tasks.early import search
from tasks.early.search import CutsUnknownError, EarlySearch, Settled, marks_of, may_begin_early
from tasks.schemas import UpscaleRequest, check_request
from tasks.settings import Settings

REQUEST = FindCuts(
    path=Path("/film.mp4"),
    info=Path("/film.json"),
    device="cpu",
    detector="today's",
    out=Path("/film.cuts.json"),
    marks=(10, 20, 40),
)


def request(**fields: Any) -> UpscaleRequest:
    return check_request(video_path="/film.mp4", **fields)


@pytest.mark.parametrize(
    ("num_frames", "marks"),
    [
        (1, ()),
        (11_999, ()),
        (12_000, (1500, 3000, 6000)),
        (12_001, (1500, 3000, 6000, 12_000)),
        (172_800, (1500, 3000, 6000, 12_000, 24_000, 48_000, 96_000)),
    ],
)
def test_marks_double_up_to_the_end(num_frames: int, marks: tuple[int, ...]) -> None:
    assert marks_of(num_frames) == marks


@pytest.mark.parametrize(
    "changes",
    [
        {"preview": "3s@0:01"},
        {"start": "1"},
        {"end": "2"},
        {"keep_master": True},
        {"max_workers": 2},
        {"color_correction": "lab"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_needs_all_cuts_is_not_begun_early(changes: dict[str, Any]) -> None:
    settings = Settings()
    assert may_begin_early(request(), settings)
    assert not may_begin_early(request(**changes), settings)


def test_a_deployed_job_and_one_with_a_store_are_not_begun_early(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = Settings(store="s3://bucket/folder")
    assert not may_begin_early(request(), store)
    monkeypatch.setattr(search, "deployment", SimpleNamespace(id="some"))
    assert not may_begin_early(request(), Settings())


class ScriptedChild:
    """Says what a test has written down; a name in the script is a mark whose file it writes."""

    def __init__(self, script: list[object], request: FindCuts) -> None:
        self.script, self.request, self.closed = script, request, False
        self.is_ahead, self.alive = False, True

    def send(self, request: FindCuts) -> None:
        assert request is self.request

    def close(self) -> None:
        self.closed = True

    def next_event(self, **limits: object) -> object:
        told = self.script.pop(0)
        if isinstance(told, int):
            settle(self.request, told)
            return Heartbeat(phase="cuts", done=told, total=100)
        if isinstance(told, Exception):
            raise told
        return told


def settle(request: FindCuts, mark: int, detector: str = "") -> None:
    cuts = CutList(detector=detector or request.settled_by(mark), frames=(3,))
    write_record(request.settled_path(mark), cuts)


@pytest.fixture
def wanted(tmp_path: Path) -> FindCuts:
    paths = {"out": tmp_path / "film.cuts.json", "info": tmp_path / "film.json"}
    return FindCuts(
        path=REQUEST.path, device="cpu", detector="today's", marks=REQUEST.marks, **paths
    )


def begun(monkeypatch: pytest.MonkeyPatch, request: FindCuts, *script: object) -> EarlySearch:
    monkeypatch.setattr(search, "Child", lambda log: ScriptedChild(list(script), request))
    return EarlySearch(request)


def test_each_call_tells_the_newest_mark_until_the_search_is_done(
    wanted: FindCuts, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(wanted, 40, detector="an earlier one")  # is not believed
    beat = Heartbeat(phase="cuts", done=5, total=100)
    looking = begun(monkeypatch, wanted, beat, 10, beat, 20, CutsFound(num_cuts=3))
    assert wanted.settled_path(10).name == "film.cuts.10.json"
    assert looking.more() == Settled(until=10, path=wanted.settled_path(10))
    looking.check()
    assert looking.more() == Settled(until=20, path=wanted.settled_path(20))
    assert looking.more() is None
    assert looking.more() is None


def test_what_an_earlier_run_has_settled_is_not_waited_for(
    wanted: FindCuts, monkeypatch: pytest.MonkeyPatch
) -> None:
    for mark in (10, 20):
        settle(wanted, mark)
    looking = begun(monkeypatch, wanted)
    assert looking.more() == Settled(until=20, path=wanted.settled_path(20))


def test_a_search_that_fails_says_so_at_the_next_look(
    wanted: FindCuts, monkeypatch: pytest.MonkeyPatch
) -> None:
    with begun(monkeypatch, wanted, 10, ChildFailedError("it died")) as looking:
        looking.more()
        looking.check()  # nothing is said yet
        child: Any = looking._child
        child.alive = False
        with pytest.raises(CutsUnknownError, match="it died"):
            looking.check()
        assert not child.closed
    assert child.closed
