"""Plans, source frames and runs for tests of the SeedVR2 engine, with tiny networks."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from seedvr2_core.config import VAE_TINY
from seedvr2_core.engines.protocol import Commit
from seedvr2_core.engines.seedvr2.session import SeedVR2Session
from seedvr2_core.engines.seedvr2.shot import LatentState, ShotGrid
from seedvr2_core.engines.seedvr2.tiny import make_models, vae_weights
from seedvr2_core.frames import Frame
from seedvr2_core.planning.plan import EngineSettings, Limits, MemoryPlan, Piece, Plan, Shot
from seedvr2_core.vae.decoder import DecoderState
from seedvr2_core.vae.encoder import EncoderState
from seedvr2_core.vae.model import FramesPerLevel, VideoVAE, build_vae
from seedvr2_core.video.info import EncoderSettings
from tests.kits.factories import make_info

SOURCE = 16
"""Width and height of the source frames in pixels; the plans here double both."""
MEMORY = MemoryPlan(
    vae_dtype="float32",
    dit_dtype="float32",
    encoder_slice=4,
    decoder_slice=2,
    encoder_level_frames=(0, 0, 0, 0),
    decoder_level_frames=(0, 0, 0, 0),
    chunk_tokens=0,
    park_caches=False,
    weights_resident=True,
)
ENGINE = EngineSettings(
    name="tiny",
    weights_digest="",
    seed=5,
    window=12,
    overlap=3,
    stitch_mode="crossfade",
    color_correction="auto",
)

BuildVAE = Callable[[torch.dtype], VideoVAE]


def make_plan(*lengths: int, memory: dict[str, object] | None = None, **engine: object) -> Plan:
    """Plan a video with one shot for each length (in frames); its frames come at uneven times.

    Args:
        lengths: frames of each shot.
        memory: fields of `MemoryPlan` to change.
        engine: fields of `EngineSettings` to change.
    """
    edges = [0, *itertools.accumulate(lengths)]
    pts = tuple(100 + 3 * i + i % 2 for i in range(edges[-1]))
    info = make_info(SOURCE, SOURCE, pts=pts)
    return Plan(
        format=1,
        pixel_version=1,
        job_key="",
        source_sha256="",
        video=info,
        resolution="720p",
        width=2 * SOURCE,
        height=2 * SOURCE,
        engine=dataclasses.replace(ENGINE, **engine),
        device="cpu",
        torch_threads=1,
        shots=tuple(
            Shot(index=i, start=a, stop=b) for i, (a, b) in enumerate(itertools.pairwise(edges))
        ),
        segments=(),
        encoder=EncoderSettings(
            codec="h264",
            preset="medium",
            crf=18,
            pix_fmt="yuv420p",
            width=2 * SOURCE,
            height=2 * SOURCE,
            time_base=info.time_base,
            rate=info.nominal_rate,
            keyint=125,
            threads=1,
            color=info.color,
        ),
        memory=dataclasses.replace(MEMORY, **(memory or {})),
        eta_seconds=1.0,
        limits=Limits(load=1, stall=1, job=None),
    )


def make_frames(plan: Plan) -> list[Frame]:
    """Make the plan's source frames: moving waves with noise, [SOURCE, SOURCE, 3] uint8."""
    rng = np.random.default_rng(3)
    y, x, c = np.mgrid[0:SOURCE, 0:SOURCE, 0:3]
    return [
        Frame(_rounded(128 + 90 * np.sin((x + y / 2 + 0.7 * i + 2 * c) / 3), rng), pts, i)
        for i, pts in enumerate(plan.video.pts)
    ]


