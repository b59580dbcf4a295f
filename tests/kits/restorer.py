"""Plans, source frames and runs for tests of the SeedVR2 engine with tiny networks."""

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
"""Side of the source frames; plans double it."""
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
    """One shot for every length in frames; frames come at uneven times."""
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
    """Moving waves and noise, uint8."""
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
    """A session without heartbeat; `build_vae` replaces the models' own."""
    models = make_models(plan, device="cpu")
    models.dit.vid_out.proj.weight.mul_(dit_scale)
    if build_vae is not None:
        models = dataclasses.replace(models, build_vae=build_vae)
    return SeedVR2Session(models, plan, device="cpu", beat=lambda *_: None)


def make_grid(plan: Plan, shot: int = 0) -> ShotGrid:
    assert plan.memory is not None
    return ShotGrid.build(plan.shots[shot], plan.engine, plan.memory)


def make_pieces(plan: Plan, *groups: int, shot: int = 0) -> list[Piece]:
    """Pieces of so many windows each; none given: one piece for each window."""
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
    """What came of a piece."""

    frames: list[Frame]
    commit: Commit


def run_piece(
    session: SeedVR2Session, plan: Plan, piece: Piece, frames: Iterator[Frame], state: LatentState
) -> Result:
    shot = plan.shots[piece.shot]
    restored = list(session.restore(frames, shot=shot, piece=piece, state=state))
    return Result(restored, session.take_commit())


def run_shot(
    session: SeedVR2Session, plan: Plan, source: Sequence[Frame], pieces: Sequence[Piece]
) -> list[Result]:
    """A shot from its start, piece after piece with one state."""
    shot = plan.shots[pieces[0].shot]
    frames = iter(source[shot.start :])
    state = session.begin(frames, shot=shot, piece=pieces[0])
    return [run_piece(session, plan, piece, frames, state) for piece in pieces]


def begin_behind(
    session: SeedVR2Session,
    plan: Plan,
    source: Sequence[Frame],
    piece: Piece,
    results: "Sequence[Result]",
) -> tuple[LatentState, Iterator[Frame]]:
    """The state at a piece from what the pieces before it left, and the frames not read yet."""
    shot = plan.shots[piece.shot]
    reads = session.reads(shot, [piece])
    kept = latents(results)[reads.latents.start : reads.latents.stop]
    frames = iter(source[reads.frames.start : reads.frames.stop])
    before = dataclasses.replace(results[-1].commit, latents=kept)
    return session.begin(frames, shot=shot, piece=piece, before=before), frames


def run_whole(plan: Plan, source: Sequence[Frame], shot: int = 0) -> Result:
    """A shot as one piece in a session of its own."""
    return run_shot(open_tiny(plan), plan, source, [whole(plan, shot)])[0]


def pictures(results: Sequence[Result]) -> np.ndarray:
    """All restored frames of neighbouring pieces."""
    return np.stack([frame.rgb for result in results for frame in result.frames])


def latents(results: Sequence[Result]) -> Tensor:
    """All committed latents of neighbouring pieces."""
    parts = [result.commit.latents for result in results]
    return torch.cat([part for part in parts if part is not None])


def state_bits(state: LatentState) -> dict[str, Tensor]:
    """Copies of all tensors of a state."""
    caches = [*state.encoder.named_tensors(), *state.decoder.named_tensors()]
    bits = {f"{i}.{name}": tensor for i, (name, tensor) in enumerate(caches)}
    bits["encoded"] = state.encoded_ZhwC
    if state.tail_KhwC is not None:
        bits["tail"] = state.tail_KhwC
    return {name: tensor.clone() for name, tensor in bits.items()}


def differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    """Names of tensors that are not the same bits, or are on one side only."""
    both = a.keys() & b.keys()
    return [*(a.keys() ^ b.keys()), *(name for name in both if not torch.equal(a[name], b[name]))]


class FaultyVAE(VideoVAE):
    """In float16 it makes infinities at one latent, in what comes out and not in the caches."""

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
    """A `build_vae` whose float16 VAE fails at that latent."""

    def build(dtype: torch.dtype) -> VideoVAE:
        vae = build_vae(VAE_TINY, vae_weights(), dtype=dtype)
        vae.__class__ = FaultyVAE
        assert isinstance(vae, FaultyVAE)
        vae.encode_fault, vae.decode_fault = encode, decode
        return vae

    return build


def scaled(name: str, factor: float) -> BuildVAE:
    """A `build_vae` whose weight of that name is that many times larger."""

    def build(dtype: torch.dtype) -> VideoVAE:
        weights = vae_weights()
        weights[name] = weights[name] * factor
        return build_vae(VAE_TINY, weights, dtype=dtype)

    return build
