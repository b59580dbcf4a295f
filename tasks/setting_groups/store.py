"""The settings of object stores, for work and for outputs; a part of `tasks/settings.py`."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

from tasks.setting_types import WebAddress


def _bucket(value: str) -> str:
    """Refuse what does not name a bucket; the slash at the end is left out."""
    scheme, _, rest = value.partition("://")
    if scheme != "s3" or not rest.strip("/"):
        raise ValueError(f"got {value!r}; expected s3://BUCKET or s3://BUCKET/FOLDER")
    return value.rstrip("/")


def _split(value: object) -> object:
    """Read a comma-separated list; names of objects have upper and lower case."""
    if isinstance(value, str):
        return tuple(item.strip() for item in value.split(",") if item.strip())
    return value


BucketAddress = Annotated[str, AfterValidator(_bucket)]
BucketAddresses = Annotated[tuple[BucketAddress, ...], NoDecode, BeforeValidator(_split)]


class StoreSettings(BaseModel, defer_build=True):
    """Where work and outputs are kept in objects, and how that is reached."""

    store: BucketAddress | None = Field(
        default=None,
        description="Object store that keeps sources, plans and finished segments of jobs: "
        "s3://BUCKET/FOLDER. Workers then need no common folder: a job goes on on any of them, and "
        "the work directory is only this machine's copy. Not set: the work directory is all there "
        "is.",
    )
    store_lease_seconds: float = Field(
        default=90.0,
        ge=5,
        description="How many seconds after its last sign of life a run's hold on a job in "
        "SEEDVR2_STORE ends. Another attempt of the same run does not wait for that.",
    )
    store_cache_bytes: int = Field(
        default=200 * 10**9,
        gt=0,
        description="How many bytes of jobs and sources the work directory of a worker may keep "
        "beside the job at work, where SEEDVR2_STORE has them too; the oldest are removed first.",
    )
    s3_outputs: BucketAddress | None = Field(
        default=None,
        description="Bucket and folder that finished videos are put into: s3://BUCKET/FOLDER. "
        "Required if the storage is `s3`.",
    )
    s3_base_url: WebAddress | None = Field(
        default=None,
        description="Public address under which that folder is served. Not set: results have "
        "signed addresses that work for SEEDVR2_S3_LINK_SECONDS.",
    )
    s3_link_seconds: float = Field(
        default=7 * 86400.0,
        ge=300,
        le=7 * 86400.0,
        description="How long a signed address works, in seconds. S3 allows 7 days at most.",
    )
    s3_sources: BucketAddresses = Field(
        default=(),
        description="Comma-separated list of s3://BUCKET/FOLDER below which callers may name "
        "videos (`video_url=s3://...`), which are read with the key below. Empty: none.",
    )
    s3_endpoint: WebAddress | None = Field(
        default=None,
        description="Address of the S3 service: MinIO, R2, Ceph. Not set: Amazon's.",
    )
    s3_region: str = Field(default="us-east-1", description="Region of the buckets.")
    s3_access_key_id: str | None = Field(
        default=None,
        description="Id of the access key. Not set: the key of the machine's role, or of AWS's own "
        "variables.",
    )
    s3_secret_access_key: SecretStr | None = Field(
        default=None, description="The access key's secret. Required with its id."
    )