def _rounded(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return (picture + rng.normal(0, 10, picture.shape)).clip(0, 255).astype(np.uint8)


def open_tiny(
    plan: Plan, *, build_vae: BuildVAE | None = None, dit_scale: float = 1
) -> SeedVR2Session:
    """Open a session with the tiny networks; its beats go nowhere.

    Args:
        plan: what it works by.
        build_vae: makes another VAE than the tiny one.
        dit_scale: factor of the transformer's last layer.
    """
    models = make_models(plan, device="cpu")
    models.dit.vid_out.proj.weight.mul_(dit_scale)
    if build_vae is not None:
        models = dataclasses.replace(models, build_vae=build_vae)
    return SeedVR2Session(models, plan, device="cpu", beat=lambda *_: None)


def make_grid(plan: Plan, shot: int = 0) -> ShotGrid:
    """The grid of latents and windows of a shot."""
    assert plan.memory is not None
    return ShotGrid.build(plan.shots[shot], plan.engine, plan.memory)


def make_pieces(plan: Plan, *groups: int, shot: int = 0) -> list[Piece]:
    """Cut a shot into pieces at starts of windows.

    Args:
        plan: has the shot.
        groups: how many windows each piece has; without any, each window is a piece.
        shot: index of the shot.
    """
    grid = make_grid(plan, shot)
    starts = [grid.first_frame(window.start) for window in grid.windows]
    firsts = [0, *itertools.accumulate(groups or [1] * len(starts))]
    assert firsts[-1] == len(starts)
    edges = [*(starts[k] for k in firsts[:-1]), grid.shot.stop]
    return [Piece(shot=shot, start=a, stop=b) for a, b in itertools.pairwise(edges)]


def whole(plan: Plan, shot: int = 0) -> Piece:
    """A shot as one piece."""
    return Piece(shot=shot, start=plan.shots[shot].start, stop=plan.shots[shot].stop)


@dataclass(frozen=True, slots=True)
class Result:
    """What a session made of a piece."""

    frames: list[Frame]
    """The restored frames."""
    commit: Commit
    """What the session keeps of the piece for the next one."""


def run_piece(
    session: SeedVR2Session, plan: Plan, piece: Piece, frames: Iterator[Frame], state: LatentState
) -> Result:
    """Restore one piece; `frames` are the source frames that were not read yet."""
    shot = plan.shots[piece.shot]
    restored = list(session.restore(frames, shot=shot, piece=piece, state=state))
    return Result(restored, session.take_commit())


def run_shot(
    session: SeedVR2Session, plan: Plan, source: Sequence[Frame], pieces: Sequence[Piece]
) -> list[Result]:
    """Restore a shot from its start, piece after piece, with one state that goes along."""
    shot = plan.shots[pieces[0].shot]
    frames = iter(source[max(0, shot.start) :])  # a part's frames before it come first
    state = session.begin(frames, shot=shot, piece=pieces[0])
    return [run_piece(session, plan, piece, frames, state) for piece in pieces]


def begin_behind(
    session: SeedVR2Session,
    plan: Plan,
    source: Sequence[Frame],
    piece: Piece,
    results: "Sequence[Result]",
) -> tuple[LatentState, Iterator[Frame]]:
    """Begin in the middle of a shot, as after a crash.

    Args:
        session: a new session.
        plan: what it works by.
        source: all source frames.
        piece: where to begin.
        results: what came of the pieces before it.

    Returns:
        The state, rebuilt from what the pieces before it committed, and the source frames that the
        session has not read yet.
    """
    shot = plan.shots[piece.shot]
    reads = session.reads(shot, [piece])
    kept = latents(results)[reads.latents.start : reads.latents.stop]
    frames = iter(source[reads.frames.start : reads.frames.stop])
    before = dataclasses.replace(results[-1].commit, latents=kept)
    return session.begin(frames, shot=shot, piece=piece, before=before), frames


def run_whole(plan: Plan, source: Sequence[Frame], shot: int = 0) -> Result:
    """Restore a shot as one piece in a session of its own."""
    return run_shot(open_tiny(plan), plan, source, [whole(plan, shot)])[0]


def pictures(results: Sequence[Result]) -> np.ndarray:
    """The restored frames of some pieces, [T, H, W, 3] uint8."""
    return np.stack([frame.rgb for result in results for frame in result.frames])


def latents(results: Sequence[Result]) -> Tensor:
    """The committed latents of some pieces, joined in time."""
    parts = [result.commit.latents for result in results]
    return torch.cat([part for part in parts if part is not None])


def state_bits(state: LatentState) -> dict[str, Tensor]:
    """Copies of all tensors of a state, by name."""
    caches = [*state.encoder.named_tensors(), *state.decoder.named_tensors()]
    bits = {f"{i}.{name}": tensor for i, (name, tensor) in enumerate(caches)}
    bits["encoded"] = state.encoded_ZhwC
    if state.tail_KhwC is not None:
        bits["tail"] = state.tail_KhwC
    return {name: tensor.clone() for name, tensor in bits.items()}


def differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    """Names of the tensors that are not equal bit by bit, or that only one side has."""
    both = a.keys() & b.keys()
    return [*(a.keys() ^ b.keys()), *(name for name in both if not torch.equal(a[name], b[name]))]


class FaultyVAE(VideoVAE):
    """A VAE that overflows in float16 at one latent, as a real one may; in float32 it is right.

    The fault is in its output and not in its caches, so what is done again from there is right.
    """

    encode_fault: int | None = None
    decode_fault: int | None = None

    def encode_latents(
        self,
        video_BCTHW: Tensor,
        state: EncoderState | None = None,
        *,
        noise_BCZhw: Tensor | None = None,
        max_frames: FramesPerLevel | None = None,
    ) -> tuple[Tensor, EncoderState]:
        assert state is not None
        first = state.next_latent
        out, state = super().encode_latents(video_BCTHW, state, max_frames=max_frames)
        place = None if self.encode_fault is None else self.encode_fault - first
        if self.dtype == torch.float16 and place is not None and 0 <= place < out.shape[1]:
            out[:, place, 0, 0, 0] = torch.inf
        return out, state

    def decode_latents(
        self,
        latents_BZhwC: Tensor,
        state: DecoderState | None = None,
        *,
        max_frames: FramesPerLevel | None = None,
    ) -> tuple[Tensor, DecoderState]:
        assert state is not None
        first = state.next_latent
        out, state = super().decode_latents(latents_BZhwC, state, max_frames=max_frames)
        place = None if self.decode_fault is None else self.decode_fault - first
        if (
            self.dtype == torch.float16
            and place is not None
            and 0 <= place < latents_BZhwC.shape[1]
        ):
            out[:, :, -1] = torch.nan
        return out, state


def faulty(*, encode: int | None = None, decode: int | None = None) -> BuildVAE:
    """Make a `build_vae` for `open_tiny` whose VAE overflows in float16 at these latents."""

    def build(dtype: torch.dtype) -> VideoVAE:
        vae = build_vae(VAE_TINY, vae_weights(), dtype=dtype)
        vae.__class__ = FaultyVAE
        assert isinstance(vae, FaultyVAE)
        vae.encode_fault, vae.decode_fault = encode, decode
        return vae

    return build


def scaled(name: str, factor: float) -> BuildVAE:
    """Make a `build_vae` for `open_tiny` that multiplies the weight of this name by a factor."""

    def build(dtype: torch.dtype) -> VideoVAE:
        weights = vae_weights()
        weights[name] = weights[name] * factor
        return build_vae(VAE_TINY, weights, dtype=dtype)

    return build
