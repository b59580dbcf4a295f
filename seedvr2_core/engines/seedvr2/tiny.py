"""The engines `tiny` and `tiny-3b`: the production networks with few channels and random weights.

They restore nothing, but they run every path of the real engines, in seconds on a CPU. They serve
tests and trials, and are offered only where the setting TEST_ENGINES is on.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from seedvr2_core.beat import Beat
from seedvr2_core.config import DIT_CONFIGS, VAE_TINY
from seedvr2_core.dit.fold import load_folded
from seedvr2_core.dit.model import expected_keys
from seedvr2_core.engines.seedvr2.phases import Models
from seedvr2_core.engines.seedvr2.random_weights import pcg64_v1
from seedvr2_core.engines.seedvr2.session import SeedVR2Session
from seedvr2_core.engines.seedvr2.shot import memory_of
from seedvr2_core.errors import PlanError
from seedvr2_core.planning import Plan
from seedvr2_core.vae.model import VideoVAE, build_vae, random_weights

WEIGHTS_SEED = 7
TEXT_TOKENS = 58
_DIT_CONFIGS = {"tiny": DIT_CONFIGS["tiny-7b"], "tiny-3b": DIT_CONFIGS["tiny-3b"]}
_DETAIL = 0.1
"""Factor on the decoder's last convolution. It draws noise, which would hide the picture."""


def open_session(
    plan: Plan, *, device: str, beat: Beat, weights_dir: Path | None = None
) -> SeedVR2Session:
    """A session of the engine that the plan names (see `protocol.EngineModule`).

    Raises:
        PlanError: the plan is of another engine, or has no memory plan.
    """
    return load(plan, device=device, beat=beat, weights_dir=weights_dir)(plan, beat=beat)


def load(
    plan: Plan, *, device: str, beat: Beat, weights_dir: Path | None = None
) -> Callable[..., SeedVR2Session]:
    """The networks, for one session after another (see `protocol.Opener`).

    Raises:
        PlanError: as `open_session`.
    """
    models = make_models(plan, device=device)

    def open_one(plan: Plan, *, beat: Beat) -> SeedVR2Session:
        return SeedVR2Session(models, plan, device=device, beat=beat)

    return open_one


def make_models(plan: Plan, *, device: str) -> Models:
    """Networks with random weights, the same at every call.

    Raises:
        PlanError: the plan is of another engine, or has no memory plan.
    """
    if plan.engine.name not in _DIT_CONFIGS:
        raise PlanError(f"engines with random weights: {[*_DIT_CONFIGS]}; got {plan.engine.name}")
    config = _DIT_CONFIGS[plan.engine.name]
    text_LX = pcg64_v1({"text": (TEXT_TOKENS, config.text_dim)}, WEIGHTS_SEED)["text"]
    dit = load_folded(
        config,
        pcg64_v1(expected_keys(config), WEIGHTS_SEED),
        text_LX,
        dtype=getattr(torch, memory_of(plan).dit_dtype),
        device=device,
    )
    weights = vae_weights()

    def build(dtype: torch.dtype) -> VideoVAE:
        return build_vae(VAE_TINY, weights, dtype=dtype, device=device)

    return Models(build_vae=build, dit=dit)


def vae_weights() -> dict[str, Tensor]:
    """Weights of the VAE, float32."""
    weights = random_weights(VAE_TINY, seed=WEIGHTS_SEED)
    for name in ("decoder.conv_out.weight", "decoder.conv_out.bias"):
        weights[name] *= _DETAIL
    return weights
