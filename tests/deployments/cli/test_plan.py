"""`seedvr2 plan`: the numbers of a job that is not run."""

from pathlib import Path

import pytest

from deployments.cli.options import request_of
from deployments.cli.plan import PlanSummary, named_card, planned_summary
from seedvr2_core.errors import InvalidRequestError, InvalidVideoError, ResourceError
from tasks.settings import Settings
from tasks.sources import obtain_source
from tests.kits.http.video_server import VideoServer


def summary(**changes: object) -> PlanSummary:
    return PlanSummary.model_validate(
        {
            "source": "clip.mp4",
            "source_size": (320, 180),
            "frames": 75,
            "duration_seconds": 3.0,
            "width": 1280,
            "height": 720,
            "engine": "seedvr2-7b",
            "device": "cuda:0",
            "shots": 2,
            "segments": 3,
            "window_frames": 100,
            "memory_gb": {"encode": 10.25, "dit": 60.0, "decode": 20.0},
            "eta_seconds": 30.0,
            "eta_is_guess": False,
            "price": None,
            "job_limit_seconds": None,
            "notes": ("a note",),
            **changes,
        }
    )


def test_the_text_names_every_number_of_a_model() -> None:
    text = summary().as_text()
    for said in (
        *("clip.mp4: 320x180, 75 frames, 3.00 s", "1280x720", "seedvr2-7b on cuda:0"),
        *("windows of 100 frames", "encode 10.2 GB, dit 60.0 GB, decode 20.0 GB"),
        *("about 30 s\n", "a note"),
    ):
        assert said in text
    limited = summary(job_limit_seconds=7200.0, eta_is_guess=True).as_text()
    assert "about 30 s (a guess), stopped after 2 h 00 min (SEEDVR2_JOB_SECONDS)" in limited
    names = [line.split()[0] for line in text.splitlines()]
    assert names == ["source", "output", "engine", "shots", "memory", "segments", "time", "note"]


def test_an_engine_of_single_frames_has_no_windows() -> None:
    text = summary(engine="span", window_frames=0, memory_gb={}, notes=()).as_text()
    assert not {"shots", "memory", "note"} & {line.split()[0] for line in text.splitlines()}


@pytest.mark.long
def test_a_local_file_is_planned_and_nothing_of_it_is_kept(demo_clip: Path, tmp_path: Path) -> None:
    settings = Settings(work_dir=tmp_path, allow_local_files=True, allow_cpu_engine=True)
    request = request_of([str(demo_clip)], model="lanczos", resolution="720p")
    found = planned_summary(request, settings)
    assert (found.width, found.height, found.frames, found.engine) == (1280, 720, 75, "lanczos")
    assert not found.eta_is_guess, "a new machine is measured"
    assert [path.name for path in tmp_path.iterdir()] == ["rates"], "and nothing else is kept"


@pytest.mark.long
def test_an_address_is_downloaded_once_for_plan_and_job(
    tmp_path: Path, videos: VideoServer
) -> None:
    settings = Settings(
        work_dir=tmp_path,
        allow_cpu_engine=True,
        fetch_allow=(videos.host,),
        hour_price=3600.0,
    )
    request = request_of(
        [videos.url("/clip.mp4")], model="lanczos", resolution="720p", max_price=0.5
    )
    found = planned_summary(request, settings)
    assert (found.source, found.frames) == ("clip.mp4", 75)
    assert found.price == pytest.approx(found.eta_seconds)
    assert "refused by the limit that you set" in found.notes[-1]
    kept = obtain_source(request, settings, note=print)
    assert kept.path.parent == settings.sources_dir
    assert "if-none-match" in videos.headers_of("/clip.mp4")[-1], "asked, and not sent again"
    videos.offer("/text.mp4", content=b"no video" * 100)
    with pytest.raises(InvalidVideoError):
        planned_summary(request_of([videos.url("/text.mp4")], model="lanczos"), settings)
    assert [path.name for path in settings.sources_dir.iterdir()] == [kept.sha256]


@pytest.mark.long
@pytest.mark.slow
def test_a_model_is_planned_without_a_gpu_for_a_card_that_is_named(
    demo_clip: Path, tmp_path: Path
) -> None:
    """Weights are not needed either: the plan is only looked at."""
    settings = Settings(work_dir=tmp_path, allow_local_files=True, device="cpu")
    request = request_of([str(demo_clip)], model="seedvr2-7b", resolution="720p")
    found = planned_summary(request, settings)
    assert (found.engine, found.device) == ("seedvr2-7b", "NVIDIA H100 80GB")
    assert "planned for NVIDIA H100 80GB" in found.notes[0]
    assert {"encode", "dit", "decode"} <= found.memory_gb.keys()
    assert not list(tmp_path.iterdir())
    told = r"on a GPU with 24 GB needs \d+\.\d GB of host memory .* and 8\.0 GB are free"
    with pytest.raises(ResourceError, match=told):
        planned_summary(request, settings, gpu="24GB,host=8GB")
    large = planned_summary(request, settings, gpu="24GB,host=640GB")
    assert not any("refused" in note for note in large.notes)


@pytest.mark.parametrize(
    ("name", "kind", "free_gb"),
    [
        ("H200", "NVIDIA H200", 139),
        ("16GB", "a GPU with 16 GB", 15),
        ("24", "a GPU with 24 GB", 23),
        ("32GB,host=64GB", "a GPU with 32 GB", 31),
        ("80", "a GPU with 80 GB", 78),
        ("48 GB", "a GPU with 48 GB", 46),
    ],
)
def test_a_card_has_what_other_things_leave_of_it(name: str, kind: str, free_gb: int) -> None:
    card = named_card(name)
    assert (card.kind, card.free_bytes) == (kind, free_gb * 10**9)


@pytest.mark.parametrize(
    "name",
    ["4090", "", "2", "h100s", "-24", "1e9", "24 TB", "24,48", "24,host=", "24,host=1,host=2"],
)
def test_a_card_that_nobody_knows_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequestError, match="--gpu is h100, h200 or the GB"):
        named_card(name)
