"""`seedvr2 weights`: what weights there are, bring them, check them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from deployments.host.exits import exit_codes, say, screen
from seedvr2_core.errors import CheckpointError, InvalidRequestError
from tasks.settings import Settings, get_settings

if TYPE_CHECKING:
    from seedvr2_core.weights.folder import Catalog, Inventory, WeightsFile

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="List, download and verify the SeedVR2 weights.",
)
KEPT = "what came is kept"

AsJson = Annotated[bool, typer.Option("--json", help="The last line is JSON.")]
WeightsDir = Annotated[
    Path | None,
    typer.Option(help="Folder of the weights; default SEEDVR2_WEIGHTS_DIR or WORK_DIR/weights."),
]
_STATUS_WORDS = {
    "verified": "publisher's digest matches",
    "unknown": "publisher's digest unknown",
    "wrong": "WRONG",
    "unchecked": "digest not checked yet",
}


class FileReport(BaseModel):
    """One file of the folder."""

    name: str
    part: str | None
    """dit-3b, dit-7b, dit-7b-sharp, vae, pos_emb; None: refused."""
    dtypes: tuple[str, ...] = ()
    size_bytes: int
    sha256: str | None = None
    status: str
    """verified, unknown, wrong, unchecked or refused."""
    notes: tuple[str, ...] = ()


class ModelReport(BaseModel):
    """One model: can it run?"""

    name: str
    ready: bool
    missing: tuple[str, ...]
    """Parts that no usable file serves."""


class WeightsReport(BaseModel):
    """What `list` and `verify` say."""

    weights_dir: Path
    models: list[ModelReport]
    files: list[FileReport]

    @property
    def faulty(self) -> list[FileReport]:
        """Files that must not be used."""
        return [file for file in self.files if file.status in ("wrong", "refused")]


@app.command(name="list")
def list_command(weights_dir: WeightsDir = None, as_json: AsJson = False) -> None:
    """Show the known models and what is in the folder; reads no more than names and shapes."""
    with exit_codes(KEPT):
        from seedvr2_core.weights import scan_weights

        settings, catalog = _settings(weights_dir), _catalog()
        report = _report(settings, scan_weights(settings.weights_folder, catalog=catalog), catalog)
    _show(report, as_json)


@app.command()
def download(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME...", help="seedvr2-7b, seedvr2-7b-sharp, seedvr2-3b."),
    ] = None,
    precision: Annotated[
        str, typer.Option(help="Of the transformer: fp16, fp8, or original (ByteDance's files).")
    ] = "fp16",
    weights_dir: WeightsDir = None,
    as_json: AsJson = False,
) -> None:
    """Bring all that the models need: transformer, VAE and text embedding."""
    with exit_codes(KEPT):
        from deployments.cli.weights_hub import download_weights

        settings, catalog = _settings(weights_dir), _catalog()
        with _bars() as progress:
            files = download_weights(
                names or [],
                settings,
                precision=_precision(precision),
                progress=progress,
                catalog=catalog,
            )
    for file in files:
        say(_line(_file_report(file)))
    if as_json:
        typer.echo(json.dumps([_file_report(file).model_dump(mode="json") for file in files]))
    else:
        typer.echo(settings.weights_folder)


@app.command()
def verify(weights_dir: WeightsDir = None, as_json: AsJson = False) -> None:
    """Read every file and compare digests; exit 2 if one must not be used, or none is there."""
    with exit_codes(KEPT):
        from deployments.cli.weights_hub import verify_weights

        settings, catalog = _settings(weights_dir), _catalog()
        with _bars() as progress:
            inventory = verify_weights(settings, progress=progress, catalog=catalog)
        report = _report(settings, inventory, catalog)
    _show(report, as_json)
    with exit_codes(KEPT):
        _raise_on_faults(report)


def _raise_on_faults(report: WeightsReport) -> None:
    if not report.files:
        raise CheckpointError(
            f"no weights in {report.weights_dir}; run: seedvr2 weights download seedvr2-7b"
        )
    if report.faulty:
        names = ", ".join(file.name for file in report.faulty)
        raise CheckpointError(f"{len(report.faulty)} files must not be used: {names}")


def _settings(weights_dir: Path | None) -> Settings:
    """The settings in force, with this folder if one is given."""
    given = {"weights_dir": weights_dir.expanduser().absolute()} if weights_dir else {}
    return get_settings().model_copy(update=given)


def _catalog() -> "Catalog":
    """What is known of weights; tests put a small one in its place."""
    from seedvr2_core.weights.folder import PUBLIC

    return PUBLIC


def _precision(value: str) -> Any:
    known = ("fp16", "fp8", "original")
    if value.lower() not in known:
        raise InvalidRequestError(f"--precision is one of {', '.join(known)}, got {value}")
    return value.lower()


@contextmanager
def _bars() -> Iterator[Any]:
    """A bar for each file and phase, on a terminal."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=screen, disable=not screen.is_terminal) as progress:
        bars: dict[tuple[str, str], Any] = {}

        def hear(file: str, phase: str, done: int, total: int | None) -> None:
            key = (file, phase)
            if key not in bars:
                bars[key] = progress.add_task(f"{phase} {file}", total=total)
                if not screen.is_terminal:
                    say(f"{phase} {file}")
            progress.update(bars[key], completed=done, total=total)

        yield hear


def _report(settings: Settings, inventory: "Inventory", catalog: "Catalog") -> WeightsReport:
    usable = {file.part for file in inventory.files if file.status != "wrong"}
    models = []
    for name, parts in catalog.models.items():
        missing = tuple(part for part in parts if part not in usable)
        models.append(ModelReport(name=name, ready=not missing, missing=missing))
    refused = [
        FileReport(
            name=path.name, part=None, size_bytes=_size(path), status="refused", notes=(reason,)
        )
        for path, reason in inventory.refused.items()
    ]
    return WeightsReport(
        weights_dir=settings.weights_folder,
        models=models,
        files=[*map(_file_report, inventory.files), *refused],
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _file_report(file: "WeightsFile") -> FileReport:
    return FileReport(
        name=file.path.name,
        part=file.part,
        dtypes=file.dtypes,
        size_bytes=file.num_bytes,
        sha256=file.sha256,
        status=file.status,
        notes=file.notes,
    )


def _show(report: WeightsReport, as_json: bool) -> None:
    if as_json:
        typer.echo(report.model_dump_json())
        return
    console = Console(soft_wrap=True, highlight=False)
    models = Table(title=None, box=None, pad_edge=False)
    for heading in ("model", "can run", "missing"):
        models.add_column(heading)
    for model in report.models:
        models.add_row(model.name, "yes" if model.ready else "no", ", ".join(model.missing))
    console.print(models)
    console.print(f"\n{report.weights_dir}", markup=False)
    for file in report.files:
        console.print(Text("  " + _line(file)))
    if not report.files:
        console.print("  nothing here yet")


def _line(file: FileReport) -> str:
    """A file in one line, reasons included."""
    what = f"{file.part} {'/'.join(file.dtypes)}" if file.part else "not used"
    told = _STATUS_WORDS.get(file.status, "refused")
    rest = [n for n in file.notes if not n.startswith(_STATUS_WORDS["unknown"])]
    digest = f", sha256 {file.sha256[:12]}" if file.sha256 else ""
    size = f"{file.size_bytes / 1e6:,.1f} MB"
    return f"{file.name}: {what}, {size}{digest}, {'; '.join([told, *rest])}"
