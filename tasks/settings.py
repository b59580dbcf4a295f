"""Settings of the installation; no other module reads the environment.

Every field is an environment variable with the prefix SEEDVR2_ (SEEDVR2_WORK_DIR, ...). What a
single job should do is not a setting but part of the request (`tasks/schemas.py`).
"""

import os
from pathlib import Path
from typing import Literal

from pydantic import DirectoryPath, Field, SecretStr, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
)

from seedvr2_core.child.environment import for_children
from tasks.setting_groups.children import ChildSettings
from tasks.setting_groups.gateway import GatewaySettings
from tasks.setting_groups.service import ServiceSettings
from tasks.setting_groups.store import StoreSettings
from tasks.setting_types import (
    DEPLOYMENTS,
    RESOLUTIONS,
    AbsolutePath,
    Names,
    Resolutions,
    Seconds,
    Table,
    WebAddress,
    also,
)

__all__ = [
    "DEPLOYMENTS",
    "RESOLUTIONS",
    "Settings",
    "child_environment",
    "get_settings",
    "use_settings",
]


class _Groups(ChildSettings, GatewaySettings, ServiceSettings, StoreSettings):
    """The groups that have a file of their own."""


class Settings(_Groups, BaseSettings):
    """What this machine or worker pool allows, and where it keeps its files."""

    model_config = SettingsConfigDict(
        env_prefix="SEEDVR2_",
        env_ignore_empty=True,  # as a folder an empty one would be that in which we are
        extra="ignore",
        frozen=True,
        validate_by_name=True,
    )

    work_dir: AbsolutePath = Field(
        default=Path.home() / ".seedvr2",
        description="Folder for uploads, downloads, sources and the files of every job, finished "
        "segments among them. The gateway and all workers of a service must see the same folder, "
        "and its file system must support flock (`seedvr2 doctor` checks that).",
    )
    output_dir: AbsolutePath | None = Field(
        default=None,
        description="Folder that finished videos are put into when the storage is `local`. "
        "Not set: the folder `output` in the work directory.",
    )
    weights_dir: AbsolutePath | None = Field(
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
    bunny_storage_zone: str | None = Field(
        default=None,
        validation_alias=also("BUNNY_STORAGE_ZONE"),
        description="Name of the Bunny storage zone. Required if the storage is `bunny`.",
    )
    bunny_storage_key: SecretStr | None = Field(
        default=None,
        validation_alias=also("BUNNY_STORAGE_KEY"),
        description="Password of the Bunny storage zone (not the API key of the account). "
        "Required if the storage is `bunny`.",
    )
    bunny_base_url: str | None = Field(
        default=None,
        validation_alias=also("BUNNY_BASE_URL"),
        description="Public address of the pull zone that serves the storage zone: "
        "https://NAME.b-cdn.net. Required if the storage is `bunny`.",
    )
    bunny_root_dir: str = Field(
        default="",
        validation_alias=also("BUNNY_ROOT_DIR"),
        description="Folder in the storage zone that finished videos are put into. "
        "Empty: the top of the zone.",
    )
    bunny_region: Literal["de", "uk", "ny", "la", "sg", "se", "br", "jh", "syd"] = Field(
        default="de",
        description="Main region of the storage zone; it decides which host videos are sent to.",
    )
    bunny_host: str | None = Field(
        default=None,
        validation_alias=also("BUNNY_HOST"),
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
    resolutions: Resolutions = Field(
        default=RESOLUTIONS,
        description="Comma-separated list of the resolutions that this worker pool makes. "
        "A run that asks for another resolution is refused.",
    )
    allow_cpu_engine: bool = Field(
        default=False,
        description="Let model `auto` fall back to a small engine, `span` or `waifu2x`, if there "
        "is no GPU or no weights. Off: such a job is refused. `seedvr2 upscale` and `seedvr2 "
        "serve` turn it on.",
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
    fetch_allow: Names = Field(
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
    max_eta_seconds: Seconds = Field(
        default=2_592_000.0,
        description="Expected seconds of the longest job that is accepted. The default is 30 days.",
    )
    hour_price: float | None = Field(
        default=None,
        gt=0,
        description="What an hour of this machine costs, in any currency. A job's expected price "
        "is then in `seedvr2 plan` and in its notes. Not set: no price is told.",
    )
    max_price: float | None = Field(
        default=None,
        gt=0,
        description="Expected price of the dearest job that is accepted; it needs "
        "SEEDVR2_HOUR_PRICE. Not set: any.",
    )
    fetch_seconds: Seconds = Field(
        default=3600.0,
        description="How many seconds the download of a video may take, all attempts together, "
        "and how many a caller may take to send one to the gateway.",
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
    report: bool = Field(
        default=True,
        description="Measure each result against its source and write a report beside it "
        "(NAME.report.html and NAME.report.json). It takes about a twentieth of the job's time at "
        "most, and a quarter of a second at the least.",
    )
    deployments: Table = Field(
        default=DEPLOYMENTS,
        description="Comma-separated list of RESOLUTION=FLOW/DEPLOYMENT: which Prefect deployment "
        "makes which resolution; `*` stands for all that are not named. A resolution that is "
        "missing is refused. Set the same for `make deploy`, workers and gateway.",
    )
    coding_deployment: str | None = Field(
        default=None,
        pattern=r"^upscale/[^/]+$",
        description="Deployment on a pool without a GPU, such as `upscale/coding`: a video whose "
        "master was kept (`keep_master`) is coded again there. Its workers need room and cores for "
        "that, and the directory or the store of the others. Not set: such a job waits for a "
        "worker of its usual pool, though not for the GPU.",
    )
    image: str | None = Field(
        default=None,
        description="Container image of the docker work pools; `make deploy` reads it. "
        "Not set: `seedvr2:<git commit of the checkout>`.",
    )
    site_file: AbsolutePath | None = Field(
        default=None,
        description="File with the settings of the whole installation, lines NAME=value; "
        "`make deploy` reads it and hands the settings to the jobs of every work pool. "
        "Not set: `site.env` in the folder `deployments`, if it is there.",
    )
    alert_url: WebAddress | None = Field(
        default=None,
        description="Address that Prefect sends alerts to (late runs, a work pool without "
        "workers), by POST; `make deploy` reads it. Not set: no alerts.",
    )
    recover_silent_seconds: Seconds = Field(
        default=25.0,
        description="How many seconds the process of a job may show no sign of life before "
        "`recover` looks whether it is gone. A process shows one every 10 seconds.",
    )
    recover_margin_seconds: Seconds = Field(
        default=300.0,
        description="How many seconds beyond a job's expected end and limits `recover` waits.",
    )
    recover_wait_seconds: Seconds = Field(
        default=40.0,
        description="How many seconds the `recover` flow watches a run that was never started, and "
        "how many it waits for the worker of a lost run to end its process.",
    )
    recover_pending_seconds: Seconds = Field(
        default=1800.0,
        description="How many seconds a worker may take to start a run that it has accepted, "
        "pulling the image included. After that `recover` gives the run to another worker.",
    )
    recover_look_seconds: Seconds = Field(
        default=10.0, description="How many seconds `recover` waits between two looks at storage."
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

    @model_validator(mode="after")
    def _has_a_price_to_compare(self) -> "Settings":
        if self.max_price is not None and self.hour_price is None:
            raise ValueError("SEEDVR2_MAX_PRICE needs SEEDVR2_HOUR_PRICE: what an hour costs")
        return self

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
    def delivered_dir(self) -> Path:
        """What addresses of callers (`output_url`) have taken: JSON files. Absolute."""
        return self.work_dir.absolute() / "delivered"

    @property
    def rates_dir(self) -> Path:
        """How fast each machine was found to work: a JSON file for each. Absolute."""
        return self.work_dir.absolute() / "rates"

    @property
    def jobs_dir(self) -> Path:
        """One folder for each job. Absolute."""
        return self.work_dir.absolute() / "jobs"

    @property
    def helpers_dir(self) -> Path:
        """Where runs help jobs of other machines: a folder for each. Absolute."""
        return self.work_dir.absolute() / "helpers"

    @property
    def masters_dir(self) -> Path:
        """Where masters are kept, each job's with those of the same pixels."""
        return self.work_dir.absolute() / "masters"

    @property
    def again_dir(self) -> Path:
        """Notes by which doors find masters: JSON files. Absolute."""
        return self.work_dir.absolute() / "again"

    @property
    def locks_dir(self) -> Path:
        """Lock files by which processes of this machine take turns at a device. Absolute."""
        return self.work_dir.absolute() / "locks"

    @property
    def warm_dir(self) -> Path:
        """Sockets of the processes that wait for a job with their engine loaded. Absolute."""
        return self.work_dir.absolute() / "warm"

    def job_dir(self, job_key: str) -> Path:
        """Folder of one job: its plan, its segments, its result. Absolute."""
        return self.jobs_dir / job_key


def child_environment() -> dict[str, str]:
    """Environment of a process that decodes strangers' videos or runs a model."""
    return for_children(os.environ)


_in_force: Settings | None = None
"""What `use_settings` has put in the place of the environment."""


def get_settings() -> Settings:
    """The settings in force: those of the environment, or those given to `use_settings`."""
    return _in_force or Settings()


def use_settings(settings: Settings | None) -> None:
    """Make this process use these settings, as the command line does; None: the environment's."""
    global _in_force
    _in_force = settings
