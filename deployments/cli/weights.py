"""`seedvr2 weights`: lists, downloads and verifies the weights of the SeedVR2 models."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from deployments.cli.options import AsJson
from deployments.cli.words import absolute
from deployments.host.exits import can_draw, console, exit_codes, say
from seedvr2_core.config import ENGINES
from seedvr2_core.errors import CheckpointError, InvalidRequestError
from seedvr2_core.weights.table import TEXT, Precision
from seedvr2_core.words import counted
from tasks.settings import Settings, get_settings
from tasks.sources.names import printable

if TYPE_CHECKING:
    from seedvr2_core.planning.cards import NamedCard
    from seedvr2_core.weights.folder import Catalog, Inventory, WeightsFile

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="List, download and verify the SeedVR2 weights.",
)
KEPT = "what was downloaded is kept"

WeightsDir = Annotated[
    Path | None,
    typer.Option(help="Folder of weights; default SEEDVR2_WEIGHTS_DIR or WORK_DIR/weights."),
]
_STATUS_WORDS = {
    "verified": "publisher's digest matches",
    "unknown": "publisher's digest unknown",
    "wrong": "WRONG",
    "unchecked": "digest not checked yet",
}


class FileReport(BaseModel, defer_build=True):
    """One file in the folder of weights."""

    name: str
    part: str | None
    """dit-3b, dit-7b, dit-7b-sharp, dit-1.4b, vae or pos_emb; None if the file is refused."""
    dtypes: tuple[str, ...] = ()
    size_bytes: int
    sha256: str | None = None
    status: str
    """verified, unknown, wrong, unchecked or refused."""
    fits: str = ""
    """Of a transformer: what it can make on this machine's device; "" for other parts."""
    notes: tuple[str, ...] = ()


class ModelReport(BaseModel, defer_build=True):
    """Whether a model can run with the files of the folder."""

    name: str
    ready: bool
    missing: tuple[str, ...]
    """Parts of the model for which there is no usable file."""


class WeightsReport(BaseModel, defer_build=True):
    """What `list` and `verify` print."""

    weights_dir: Path
    device: str
    """What `fits` is about: the first GPU with its free memory, or that there is none."""
    models: list[ModelReport]
    files: list[FileReport]

    @property
    def faulty(self) -> list[FileReport]:
        """Files that must not be used."""
        return [file for file in self.files if file.status in ("wrong", "refused")]


@app.command(name="list")
def list_command(weights_dir: WeightsDir = None, as_json: AsJson = False) -> None:
    """List the models and the files in the folder of weights.

    Of each file only the names and shapes of its tensors are read; `verify` reads it whole.
    """
    with exit_codes(KEPT):
        from seedvr2_core.weights import scan_weights

        settings, catalog = _settings(weights_dir), _catalog()
        report = _report(settings, scan_weights(settings.weights_folder, catalog=catalog), catalog)
    _print_report(report, as_json)


@app.command()
def download(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME...", help="seedvr2-7b, seedvr2-7b-sharp, seedvr2-3b or seedvr2-1.4b."
        ),
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            help="Of the transformer: fp16, fp8, q8_0, q4_k_m, or original (ByteDance's files); "
            "where there is none, fp16 or original. Of the 3B only original is what ByteDance "
            "publishes today.",
        ),
    ] = "fp16",
    weights_dir: WeightsDir = None,
    as_json: AsJson = False,
) -> None:
    """Download everything that models need.

    These are the files of the transformer, the VAE and the text embedding. A download that was
    interrupted goes on where it stopped.
    """
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
        say(_file_line(_file_report(file)))
    if as_json:
        typer.echo(json.dumps([_file_report(file).model_dump(mode="json") for file in files]))
    else:
        typer.echo(settings.weights_folder)


@app.command()
def verify(weights_dir: WeightsDir = None, as_json: AsJson = False) -> None:
    """Read every file and compare its digest.

    Exits with 2 if a file must not be used, or if there are none.
    """
    with exit_codes(KEPT):
        from deployments.cli.weights_hub import verify_weights

        settings, catalog = _settings(weights_dir), _catalog()
        with _bars() as progress:
            inventory = verify_weights(settings, progress=progress, catalog=catalog)
        report = _report(settings, inventory, catalog)
    _print_report(report, as_json)
    with exit_codes(KEPT):
        _raise_on_faults(report)


def _raise_on_faults(report: WeightsReport) -> None:
    """Raise CheckpointError if a file must not be used, or if there is no file."""
    if not report.files:
        raise CheckpointError(
            f"no weights in {report.weights_dir}; run: seedvr2 weights download seedvr2-7b"
        )
    if report.faulty:
        names = ", ".join(file.name for file in report.faulty)
        raise CheckpointError(f"{counted(len(report.faulty), 'file')} must not be used: {names}")


def _settings(weights_dir: Path | None) -> Settings:
    """The settings in force, with `weights_dir` in place of theirs if it is given."""
    if weights_dir is not None and weights_dir.exists() and not weights_dir.is_dir():
        raise InvalidRequestError(f"--weights-dir must be a folder, got the file {weights_dir}")
    given = {"weights_dir": absolute(weights_dir, "--weights-dir")} if weights_dir else {}
    return get_settings().model_copy(update=given)


