"""The settings that say who may ask the gateway and the edge; a part of `tasks/settings.py`."""

from pydantic import BaseModel, Field, SecretStr

from tasks.setting_types import Digests, HostNames, WebAddress


class GatewaySettings(BaseModel):
    """Callers, their tokens, and the names that the servers answer to."""

    gateway_tokens: Digests = Field(
        default=(),
        description="Comma-separated list of the SHA-256 digests (hex) of the bearer tokens that "
        "the gateway accepts; `python -P -m deployments.gateway --new-token` makes a token and its "
        "digest. A token sees the jobs that were sent with it and no others. Empty, and no "
        "operator's token either: the gateway asks for no token and listens on this machine only.",
    )
    gateway_operator_tokens: Digests = Field(
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
    gateway_upload_seconds: float = Field(
        default=86400.0,
        gt=0,
        description="How many seconds after its last byte an upload that was interrupted may still "
        "go on; then it is removed. The default is a day.",
    )
    gateway_url: WebAddress = Field(
        default="http://127.0.0.1:8000",
        description="Address of the gateway that `seedvr2 submit`, `status` and so on talk to.",
    )
    gateway_token: SecretStr | None = Field(
        default=None,
        description="Bearer token that commands send to the gateway. Not set: none is sent.",
    )
    allowed_hosts: HostNames = Field(
        default=(),
        description="Comma-separated list of the host names, without port, under which callers "
        "reach the gateway and the edge; requests that name another host are refused. Always "
        "allowed: this machine's name and addresses, and the hosts of SEEDVR2_PUBLIC_URL and "
        "SEEDVR2_GATEWAY_URL. `*` allows every name.",
    )
