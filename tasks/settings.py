"""Settings of the installation: the only reader of the environment.

Every field is an environment variable with the prefix SEEDVR2_ (SEEDVR2_WORK_DIR, ...). What a
job is asked to do is no setting: that is the request (`tasks/schemas.py`).
"""

import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, DirectoryPath, Field, SecretStr, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
)

from seedvr2_core.errors import InvalidRequestError

RESOLUTIONS = ("720p", "1080p", "2k", "4k")
DEPLOYMENTS = {
    "720p": "upscale/h100",
    "1080p": "upscale/h100",
    "2k": "upscale/h200",
    "4k": "upscale/h200",
}


def _also(old_name: str) -> AliasChoices:
    """Our name, and the old service's."""
    return AliasChoices(f"SEEDVR2_{old_name}", old_name)


class Settings(BaseSettings):
    """What this machine or pool allows and where it keeps things."""

    model_config = SettingsConfigDict(
        env_prefix="SEEDVR2_", extra="ignore", frozen=True, validate_by_name=True
    )

    work_dir: Path = Field(
        default=Path.home() / ".seedvr2",
        description="Intake, sources and jobs; finished segments live here. Needs working flock.",
    )
    output_dir: Path | None = Field(
        default=None, description="Folder of the local storage; default WORK_DIR/output."
    )
    weights_dir: Path | None = Field(
        default=None, description="Plain folder with the model's weights; default WORK_DIR/weights."
    )
    hf_endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://",
        description="Hub that weights come from, a mirror's address; default huggingface.co.",
    )
    test_engines: bool = Field(
        default=False,
        description="Offer the models tiny, tiny-3b and sleep, which restore nothing.",
    )
    storage: Literal["local", "bunny"] = Field(
        default="local", description="Where outputs are put: a local folder, or Bunny edge storage."
    )
    bunny_storage_zone: str | None = Field(
        default=None,
        validation_alias=_also("BUNNY_STORAGE_ZONE"),
        description="Name of the Bunny storage zone.",
    )
    bunny_storage_key: SecretStr | None = Field(
        default=None,
        validation_alias=_also("BUNNY_STORAGE_KEY"),
        description="Password of the storage zone, not the account's API key.",
    )
    bunny_base_url: str | None = Field(
        default=None,
        validation_alias=_also("BUNNY_BASE_URL"),
        description="Public address of the pull zone, https://NAME.b-cdn.net.",
    )
    bunny_root_dir: str = Field(
        default="",
        validation_alias=_also("BUNNY_ROOT_DIR"),
        description="Folder in the zone that outputs are put into.",
    )
    bunny_region: Literal["de", "uk", "ny", "la", "sg", "se", "br", "jh", "syd"] = Field(
        default="de", description="Main region of the storage zone; says which host takes it."
    )
    bunny_host: str | None = Field(
        default=None,
        validation_alias=_also("BUNNY_HOST"),
        description="Storage host or its base URL, instead of the region's.",
    )
    bunny_token_key: SecretStr | None = Field(
        default=None, description="Token key of the pull zone; with it public addresses are signed."
    )
    bunny_token_seconds: float = Field(
        default=7 * 86400.0, ge=300, description="How long a signed address works."
    )
    verify_seconds: float = Field(
        default=100.0,
        gt=0,
        le=110,
        description="How long a public address may take to show a file that is stored.",
    )
    secrets_dir: DirectoryPath | None = Field(
        default=None,
        description="Folder of mounted secrets: a file named like a variable holds its value.",
    )
    segment_seconds: float = Field(
        default=10.0, gt=0, description="Presentation time after which a segment is closed."
    )
    resolutions: Annotated[tuple[str, ...], NoDecode] = Field(
        default=RESOLUTIONS,
        description="Comma list of what this pool takes; others are refused at the door.",
    )
    allow_cpu_engine: bool = Field(
        default=False, description="model=auto may become span where no GPU or weights are."
    )
    allow_local_files: bool = Field(
        default=False, description="video_path may name a file of this machine."
    )
    device: str = Field(
        default="auto", description="auto, cpu or cuda:N; auto takes the first GPU there is."
    )
    fetch_allow: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Comma list of host[:port] that may be private addresses, or listen on other "
        "ports than the web's; empty: none.",
    )
    fetch_max_bytes: int = Field(default=50 * 10**9, gt=0, description="Largest source accepted.")
    fetch_seconds: float = Field(default=3600.0, gt=0, description="Longest download.")
    callback_secret: SecretStr | None = Field(
        default=None,
        min_length=16,
        description="Signs callbacks; without it requests with a callback_url are refused.",
    )
    keep_days: float = Field(
        default=14.0,
        gt=0,
        description="Days after which downloads, sources and unfinished jobs are removed.",
    )
    keep_segments: bool = Field(
        default=False, description="Keep the segments of finished jobs, to look into them."
    )
    stall_seconds: float | None = Field(
        default=None, gt=0, description="Overrides the planned limit without a heartbeat."
    )
    job_seconds: float | None = Field(
        default=None, gt=0, description="Overrides the planned limit of a whole job."
    )

    deployments: Annotated[dict[str, str], NoDecode] = Field(
        default=DEPLOYMENTS,
        description="Comma list of RESOLUTION=FLOW/DEPLOYMENT: where a request is run; * is every "
        "resolution that is not named, one that is missing is refused.",
    )

    image: str | None = Field(
        default=None,
        description="Image of the docker pools; default seedvr2:<git commit of the checkout>.",
    )
    alert_url: str | None = Field(
        default=None,
        pattern=r"^https?://",
        description="Where `make deploy` sends alerts (late runs, a pool without workers) by POST.",
    )
    heartbeat_lost_seconds: float = Field(
        default=540.0,
        ge=30,
        description="Silence after which a run counts as crashed: three heartbeats of Prefect's.",
    )
    recover_margin_seconds: float = Field(
        default=300.0,
        gt=0,
        description="What `recover` gives a job beyond its ETA, its stall limit and its job limit.",
    )
    recover_wait_seconds: float = Field(
        default=60.0,
        gt=0,
        description="How long `recover` looks for a sign of life of a crashed run, and then waits "
        "until it is cancelled.",
    )
    recover_pending_seconds: float = Field(
        default=1800.0,
        gt=0,
        description="How long a worker may take to start a run that it took, image pull included; "
        "`recover` then gives it to another.",
    )
    recover_look_seconds: float = Field(
        default=10.0, gt=0, description="Between the looks of `recover` at the storage."
    )

    gateway_tokens: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Comma list of the SHA-256 digests (hex) of the bearer tokens that the gateway "
        "takes; empty: it listens on loopback only and asks for none.",
    )
    gateway_url: str = Field(
        default="http://127.0.0.1:8000",
        pattern=r"^https?://",
        description="Gateway that `seedvr2 submit`, status, cancel and logs talk to.",
    )
    gateway_token: SecretStr | None = Field(
        default=None, description="Bearer token that they show it."
    )
    public_url: str | None = Field(
        default=None,
        pattern=r"^https?://",
        description="Address under which the local storage's folder is served, by an edge; without "
        "it its files have paths and no links.",
    )
    edge_key: SecretStr | None = Field(
        default=None,
        min_length=8,
        description="AccessKey of the edge's storage side; without it nothing can be stored there.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then files in SEEDVR2_SECRETS_DIR."""
        del dotenv_settings, file_secret_settings
        folder = os.environ.get("SEEDVR2_SECRETS_DIR")
        if not folder or not Path(folder).is_dir():  # the field's own check says so
            return init_settings, env_settings
        return init_settings, env_settings, SecretsSettingsSource(settings_cls, folder)

    @field_validator("deployments", mode="before")
    @classmethod
    def _read_table(cls, value: object) -> object:
        """Read 720p=upscale/h100,*=upscale/h200."""
        if not isinstance(value, str):
            return value
        pairs = [item.partition("=") for item in value.split(",") if item.strip()]
        table = {key.strip().lower(): name.strip() for key, _, name in pairs}
        rest = table.pop("*", None)
        return dict.fromkeys(RESOLUTIONS, rest) | table if rest else table

    @field_validator("deployments")
    @classmethod
    def _whole_table(cls, value: dict[str, str]) -> dict[str, str]:
        """Refuse resolutions that do not exist and names that are no deployment's."""
        if not value or set(value) - set(RESOLUTIONS):
            raise ValueError(f"got resolutions {sorted(value)}; known: {RESOLUTIONS} and *")
        if wrong := [n for n in value.values() if len([p for p in n.split("/") if p]) != 2]:
            raise ValueError(f"got {wrong}; a deployment is named flow/deployment: upscale/h100")
        return value

    @field_validator("gateway_tokens")
    @classmethod
    def _digests(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Refuse what is no digest, without showing it: it may be the token itself."""
        if wrong := [i for i, one in enumerate(value, 1) if not re.fullmatch("[0-9a-f]{64}", one)]:
            raise ValueError(
                f"entries {wrong} are no SHA-256 digests (64 hex digits); make a token and its "
                "digest with python -m deployments.gateway --new-token"
            )
        return value

    @field_validator("resolutions", "fetch_allow", "gateway_tokens", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """Read a comma list."""
        if isinstance(value, str):
            return tuple(item.strip().lower() for item in value.split(",") if item.strip())
        return value

    @field_validator("resolutions")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Refuse resolutions that do not exist."""
        if unknown := set(value) - set(RESOLUTIONS):
            raise ValueError(f"unknown resolutions {sorted(unknown)}; known: {RESOLUTIONS}")
        return value

    @property
    def storage_dir(self) -> Path:
        """Folder of the local storage."""
        return self.output_dir or self.work_dir / "output"

    @property
    def weights_folder(self) -> Path:
        """Folder of the weights."""
        return self.weights_dir or self.work_dir / "weights"


_SECRET = re.compile(r"(SEEDVR2|BUNNY)_\w*(KEY|TOKEN|SECRET)")


def child_environment() -> dict[str, str]:
    """Environment of whatever runs a model: ours, and what torch asks for on a GPU.

    Allocators that waste little memory, on the device and on the host (one arena: threads that come
    and go with every segment would each leave one behind; pictures are taken from it as well: pages
    of their own would be cleared by the kernel for each of them, 6 ms of CPU a 720p frame, and what
    holes they leave goes back after every segment); a cuBLAS workspace with which sums have one
    order. Our keys are left out: decoders of strangers' videos have no use for them.
    """
    given = {name: value for name, value in os.environ.items() if not _SECRET.fullmatch(name)}
    return {
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),  # the most that glibc takes: a 4k picture
        "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
        "PYTORCH_ALLOC_CONF": "expandable_segments:True",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        **given,
    }


_in_force: Settings | None = None
"""What `use_settings` put in the place of the environment."""


def get_settings() -> Settings:
    """The settings in force: the environment's, or what `use_settings` put in their place."""
    return _in_force or Settings()


def use_settings(settings: Settings | None) -> None:
    """Let this process use these settings (the command line does); None: the environment's."""
    global _in_force
    _in_force = settings


def check_pool(resolution: str) -> None:
    """Refuse a resolution that this pool does not take.

    Raises:
        InvalidRequestError: the run was created on the wrong pool.
    """
    allowed = get_settings().resolutions
    if resolution not in allowed:
        raise InvalidRequestError(
            f"this pool takes {', '.join(allowed)}, got {resolution}; start the run on the "
            "deployment for that resolution"
        )