def _catalog() -> "Catalog":
    """The catalog of public weights; tests replace this with a small one."""
    from seedvr2_core.weights.folder import PUBLIC

    return PUBLIC


def _precision(value: str) -> Any:
    """Check --precision; returns it in lower case."""
    known = get_args(Precision)
    if value.lower() not in known:
        raise InvalidRequestError(f"--precision is one of {', '.join(known)}, got {value}")
    return value.lower()


@contextmanager
def _bars() -> Iterator[Any]:
    """Show a bar for each file and phase on a terminal, and a line for each elsewhere."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    drawn = can_draw(console)
    with Progress(*columns, console=console, disable=not drawn) as progress:
        bars: dict[tuple[str, str], Any] = {}

        def show(file: str, phase: str, done: int, total: int | None) -> None:
            key = (file, phase)
            if key not in bars:
                bars[key] = progress.add_task(f"{phase} {file}", total=total)
                if not drawn:
                    say(f"{phase} {file}")
            progress.update(bars[key], completed=done, total=total)

        yield show


def _report(settings: Settings, inventory: "Inventory", catalog: "Catalog") -> WeightsReport:
    """Make the report on a folder's files."""
    usable = {
        file.part for file in inventory.files if file.status != "wrong" and not file.superseded
    }
    if any(file.has_text for file in inventory.files):
        usable.add(TEXT)
    card, models = this_card(), []
    for name, parts in catalog.models.items():
        missing = tuple(part for part in parts if part not in usable)
        models.append(ModelReport(name=name, ready=not missing, missing=missing))
    refused = [
        FileReport(
            name=printable(path.name),
            part=None,
            size_bytes=_size(path),
            status="refused",
            notes=(reason,),
        )
        for path, reason in inventory.refused.items()
    ]
    return WeightsReport(
        weights_dir=settings.weights_folder,
        device=_device_line(card),
        models=models,
        files=[*(_file_report(file, card) for file in inventory.files), *refused],
    )


def this_card() -> "NamedCard | None":
    """The first GPU of this machine; None if it has none."""
    from seedvr2_core.kernels.devices import gpus
    from seedvr2_core.planning.cards import NamedCard

    return next((NamedCard(kind=kind, free_bytes=free) for _, kind, free in gpus()), None)


def _device_line(card: "NamedCard | None") -> str:
    if card is None:
        return "no GPU here: the SeedVR2 models need one"
    return f"{card.kind}, {card.free_bytes / 1e9:.1f} GB free"


def _fits(file: "WeightsFile", card: "NamedCard | None") -> str:
    """What a transformer's file can make on the card, as planned in batches of 100 frames."""
    from seedvr2_core.planning.cards import largest_fit
    from seedvr2_core.planning.plan import Quantized

    engine = f"seedvr2-{file.part.removeprefix('dit-')}"
    if not file.part.startswith("dit-") or engine not in ENGINES:
        return ""
    if card is None:
        return "needs a GPU"
    kept = file.quantized
    quantized = Quantized(layers=kept.layers, largest=kept.largest) if kept.largest else None
    resolution = largest_fit(engine, card, quantized)
    return f"fits this card up to {resolution}" if resolution else "does not fit this card"


def _size(path: Path) -> int:
    """Bytes of a file; 0 if it cannot be read."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _file_report(file: "WeightsFile", card: "NamedCard | None" = None) -> FileReport:
    return FileReport(
        name=printable(file.path.name),
        part=file.part,
        dtypes=file.dtypes,
        size_bytes=file.num_bytes,
        sha256=file.sha256,
        status=file.status,
        fits=_fits(file, card),
        notes=file.notes,
    )


def _print_report(report: WeightsReport, as_json: bool) -> None:
    """Print the report to stdout, for people or as JSON."""
    if as_json:
        typer.echo(report.model_dump_json())
        return
    stdout = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    models = Table(title=None, box=None, pad_edge=False)
    for heading in ("model", "can run", "missing"):
        models.add_column(heading)
    for model in report.models:
        models.add_row(model.name, "yes" if model.ready else "no", ", ".join(model.missing))
    stdout.print(models)
    stdout.print(f"\n{report.weights_dir} ({report.device})")
    for file in report.files:
        stdout.print(Text("  " + _file_line(file)))
    if not report.files:
        stdout.print("  nothing here yet")


def _file_line(file: FileReport) -> str:
    """A file in one line: what it is, its digest, and whether it may be used and why."""
    what = f"{file.part} {'/'.join(file.dtypes)}" if file.part else "not used"
    status = _STATUS_WORDS.get(file.status, "refused")
    rest = [n for n in file.notes if not n.startswith(_STATUS_WORDS["unknown"])]
    digest = f", sha256 {file.sha256[:12]}" if file.sha256 else ""
    size = f"{file.size_bytes / 1e6:,.1f} MB"
    fits = [file.fits] if file.fits else []
    return f"{file.name}: {what}, {size}{digest}, {'; '.join([status, *fits, *rest])}"
