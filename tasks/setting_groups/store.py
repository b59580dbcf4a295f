"""The settings of object stores, for work and for outputs; a part of `tasks/settings.py`."""

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

from tasks.setting_types import WebAddress

OBJECT_SCHEMES = ("s3", "gs", "az")
"""S3 and services like it, Google Cloud Storage, Azure Blob Storage."""
_SAME_SCHEMES = {"azure": "az"}
NAMES_OF_SCHEMES = (*OBJECT_SCHEMES, *_SAME_SCHEMES)
"""Whatever people may call them; `one_scheme` makes one of the three of it."""
_LINK_SECONDS = AliasChoices("SEEDVR2_LINK_SECONDS", "SEEDVR2_S3_LINK_SECONDS")
"""The second name is from when there was S3 alone."""


def one_scheme(address: str) -> str:
    """An address of an object with az:// in the place of azure://, which means the same."""
    scheme, colon, rest = address.partition("://")
    return f"{_SAME_SCHEMES.get(scheme, scheme)}{colon}{rest}"


def _bucket(*schemes: str) -> Callable[[str], str]:
    """Make a check that refuses what names no bucket; the slash at the end is left out."""

    def check(value: str) -> str:
        scheme, _, rest = one_scheme(value).partition("://")
        if scheme not in schemes or not rest.strip("/"):
            bucket = " or ".join(f"{one}://BUCKET/FOLDER" for one in schemes)
            raise ValueError(f"got {value!r}; expected {bucket}")
        return f"{scheme}://{rest.rstrip('/')}"

    return check


def _split(value: object) -> object:
    """Read a comma-separated list; names of objects have upper and lower case."""
    if isinstance(value, str):
        return tuple(item.strip() for item in value.split(",") if item.strip())
    return value


_Any = Annotated[str, AfterValidator(_bucket(*OBJECT_SCHEMES))]
_S3 = Annotated[str, AfterValidator(_bucket("s3"))]
_Gcs = Annotated[str, AfterValidator(_bucket("gs"))]
_Azure = Annotated[str, AfterValidator(_bucket("az"))]
_Several = (NoDecode, BeforeValidator(_split))


class StoreSettings(BaseModel, defer_build=True):
    """Where work and outputs are kept in objects, and how that is reached."""

    storage: Literal["local", "bunny", "s3", "gcs", "azure"] = Field(
        default="local",
        description="Where finished videos are stored: `local` is a folder of this machine, "
        "`bunny` is a storage zone of Bunny.net, `s3` a bucket of S3 or a service like it, `gcs` a "
        "bucket of Google Cloud Storage, `azure` a container of Azure Blob Storage.",
    )
    store: _Any | None = Field(
        default=None,
        description="Object store that keeps sources, plans and finished segments of jobs: "
        "s3://BUCKET/FOLDER, gs://BUCKET/FOLDER or az://CONTAINER/FOLDER. Workers then need no "
        "common folder: a job goes on on any of them, and the work directory is only this "
        "machine's copy. Not set: the work directory is all there is.",
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
    link_seconds: float = Field(
        default=7 * 86400.0,
        ge=300,
        le=7 * 86400.0,
        validation_alias=_LINK_SECONDS,
        description="How long a signed address of an output in a bucket works, in seconds. "
        "7 days at most.",
    )
    s3_outputs: _S3 | None = Field(
        default=None,
        description="Bucket and folder that finished videos are put into: s3://BUCKET/FOLDER. "
        "Required if the storage is `s3`.",
    )
    s3_base_url: WebAddress | None = Field(
        default=None,
        description="Public address under which that folder is served. Not set: results have "
        "signed addresses that work for SEEDVR2_LINK_SECONDS.",
    )
    s3_sources: Annotated[tuple[_S3, ...], *_Several] = Field(
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
    gcs_outputs: _Gcs | None = Field(
        default=None,
        description="Bucket and folder of Google Cloud Storage that finished videos are put into: "
        "gs://BUCKET/FOLDER. Required if the storage is `gcs`.",
    )
    gcs_base_url: WebAddress | None = Field(
        default=None,
        description="Public address under which that folder is served. Not set: signed addresses.",
    )
    gcs_sources: Annotated[tuple[_Gcs, ...], *_Several] = Field(
        default=(),
        description="Comma-separated list of gs://BUCKET/FOLDER below which callers may name "
        "videos (`video_url=gs://...`). Empty: none.",
    )
    gcs_key: SecretStr | None = Field(
        default=None,
        description="Key of the service account: the content of its JSON file. Not set: the "
        "machine's service account, or the file that GOOGLE_APPLICATION_CREDENTIALS names.",
    )
    azure_outputs: _Azure | None = Field(
        default=None,
        description="Container and folder of Azure Blob Storage that finished videos are put into: "
        "az://CONTAINER/FOLDER. Required if the storage is `azure`.",
    )
    azure_base_url: WebAddress | None = Field(
        default=None,
        description="Public address under which that folder is served. Not set: signed addresses.",
    )
    azure_sources: Annotated[tuple[_Azure, ...], *_Several] = Field(
        default=(),
        description="Comma-separated list of az://CONTAINER/FOLDER below which callers may name "
        "videos (`video_url=az://...`). Empty: none.",
    )
    azure_account: str | None = Field(
        default=None,
        description="Name of the Azure storage account. Required wherever az:// is used.",
    )
    azure_key: SecretStr | None = Field(
        default=None,
        description="Access key of that account. Not set: the machine's managed identity.",
    )
    azure_endpoint: WebAddress | None = Field(
        default=None,
        description="Address of the blob service. Not set: ACCOUNT.blob.core.windows.net.",
    )

    @property
    def outputs_bucket(self) -> str | None:
        """Where the storage puts finished videos, if it is a bucket and that is set."""
        places = {"s3": self.s3_outputs, "gcs": self.gcs_outputs, "azure": self.azure_outputs}
        return places.get(self.storage)

    @property
    def outputs_base_url(self) -> str | None:
        """Public address of that folder; None if addresses are to be signed."""
        urls = {"s3": self.s3_base_url, "gcs": self.gcs_base_url, "azure": self.azure_base_url}
        return urls.get(self.storage)

    @property
    def bucket_sources(self) -> tuple[str, ...]:
        """All folders of buckets below which callers may name videos."""
        return (*self.s3_sources, *self.gcs_sources, *self.azure_sources)
