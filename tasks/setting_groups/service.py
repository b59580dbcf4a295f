"""The settings of a service for others: callbacks, expiry, logs; a part of `tasks/settings.py`."""

from typing import Literal

from pydantic import BaseModel, Field, SecretStr


class ServiceSettings(BaseModel, defer_build=True):
    """How people and callers are told of jobs, how long outputs stay, and how programs log."""

    callback_secret: SecretStr | None = Field(
        default=None,
        min_length=16,
        description="Secret that callbacks are signed with; gateway and workers need the same. "
        "Not set: requests with a `callback_url` are refused.",
    )
    callback_progress_seconds: float = Field(
        default=30.0,
        ge=1,
        description="Shortest time between two callbacks about the progress of one run, in "
        "seconds. They are sent where a request's `callback_events` names `progress`.",
    )
    callback_seconds: float = Field(
        default=7200.0,
        ge=60,
        description="How many seconds a callback is tried again for that its receiver does not "
        "take. The default is two hours.",
    )
    progress_seconds: float = Field(
        default=1.0,
        ge=0.1,
        le=10,
        description="Shortest time between two updates of a job's progress in Prefect, in "
        "seconds. Each is a call to its server: take 10 where hundreds of jobs are at work. "
        "Helpers of a long job take 5 at least.",
    )
    expires_in: float | None = Field(
        default=None,
        gt=0,
        description="How many seconds after a job's end its output is removed from storage, where "
        "the request does not say it (`expires_in`). Not set: never.",
    )
    log_format: Literal["text", "json"] = Field(
        default="text",
        description="How commands, servers, workers and jobs write their logs to stderr: `text` "
        "for people, `json` for programs, one object a line with the ids of job and run.",
    )
