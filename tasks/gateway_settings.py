"""The settings that say who may ask the gateway and the edge; a part of `tasks/settings.py`."""

import re
from typing import Annotated

from pydantic import BaseModel, Field, SecretStr, field_validator
from pydantic_settings import NoDecode

WebAddress = Annotated[str, Field(pattern=r"^https?://")]
Names = Annotated[tuple[str, ...], NoDecode]
"""A list that stands in the environment with commas between its items."""


def split_list(value: object) -> object:
    """Read a comma-separated list; its items are taken in lower case."""
    if isinstance(value, str):
        return tuple(item.strip().lower() for item in value.split(",") if item.strip())
    return value


class GatewaySettings(BaseModel):
    """Callers, their tokens, and the names that the servers answer to."""

    gateway_tokens: Names = Field(
        default=(),
        description="Comma-separated list of the SHA-256 digests (hex) of the bearer tokens that "
        "the gateway accepts; `python -m deployments.gateway --new-token` makes a token and its "
        "digest. A token sees the jobs that were sent with it and no others. Empty, and no "
        "operator's token either: the gateway asks for no token and listens on this machine only.",
    )
    gateway_operator_tokens: Names = Field(
        default=(),
        description="Comma-separated list of the digests of tokens that see and cancel the jobs "
        "of everybody, those of Prefect's own pages included. Made like the others.",
    )
    gateway_quota_bytes: int | None = Field(
        default=None,
        gt=0,
        description="How many bytes of sent videos the gateway keeps for one token. What a token "
        "sends beyond that is refused until older ones are gone (SEEDVR2_KEEP_DAYS). Not set: the "
        "free space of the disk is the only limit.",
    )
    gateway_url: WebAddress = Field(
        default="http://127.0.0.1:8000",
        description="Address of the gateway that `seedvr2 submit`, `status` and so on talk to.",
    )
    gateway_token: SecretStr | None = Field(
        default=None,
        description="Bearer token that commands send to the gateway. Not set: none is sent.",
    )
    allowed_hosts: Names = Field(
        default=(),
        description="Comma-separated list of the host names, without port, under which callers "
        "reach the gateway and the edge; requests that name another host are refused. Always "
        "allowed: this machine's name and addresses, and the hosts of SEEDVR2_PUBLIC_URL and "
        "SEEDVR2_GATEWAY_URL. `*` allows every name.",
    )

    @field_validator("gateway_tokens", "gateway_operator_tokens", "allowed_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """Read a comma-separated list."""
        return split_list(value)

    @field_validator("gateway_tokens", "gateway_operator_tokens")
    @classmethod
    def _digests(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Refuse entries that are no digests, without showing them: one may be the token itself."""
        if wrong := [i for i, one in enumerate(value, 1) if not re.fullmatch("[0-9a-f]{64}", one)]:
            raise ValueError(
                f"entries {wrong} are no SHA-256 digests (64 hex digits); make a token and its "
                "digest with python -m deployments.gateway --new-token"
            )
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Refuse what is no host name, such as an address with a scheme or a port."""
        if wrong := [one for one in value if not re.fullmatch(r"\*|[a-z0-9._-]+|[0-9a-f:]+", one)]:
            raise ValueError(
                f"got {wrong}; expected host names without scheme and port: gpu.example.org"
            )
        return value
