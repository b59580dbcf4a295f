"""The checks with tiny real files, and the faults that they are there to find."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seedvr2_core.engines.seedvr2.session import SeedVR2Session
from seedvr2_core.engines.seedvr2.shot import LatentState
from seedvr2_core.errors import DeadlineError, InvalidRequestError
from seedvr2_core.frames import BLACK_ROWS, Frame, pad
from seedvr2_core.planning.plan import Piece
from seedvr2_core.selfcheck import differences
from seedvr2_core.selfcheck.bench import Clip, pad_without_black
from seedvr2_core.selfcheck.report import CHECK_NAMES, Check, Clock
from seedvr2_core.selfcheck.run import MIN_LATENTS, CheckSetup, Findings, run_selfcheck
from tests.kits.factories import make_info
from tests.kits.gpu.pretended import DEVICE, pretended
from tests.kits.restorer import make_frames, make_plan
from tests.kits.selfcheck import MODEL, scale_weights, small_world, write_weights

pytestmark = pytest.mark.slow

WIDTH, HEIGHT = 16, 24
FRAMES = 4 * MIN_LATENTS - 3
QUICK = tuple(name for name in CHECK_NAMES if name != "resume_long")


def make_clip(num_frames: int = 20, *, deep: bool = False) -> Clip:
    """Moving waves; `deep` makes the same pictures in 16 bits."""
    frames = tuple(make_frames(make_plan(num_frames)))
    if deep:
        frames = tuple(replace(frame, rgb=frame.rgb.astype(np.uint16) * 257) for frame in frames)
    return Clip(name="waves", sha256="", video=make_info(16, 16), frames=frames)


def make_setup(folder: Path, *checks: str, vae_dtype: str = "float16") -> CheckSetup:
    return CheckSetup(
        model=MODEL,
        weights_dir=folder,
        clip=make_clip(),
        width=WIDTH,
        height=HEIGHT,
        device="cpu",
        device_kind="cpu",
        device_bytes=None,
        checks=checks,
        vae_dtype=vae_dtype,
        num_latents=MIN_LATENTS,
        world=small_world(),
    )


@dataclass
class HeardSelfcheck:
    """A finished selfcheck and what was heard of it."""

    findings: Findings
    pictures: dict[str, np.ndarray]
    heard: list[tuple[str, ...]] = field(default_factory=list)

    def __getitem__(self, name: str) -> Check:
        return next(check for check in self.findings.checks if check.name == name)


def run(setup: CheckSetup, clock: Clock | None = None) -> HeardSelfcheck:
    pictures: dict[str, np.ndarray] = {}
    heard: list[tuple[str, ...]] = []

    def save(name: str, picture: np.ndarray) -> str:
        assert name not in pictures
        pictures[name] = picture
        return f"{name}.png"

    findings = run_selfcheck(
        setup,
        clock=clock or Clock(3600),
        save=save,
        hear=lambda findings: heard.append(tuple(check.name for check in findings.checks)),
    )
    return HeardSelfcheck(findings, pictures, heard)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def done(folder: Path) -> HeardSelfcheck:
    """All but the long one; in float32, which is fast on a CPU, but for the activations."""
    return run(make_setup(folder, *QUICK, vae_dtype="float32"))


def test_every_check_ends_with_a_status_and_numbers(done: HeardSelfcheck) -> None:
    checks = done.findings.checks
    assert tuple(check.name for check in checks) == tuple(CHECK_NAMES)
    verdicts = {"load", "activations", "resume"}
    for check in checks[:-1]:
        assert check.status == ("ok" if check.name in verdicts else "reported"), check
        assert check.numbers
        json.dumps(dict(check.numbers), allow_nan=False)
    assert (checks[-1].status, checks[-1].told) == ("skipped", "not asked for")
    assert done.heard == [tuple(CHECK_NAMES)[:n] for n in range(1, len(CHECK_NAMES) + 1)]
    assert not done.findings.failed


def test_pictures_have_the_size_of_the_output(done: HeardSelfcheck) -> None:
    whole, pair = (HEIGHT, WIDTH, 3), (HEIGHT, 2 * WIDTH + differences.DIVIDER_PX, 3)
    sizes = {name: picture.shape for name, picture in done.pictures.items()}
    assert {name for name, size in sizes.items() if size == pair} == {
        *("before_after", "posterior", "fresh_windows")
    }
    methods = ("wavelet", "wavelet_rgb", "lab", "adain", "none", "source")
    assert {name for name, size in sizes.items() if size == whole} == {
        *("before", "after"),
        *(f"color_{method}" for method in methods),
    }
    assert sizes["overlap"] == (HEIGHT, 3 * WIDTH + 2 * differences.DIVIDER_PX, 3)
    assert sizes["black_rows"] == (3 * HEIGHT + 2 * differences.DIVIDER_PX, WIDTH, 3)
    assert {p for c in done.findings.checks for p in c.pictures} == {f"{n}.png" for n in sizes}
    assert all(picture.dtype == np.uint8 for picture in done.pictures.values())


def test_activations_are_seen_at_every_level(done: HeardSelfcheck) -> None:
    numbers = done["activations"].numbers
    assert [*numbers["levels"]] == [
        "encoder.conv_in",
        *(f"encoder.down_blocks.{level}" for level in range(4)),
        *("encoder.mid_block", "encoder.conv_out", "decoder.conv_in", "decoder.mid_block"),
        *(f"decoder.up_blocks.{level}" for level in range(4)),
        "decoder.conv_out",
    ]
    assert numbers["largest"] == max(numbers["levels"].values())
    assert numbers["headroom"] == pytest.approx(65504 / numbers["largest"], rel=1e-4)
    assert numbers["dtype"] == "float16"


def test_what_was_compared_differs_as_it_must(done: HeardSelfcheck) -> None:
    """A comparison of a thing with itself would say nothing."""
    posterior, fresh = done["posterior"].numbers, done["fresh_windows"].numbers
    assert posterior["relative_rms"] > 0
    assert posterior["psnr_db_sample_to_mean"] < 60
    assert posterior["psnr_db_other_seed"] < 60
    assert done["black_rows"].numbers["psnr_db_on_to_off"] < 60
    assert fresh["psnr_db_fresh_to_sliced"] < 60
    overlaps = done["overlap"].numbers
    assert [*overlaps] == ["overlap_1", "overlap_2", "overlap_3"]
    assert len({numbers["psnr_db"] for numbers in overlaps.values()}) == 3
    assert fresh["sliced"] == overlaps["overlap_3"]
    resume = done["resume"].numbers
    assert 0 < resume["taken_up_at_frame"] < resume["frames"] == FRAMES
    assert resume["differing_frames"] == resume["largest_difference_levels"] == 0
    assert abs(np.array(done["color"].numbers["none"]["mean_shift_rgb"])).max() > 1


def test_the_restored_clip_is_the_product(done: HeardSelfcheck) -> None:
    """The stage times are those of the session itself, and its picture is what was saved."""
    numbers = done["restore"].numbers
    assert [*numbers["seconds"]] == ["encode", "dit", "decode"]
    assert numbers["precision"] == "float32 vae, bfloat16 dit"
    assert [*numbers["planned_bytes"]] == [*numbers["seconds"]]
    pair = done.pictures["before_after"]
    assert np.array_equal(pair[:, :WIDTH], done.pictures["before"])
    assert np.array_equal(pair[:, -WIDTH:], done.pictures["after"])
    # The bench runs the same phases one by one.
    assert np.array_equal(done.pictures["after"], done.pictures["posterior"][:, :WIDTH])


def test_a_clip_of_sixteen_bits_is_measured_as_one_of_eight(
    folder: Path, done: HeardSelfcheck
) -> None:
    """Its restored frames have 16 bits too; pictures and numbers are in levels of 255."""
    setup = make_setup(folder, "restore", "resume", vae_dtype="float32")
    deep = run(replace(setup, clip=make_clip(deep=True)))
    wanted, numbers = done["restore"].numbers, deep["restore"].numbers
    for name in ("psnr_db_to_bicubic", "mean_shift_rgb"):
        assert numbers[name] == pytest.approx(wanted[name], abs=0.1)
    assert all(picture.dtype == np.uint8 for picture in deep.pictures.values())
    off = deep.pictures["after"].astype(int) - done.pictures["after"]
    assert abs(off).max() <= 1
    assert deep["resume"].status == "ok", deep["resume"].told


def test_an_overflow_in_the_encoder_is_found_where_it_begins(tmp_path: Path) -> None:
    scale_weights(write_weights(tmp_path), "vae", {"encoder.conv_in.weight": 1e6})
    result = run(make_setup(tmp_path, "activations", "color"))
    assert result.findings.failed == ["activations"]
    check = result["activations"]
    assert check.numbers["overflowed"][0] == "encoder.conv_in"
    assert "decoder.conv_out" in check.numbers["levels"], "the decoder was looked at all the same"
    assert not [level for level in check.numbers["overflowed"] if level.startswith("decoder")]
    assert "float16 overflows, first in encoder.conv_in; the checks below run the VAE in " in (
        check.told
    )
    json.dumps(dict(check.numbers), allow_nan=False)
    assert result["color"].status == "reported", "bfloat16 goes on"


def test_an_overflow_in_the_decoder_is_found_where_it_begins(tmp_path: Path) -> None:
    scale_weights(write_weights(tmp_path), "vae", {"decoder.conv_in.weight": 1e6})
    result = run(make_setup(tmp_path, "activations"))
    assert result.findings.failed == ["activations"]
    assert result["activations"].numbers["overflowed"][0] == "decoder.conv_in"


def test_a_faulty_transformer_is_named(tmp_path: Path) -> None:
    scale_weights(write_weights(tmp_path), "dit-7b", {"vid_out.proj.weight": 1e9})
    result = run(make_setup(tmp_path, "activations"))
    assert result.findings.failed == ["activations"]
    assert result["activations"].told.startswith(
        "phase dit (bfloat16): values of shot 0 are not finite"
    )


def test_resume_fails_when_the_state_is_not_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = SeedVR2Session.begin

    def forgetful(self: SeedVR2Session, *args: Any, piece: Piece, **rest: Any) -> LatentState:
        state = begin(self, *args, piece=piece, **rest)
        if piece.start:
            assert state.tail_KhwC is not None
            state.tail_KhwC = state.tail_KhwC * 0.9
        return state

    monkeypatch.setattr(SeedVR2Session, "begin", forgetful)
    check = run(make_setup(folder, "resume", vae_dtype="float32"))["resume"]
    assert check.status == "failed"
    assert check.numbers["first_differing_frame"] == check.numbers["taken_up_at_frame"]
    assert check.numbers["largest_difference_levels"] > 0
    assert "frames differ" in check.told


@pytest.mark.long
def test_a_long_shot_is_taken_up_from_inside(folder: Path) -> None:
    check = run(make_setup(folder, "resume_long", vae_dtype="float32"))["resume_long"]
    assert check.status == "ok", check.told
    numbers = check.numbers
    assert 0 < numbers["warm_up_from_frame"] < numbers["taken_up_at_frame"]
    assert numbers["warm_up_from_latent"] > 0


class _Ticks(Clock):
    """Time that is up after so many slices, on every machine."""

    def __init__(self, ticks: int) -> None:
        super().__init__(3600)
        self.left = ticks

    def tick(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise DeadlineError("over")


def test_without_time_everything_but_loading_is_skipped(folder: Path) -> None:
    result = run(make_setup(folder), Clock(0))
    assert [check.status for check in result.findings.checks] == ["ok", *["skipped"] * 9]
    assert {check.told for check in result.findings.checks[1:]} == {"out of time"}
    assert not result.pictures
    assert not result.findings.failed


@pytest.mark.parametrize("ticks", [1, 5], ids=["encoder", "decoder"])
def test_a_check_that_was_cut_off_is_skipped(folder: Path, ticks: int) -> None:
    result = run(make_setup(folder, "activations", "color"), _Ticks(ticks))
    statuses = {check.name: (check.status, check.told) for check in result.findings.checks}
    assert statuses["activations"] == statuses["color"] == ("skipped", "out of time")


def test_determinism_is_as_it_was(folder: Path) -> None:
    deterministic: Any = torch.utils.deterministic
    before = deterministic.fill_uninitialized_memory
    run(make_setup(folder), Clock(0))
    assert not torch.are_deterministic_algorithms_enabled()
    assert deterministic.fill_uninitialized_memory == before


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param({"model": "seedvr2-9b"}, "seedvr2-3b, seedvr2-7b", id="model"),
        pytest.param({"checks": ("colour",)}, "there are: load, activations", id="check"),
        pytest.param({"width": 14}, "got 14x24", id="small"),
        pytest.param({"height": 25}, "got 16x25", id="odd"),
    ],
)
def test_wrong_setups_are_refused(folder: Path, change: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidRequestError, match=told):
        run(replace(make_setup(folder), **change))


def test_a_short_clip_is_played_forth_and_back() -> None:
    clip = make_clip(4)
    frames = clip.stretched(9)
    assert [frame.index for frame in frames] == [frame.pts for frame in frames] == [*range(9)]
    played = [next(i for i, f in enumerate(clip.frames) if f.rgb is g.rgb) for g in frames]
    assert played == [0, 1, 2, 3, 2, 1, 0, 1, 2]
    alone = Clip(name="", sha256="", video=clip.video, frames=(Frame(clip.frames[0].rgb, 7, 7),))
    assert all(frame.rgb is clip.frames[0].rgb for frame in alone.stretched(3))


def test_padding_without_black_changes_the_black_rows_alone() -> None:
    picture = torch.rand(3, 40, 50)
    black, reflected = pad(picture), pad_without_black(picture)
    assert torch.equal(black[:, :-BLACK_ROWS], reflected[:, :-BLACK_ROWS])
    assert (black[:, -BLACK_ROWS:] == -1).all()
    assert torch.equal(reflected[:, -BLACK_ROWS:].flip(1), black[:, -2 * BLACK_ROWS : -BLACK_ROWS])


def _pictures(means: Sequence[float]) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    moving = [rng.integers(-20, 20, (6, 8, 3)) for _ in means]
    return [(128 + move + mean).astype(np.uint8) for move, mean in zip(moving, means, strict=True)]


def test_change_at_join_sees_a_step_and_no_motion() -> None:
    reference, joined = _pictures([0] * 10), _pictures([3] * 5 + [-4] * 5)
    numbers = differences.change_at_join(joined, reference, range(4, 7))
    assert (numbers["change_at_join"], numbers["change_elsewhere"]) == (7, 0)
    assert numbers["psnr_db"] == pytest.approx(10 * np.log10(255**2 / 12.5), abs=1e-3)
    assert differences.change_at_join(reference, reference, range(4, 7)) == {
        "change_at_join": 0,
        "change_elsewhere": 0,
        "frame_step_ratio": 1,
        "psnr_db": "inf",
    }


def test_shift_and_drift() -> None:
    sources = _pictures([0] * 4)
    assert differences.mean_shift(_pictures([5] * 4), sources) == [5, 5, 5]
    assert differences.drift(_pictures([5] * 4), sources) == pytest.approx(0, abs=1e-4)
    assert differences.drift(_pictures([5, -5] * 2), sources) == pytest.approx(5, abs=1e-4)


def test_amplified_difference_is_on_grey() -> None:
    a, b = np.full((1, 3, 3), 100, np.uint8), np.array([[[100] * 3, [102] * 3, [60] * 3]], np.uint8)
    assert differences.amplified(b, a)[0, :, 0].tolist() == [128, 144, 0]


def test_the_watch_keeps_what_is_not_finite() -> None:
    class Passing(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    vae = torch.nn.ModuleDict({"encoder": torch.nn.ModuleDict({"conv_in": Passing()})})
    watch = differences.ActivationWatch(vae)
    part = vae.get_submodule("encoder.conv_in")
    with watch:
        part(torch.tensor([1.0, -9.0]))
        assert watch.levels == {"encoder.conv_in": 9}
        part(torch.tensor([float("nan"), 1.0]))
        part(torch.tensor([2.0]))
    part(torch.tensor([50.0]))
    assert watch.overflowed == ["encoder.conv_in"]


@pytest.mark.long
def test_on_a_gpu_it_loads_restores_and_resumes(folder: Path) -> None:
    on_gpu = {"device": str(DEVICE), "device_kind": "H100", "device_bytes": 8_000_000_000}
    with pretended() as ledger:
        done = run(replace(make_setup(folder, "load", "restore", "resume"), **on_gpu))
    assert ledger.faults == []
    assert (done["load"].status, done["resume"].status) == ("ok", "ok")
    assert done["resume"].numbers["differing_frames"] == 0
    assert done["restore"].numbers["peak_allocated_bytes"]["decode"] > 0
