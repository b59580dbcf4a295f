"""Makes the plan of a job from what a request asks for. Arithmetic only; loads no torch.

The names are loaded on first use, because the records of a plan are also read by processes that
have no other need of numpy.
"""

from typing import TYPE_CHECKING

from seedvr2_core.lazy import loaded_on_use

if TYPE_CHECKING:
    from seedvr2_core.planning.build import build_plan
    from seedvr2_core.planning.plan import Options, Piece, Plan, Segment, Shot
    from seedvr2_core.planning.windows import plan_latent_windows

__all__ = [
    "Options",
    "Piece",
    "Plan",
    "Segment",
    "Shot",
    "build_plan",
    "plan_latent_windows",
]

__getattr__ = loaded_on_use(
    __name__,
    {
        "build_plan": "seedvr2_core.planning.build",
        "Options": "seedvr2_core.planning.plan",
        "Piece": "seedvr2_core.planning.plan",
        "Plan": "seedvr2_core.planning.plan",
        "Segment": "seedvr2_core.planning.plan",
        "Shot": "seedvr2_core.planning.plan",
        "plan_latent_windows": "seedvr2_core.planning.windows",
    },
)
