"""A build step of prefect.yaml: it refuses a plain `prefect deploy` that would break a good site.

`make deploy` fits prefect.yaml to the site and removes this step.
"""

from seedvr2_core.errors import InvalidRequestError
from tasks.settings import DEPLOYMENTS, get_settings


def check_site(image: str = "") -> dict[str, str]:
    """Check that prefect.yaml, as it is written, is right for this site.

    Args:
        image: the image that the docker pools would run.

    Raises:
        InvalidRequestError: no image is named, or the site has a table of its own.
    """
    advice = "run `make deploy`, which fits prefect.yaml to the site"
    if not image:
        raise InvalidRequestError(
            f"SEEDVR2_IMAGE is not set, so the docker pools would have no image: {advice}"
        )
    if get_settings().deployments != DEPLOYMENTS:
        raise InvalidRequestError(
            "SEEDVR2_DEPLOYMENTS is set, and the triggers in prefect.yaml are those of the default "
            f"table: {advice}"
        )
    return {}
