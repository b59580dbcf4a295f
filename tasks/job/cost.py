"""What a job will take: time, and money where the operator has said what an hour costs.

A small file can order months of work, so the expected time and price are compared with what the
operator allows before anything dear begins.
"""

from seedvr2_core.errors import InvalidRequestError
from tasks.run.spending import price_of
from tasks.settings import Settings


def excess(eta_seconds: float, num_frames: int, settings: Settings) -> str:
    """Why a job takes too much to be accepted, as a sentence; "" if it does not.

    Args:
        eta_seconds: expected time of the whole job.
        num_frames: of its video.
        settings: what is allowed.
    """
    what = f"the job of {num_frames} frames is expected to"
    advice = "cut the video into parts, or take a lower resolution or a smaller model"
    if eta_seconds > settings.max_eta_seconds:
        return (
            f"{what} take {eta_seconds:.0f} s ({eta_seconds / 3600:.1f} hours); at most "
            f"{settings.max_eta_seconds:.0f} s are accepted here (SEEDVR2_MAX_ETA_SECONDS); "
            f"{advice}"
        )
    price = price_of(eta_seconds, settings)
    if price is not None and settings.max_price is not None and price > settings.max_price:
        return (
            f"{what} cost {price:.2f} ({eta_seconds / 3600:.1f} hours at {settings.hour_price:g}); "
            f"at most {settings.max_price:g} is accepted here (SEEDVR2_MAX_PRICE); {advice}"
        )
    return ""


def refuse_excess(eta_seconds: float, num_frames: int, settings: Settings) -> None:
    """Refuse a job that takes more than the operator allows; arguments as `excess` has them.

    Raises:
        InvalidRequestError: with the numbers.
    """
    if told := excess(eta_seconds, num_frames, settings):
        raise InvalidRequestError(told)
