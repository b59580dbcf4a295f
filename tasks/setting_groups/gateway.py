"""The settings that say who may ask the gateway and the edge; a part of `tasks/settings.py`."""

from pydantic import BaseModel, Field, SecretStr

from tasks.setting_groups.callers import CallerLimits, LimitsTable
from tasks.setting_types import Digests, HostNames, WebAddress


class GatewaySettings(BaseModel, defer_build=True):
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
    gateway_rate: int | None = Field(
        default=None,
        gt=0,
        description="How many requests a minute one token may make; those beyond are answered 429 "
        "with Retry-After. A minute's requests may come at once. Operators' tokens have no limit. "
        "Not set: any number.",
    )
    gateway_open_jobs: int | None = Field(
        default=None,
        gt=0,
        description="How many jobs of one token may wait or be at work at a time; those beyond are "
        "answered 429. Operators' tokens have no limit. Not set: any number.",
    )
    gateway_token_limits: LimitsTable = Field(
        default={},
        description="Comma-separated list of what single tokens may do, "
        "DIGITS:priority=low:rate=30:jobs=2:bytes=5000000000: the first 12 or more digits of the "
        "token's digest, and any of these: the queue of the work pool (`high`, `default` or "
        "`low`), and this token's own SEEDVR2_GATEWAY_RATE, SEEDVR2_GATEWAY_OPEN_JOBS and "
        "SEEDVR2_GATEWAY_QUOTA_BYTES.",
    )
    gateway_metrics_tokens: Digests = Field(
        default=(),
        description="Comma-separated list of the digests of tokens that may read `GET /metrics` "
        "and nothing else. Operators' tokens may read it too, other tokens may not.",
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

    def limits_of(self, name: str) -> CallerLimits:
        """What a caller may do: its own entry, and the settings for all where that says nothing.

        Args:
            name: the digest of the caller's token.
        """
        table = self.gateway_token_limits
        own = next((one for digits, one in table.items() if name.startswith(digits)), None)
        own = own or CallerLimits()
        update = {"quota_bytes": own.quota_bytes or self.gateway_quota_bytes}
        if name not in self.gateway_operator_tokens:
            update["rate"] = own.rate or self.gateway_rate
            update["open_jobs"] = own.open_jobs or self.gateway_open_jobs
        return own.model_copy(update=update)
