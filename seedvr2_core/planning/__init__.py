"""From what a request asks for to the plan of a job. Arithmetic only; loads no torch.

The names are loaded on first use: the records of a plan are read where numpy is not needed.
"""

from typing import TYPE_CHECKING

from seedvr2_core.lazy import loaded_on_use

if TYPE_CHECKING:
    from seedvr2_core.planning.build import build_plan
    from seedvr2_core.planning.plan import Options, Piece, Plan, Segment, Shot, plan_latent_windows

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
        "plan_latent_windows": "seedvr2_core.planning.plan",
    },
)
