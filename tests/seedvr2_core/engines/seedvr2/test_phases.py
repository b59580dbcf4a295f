"""What the phases hold on to while they work."""

import dataclasses
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from seedvr2_core.config import VAE_TINY
from seedvr2_core.engines.seedvr2.tiny import vae_weights
from seedvr2_core.errors import PlanError
from seedvr2_core.planning.plan import Piece, Plan
from seedvr2_core.vae.decoder import DecoderState
from seedvr2_core.vae.model import FramesPerLevel, VideoVAE, build_vae
from tests.kits.restorer import make_frames, make_plan, open_tiny, run_shot, whole


class WatchedVAE(VideoVAE):
    """Knows how many slices' frames were still held whenever a slice was decoded."""

    held: list[int]
    made: list[weakref.ref[torch.UntypedStorage]]

    def decode_latents(
        self,
        latents_BZhwC: Tensor,
        state: DecoderState | None = None,
        *,
        max_frames: FramesPerLevel | None = None,
    ) -> tuple[Tensor, DecoderState]:
        self.held.append(sum(storage() is not None for storage in self.made))
        video_BCTHW, state = super().decode_latents(latents_BZhwC, state, max_frames=max_frames)
        self.made.append(weakref.ref(video_BCTHW.untyped_storage()))
        return video_BCTHW, state


def test_frames_of_a_slice_are_gone_before_the_next_is_decoded() -> None:
    built: list[WatchedVAE] = []

    def build(dtype: torch.dtype) -> VideoVAE:
        vae = build_vae(VAE_TINY, vae_weights(), dtype=dtype)
        vae.__class__ = WatchedVAE
        assert isinstance(vae, WatchedVAE)
        vae.held, vae.made = [], []
        built.append(vae)
        return vae

    plan = make_plan(4 * 6 + 1)
    run_shot(open_tiny(plan, build_vae=build), plan, make_frames(plan), [whole(plan)])
    assert len(built[0].held) > 2
    assert set(built[0].held) == {0}


def _other_shot(plan: Plan) -> Piece:
    return dataclasses.replace(whole(plan), shot=3)


def _inside(plan: Plan) -> Piece:
    return Piece(shot=0, start=0, stop=30)


def _cut_end(plan: Plan) -> Piece:
    return Piece(shot=0, start=0, stop=60)


@pytest.mark.usefixtures("either_path")
@pytest.mark.parametrize("piece", [_other_shot, _inside, _cut_end])
def test_pieces_that_are_no_windows_are_refused(piece: Callable[[Plan], Piece]) -> None:
    plan = make_plan(61)
    session, shot = open_tiny(plan), plan.shots[0]
    state = session.begin(iter(()), shot=shot, piece=whole(plan))
    with pytest.raises(PlanError):
        session.reads(shot, [piece(plan)])
    with pytest.raises(PlanError):
        session.begin(iter(()), shot=shot, piece=piece(plan))
    with pytest.raises(PlanError):
        session.restore(iter(()), shot=shot, piece=piece(plan), state=state)
