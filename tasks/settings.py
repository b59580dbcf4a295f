"""Settings of the installation; no other module reads the environment.

Every field is an environment variable with the prefix SEEDVR2_ (SEEDVR2_WORK_DIR, ...). What a
single job should do is not a setting but part of the request (`tasks/schemas.py`).
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

Seconds = Annotated[float, Field(gt=0)]
WebAddress = Annotated[str, Field(pattern=r"^https?://")]

RESOLUTIONS = ("720p", "1080p", "2k", "4k")
_H100, _H200 = "upscale/h100", "upscale/h200"
DEPLOYMENTS = {"720p": _H100, "1080p": _H100, "2k": _H200, "4k": _H200}


def _also(old_name: str) -> AliasChoices:
    """Two names of a variable: with our prefix, and as the service that we replace called it."""
    return AliasChoices(f"SEEDVR2_{old_name}", old_name)


class Settings(BaseSettings):
    """What this machine or worker pool allows, and where it keeps its files."""

    model_config = SettingsConfigDict(
        env_prefix="SEEDVR2_", extra="ignore", frozen=True, validate_by_name=True
    )

    work_dir: Path = Field(
        default=Path.home() / ".seedvr2",
        description="Folder for uploads, downloads, sources and the files of every job, finished "
        "segments among them. The gateway and all workers of a service must see the same folder, "
        "and its file system must support flock (`seedvr2 doctor` checks that).",
    )
    output_dir: Path | None = Field(
        default=None,
        description="Folder that finished videos are put into when the storage is `local`. "
        "Not set: the folder `output` in the work directory.",
    )
    weights_dir: Path | None = Field(
        default=None,
        description="Folder with the weights of the SeedVR2 models. "
        "Not set: the folder `weights` in the work directory.",
    )
    hf_endpoint: WebAddress | None = Field(
        default=None,
        description="Address of the model hub, or of a mirror of it, that "
        "`seedvr2 weights download` downloads from. Not set: huggingface.co.",
    )
    test_engines: bool = Field(
        default=False,
        description="Offer the models `tiny`, `tiny-3b` and `sleep` as well. They do not restore "
        "anything; they are for trying out an installation.",
    )
    storage: Literal["local", "bunny"] = Field(
        default="local",
        description="Where finished videos are stored: `local` is a folder of this machine, "
        "`bunny` is a storage zone of Bunny.net.",
    )
    bunny_storage_zone: str | None = Field(
        default=None,
        validation_alias=_also("BUNNY_STORAGE_ZONE"),
        description="Name of the Bunny storage zone. Required if the storage is `bunny`.",
    )
    bunny_storage_key: SecretStr | None = Field(
        default=None,
        validation_alias=_also("BUNNY_STORAGE_KEY"),
        description="Password of the Bunny storage zone (not the API key of the account). "
        "Required if the storage is `bunny`.",
    )
    bunny_base_url: str | None = Field(
        default=None,
        validation_alias=_also("BUNNY_BASE_URL"),
        description="Public address of the pull zone that serves the storage zone: "
        "https://NAME.b-cdn.net. Required if the storage is `bunny`.",
    )
    bunny_root_dir: str = Field(
        default="",
        validation_alias=_also("BUNNY_ROOT_DIR"),
        description="Folder in the storage zone that finished videos are put into. "
        "Empty: the top of the zone.",
    )
    bunny_region: Literal["de", "uk", "ny", "la", "sg", "se", "br", "jh", "syd"] = Field(
        default="de",
        description="Main region of the storage zone; it decides which host videos are sent to.",
    )
    bunny_host: str | None = Field(
        default=None,
        validation_alias=_also("BUNNY_HOST"),
        description="Host or base address of the storage API. Not set: the host of the region.",
    )
    bunny_token_key: SecretStr | None = Field(
        default=None,
        description="Token authentication key of the pull zone, to sign the addresses of finished "
        "videos with. Not set: addresses are plain and do not expire.",
    )
    bunny_token_seconds: float = Field(
        default=7 * 86400.0,
        ge=300,
        description="How long a signed address works, in seconds. The default is 7 days.",
    )
    verify_seconds: float = Field(
        default=100.0,
        gt=0,
        le=110,
        description="How many seconds after the upload the public address may take to show the "
        "stored file, before the job fails.",
    )
    secrets_dir: DirectoryPath | None = Field(
        default=None,
        description="Folder with secrets as files: a file that has the name of a variable holds "
        "that variable's value. The environment takes precedence.",
    )
    segment_seconds: Seconds = Field(
        default=10.0,
        description="Target length of a segment, in seconds of video. A segment is what a job "
        "saves at a time: after a crash only the segments that were not finished are made again.",
    )
    resolutions: Annotated[tuple[str, ...], NoDecode] = Field(
        default=RESOLUTIONS,
        description="Comma-separated list of the resolutions that this worker pool makes. "
        "A run that asks for another resolution is refused.",
    )
    allow_cpu_engine: bool = Field(
        default=False,
        description="Let model `auto` fall back to the small engine `span` if there is no GPU or "
        "no weights. Off: such a job is refused. `seedvr2 upscale` and `seedvr2 serve` turn it on.",
    )
    allow_local_files: bool = Field(
        default=False,
        description="Let requests name a file of this machine (`video_path`). "
        "`seedvr2 upscale` and `seedvr2 serve` turn it on.",
    )
    device: str = Field(
        default="auto",
        description="Device that models run on: `cpu`, or `cuda:N` for one GPU. "
        "`auto` takes the first GPU, or the CPU if there is none.",
    )
    fetch_allow: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Comma-separated list of hosts, as HOST or HOST:PORT, that videos may be "
        "downloaded from and callbacks sent to although they are in a private network or use "
        "a port other than 80, 443, 8080 and 8443. Empty: none.",
    )
    fetch_max_bytes: int = Field(
        default=50 * 10**9,
        gt=0,
        description="Size of the largest video that is accepted, downloaded or sent, in bytes.",
    )
    max_frames: int = Field(
        default=1_000_000,
        gt=0,
        description="Frames of the longest video that is accepted. A small file can hold millions "
        "of frames, and so months of work.",
    )
    max_video_seconds: Seconds = Field(
        default=43_200.0,
        description="Playing time of the longest video that is accepted, in seconds. "
        "The default is 12 hours.",
    )
    fetch_seconds: Seconds = Field(
        default=3600.0,
        description="How many seconds one attempt to download a video may take, and how many a "
        "caller may take to send one to the gateway.",
    )
    callback_secret: SecretStr | None = Field(
        default=None,
        min_length=16,
        description="Secret that callbacks are signed with; gateway and workers need the same. "
        "Not set: requests with a `callback_url` are refused.",
    )
    keep_days: float = Field(
        default=14.0,
        gt=0,
        description="How many days uploads, downloads, sources and unfinished jobs are kept after "
        "their last use. Older ones are removed when a job begins.",
    )
    keep_segments: bool = Field(
        default=False,
        description="Keep the segments of finished jobs, to look into them. "
        "Off: they are removed as soon as the finished video is stored and verified.",
    )
    stall_seconds: Seconds | None = Field(
        default=None,
        description="How many seconds the restoring process may show no sign of life before it is "
        "ended and started again. Not set: planned for each job from resolution and batch size.",
    )
    job_seconds: Seconds | None = Field(
        default=None,
        description="How many seconds the restoring of a job may take in all; then it fails, and a "
        "new run goes on. Not set: three times the expected time, at least two hours.",
    )
    deployments: Annotated[dict[str, str], NoDecode] = Field(
        default=DEPLOYMENTS,
        description="Comma-separated list of RESOLUTION=FLOW/DEPLOYMENT: which Prefect deployment "
        "makes which resolution; `*` stands for all that are not named. A resolution that is "
        "missing is refused. Set the same for `make deploy`, workers and gateway.",
    )
    image: str | None = Field(
        default=None,
        description="Container image of the docker work pools; `make deploy` reads it. "
        "Not set: `seedvr2:<git commit of the checkout>`.",
    )
    alert_url: WebAddress | None = Field(
        default=None,
        description="Address that Prefect sends alerts to (late runs, a work pool without "
        "workers), by POST; `make deploy` reads it. Not set: no alerts.",
    )
    heartbeat_lost_seconds: float = Field(
        default=540.0,
        ge=30,
        description="After how many seconds without a heartbeat Prefect marks a run as crashed "
        "(`make deploy` reads it): three times the workers' PREFECT_FLOWS_HEARTBEAT_FREQUENCY.",
    )
    recover_margin_seconds: Seconds = Field(
        default=300.0,
        description="How many seconds beyond a job's expected end and limits `recover` waits.",
    )
    recover_wait_seconds: Seconds = Field(
        default=60.0,
        description="How many seconds the `recover` flow watches a crashed run for a sign of life, "
        "and then again waits for its worker to end it.",
    )
    recover_pending_seconds: Seconds = Field(
        default=1800.0,
        description="How many seconds a worker may take to start a run that it has accepted, "
        "pulling the image included. After that `recover` gives the run to another worker.",
    )
    recover_look_seconds: Seconds = Field(
        default=10.0, description="How many seconds `recover` waits between two looks at storage."
    )
    gateway_tokens: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Comma-separated list of the SHA-256 digests (hex) of the bearer tokens that "
        "the gateway accepts; `python -m deployments.gateway --new-token` makes a token and its "
        "digest. Empty: the gateway asks for no token and listens on this machine only.",
    )
    gateway_url: WebAddress = Field(
        default="http://127.0.0.1:8000",
        description="Address of the gateway that `seedvr2 submit`, `status` and so on talk to.",
    )
    gateway_token: SecretStr | None = Field(
        default=None,
        description="Bearer token that commands send to the gateway. Not set: none is sent.",
    )
    public_url: WebAddress | None = Field(
        default=None,
        description="Public address under which the folder of the `local` storage is served; "
        "`seedvr2 serve` sets it. Not set: results name the file's path and no address.",
    )
    edge_key: SecretStr | None = Field(
        default=None,
        min_length=8,
        description="Key that the edge (our small storage server with Bunny's protocol) asks for "
        "before it stores a file. Not set: it stores nothing and only serves.",
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
        """Take values from arguments, else the environment, else files in SEEDVR2_SECRETS_DIR."""
        del dotenv_settings, file_secret_settings
        folder = os.environ.get("SEEDVR2_SECRETS_DIR")
        if not folder or not Path(folder).is_dir():  # the field's own check refuses it
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
        """Refuse unknown resolutions and names that are not of the form flow/deployment."""
        if not value or set(value) - set(RESOLUTIONS):
            raise ValueError(f"got resolutions {sorted(value)}; known: {RESOLUTIONS} and *")
        if wrong := [n for n in value.values() if len([p for p in n.split("/") if p]) != 2]:
            raise ValueError(f"got {wrong}; a deployment is named flow/deployment: upscale/h100")
        return value

    @field_validator("gateway_tokens")
    @classmethod
    def _digests(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Refuse entries that are no digests, without showing them: one may be the token itself."""
        if wrong := [i for i, one in enumerate(value, 1) if not re.fullmatch("[0-9a-f]{64}", one)]:
            raise ValueError(
                f"entries {wrong} are no SHA-256 digests (64 hex digits); make a token and its "
                "digest with python -m deployments.gateway --new-token"
            )
        return value

    @field_validator("resolutions", "fetch_allow", "gateway_tokens", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """Read a comma-separated list."""
        if isinstance(value, str):
            return tuple(item.strip().lower() for item in value.split(",") if item.strip())
        return value

    @field_validator("resolutions")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Refuse unknown resolutions."""
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

    @property
    def intake_dir(self) -> Path:
        """Uploads (named by their SHA-256), and downloads that are not finished. Absolute."""
        return self.work_dir.absolute() / "intake"

    @property
    def sources_dir(self) -> Path:
        """Downloaded sources, named by their SHA-256. Absolute."""
        return self.work_dir.absolute() / "sources"

    @property
    def probes_dir(self) -> Path:
        """What the probe found in each source: JSON files. Absolute."""
        return self.work_dir.absolute() / "probes"

    @property
    def jobs_dir(self) -> Path:
        """One folder for each job. Absolute."""
        return self.work_dir.absolute() / "jobs"

    @property
    def locks_dir(self) -> Path:
        """Lock files by which processes of this machine take turns at a device. Absolute."""
        return self.work_dir.absolute() / "locks"

    def job_dir(self, job_key: str) -> Path:
        """Folder of one job: its plan, its segments, its result. Absolute."""
        return self.jobs_dir / job_key


_SECRET = re.compile(r"(SEEDVR2|BUNNY)_\w*(KEY|TOKEN|SECRET)")


def child_environment() -> dict[str, str]:
    """Environment of a process that runs a model: ours without its secrets, plus tuning.

    One malloc arena, because threads come and go with every segment and each would leave an arena
    behind. Pictures lie in it too: pages of their own would be cleared by the kernel for every
    picture, 6 ms of CPU per 720p frame; free memory is returned after every segment. The others
    save GPU memory and let cuBLAS add in one fixed order, so that results are reproducible.

    Variables that are set already keep their values. Secrets are left out because the process
    decodes videos of strangers and needs none.
    """
    given = {name: value for name, value in os.environ.items() if not _SECRET.fullmatch(name)}
    return {
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),  # glibc's maximum; a 4k picture fits
        "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
        "PYTORCH_ALLOC_CONF": "expandable_segments:True",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        **given,
    }


_in_force: Settings | None = None
"""What `use_settings` has put in the place of the environment."""


def get_settings() -> Settings:
    """The settings in force: those of the environment, or those given to `use_settings`."""
    return _in_force or Settings()


def use_settings(settings: Settings | None) -> None:
    """Make this process use these settings, as the command line does; None: the environment's."""
    global _in_force
    _in_force = settings
