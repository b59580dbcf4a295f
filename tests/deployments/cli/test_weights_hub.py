"""Weights come from a hub whole and right, or not at all; what came is never lost."""

import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from pydantic import ValidationError

from deployments.cli import weights_hub as weights
from deployments.cli.weights_hub import download_weights, public_files, verify_weights
from seedvr2_core.errors import (
    CheckpointError,
    InvalidRequestError,
    ResourceError,
    SourceUnavailableError,
)
from seedvr2_core.weights.folder import WeightsFile, find_model, read_weights_record
from seedvr2_core.weights.table import MODEL_PARTS
from tasks.settings import Settings
from tests.kits.weights import (
    REPO,
    FakeHub,
    file_bytes,
    tensors,
    tiny_catalog,
    without_digest,
    write_safetensors,
)

MODEL = "seedvr2-3b"
PARTS = MODEL_PARTS[MODEL]
DIT = file_bytes("dit-3b")

Make = Callable[..., Settings]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with everything; no other address can be reached, and nobody pauses."""
    real = socket.socket.connect

    def connect(self: socket.socket, address: tuple[str, int]) -> None:
        assert address[0] == "127.0.0.1", f"something wants to reach {address}"
        real(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(weights, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)  # 10 MB: what a cut loses
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub = FakeHub()
    for part in ("dit-3b", "dit-7b", "dit-7b-sharp", "vae", "pos_emb"):
        hub.offer(part)
    yield hub
    hub.close()


@pytest.fixture
def here(hub: FakeHub, settings_with: Make, tmp_path: Path) -> Settings:
    return settings_with(weights_dir=tmp_path / "weights", hf_endpoint=hub.url + "/")


def get(settings: Settings, **options: object) -> tuple[WeightsFile, ...]:
    return download_weights([MODEL], settings, **{"catalog": tiny_catalog(), **options})


def parts_of(settings: Settings) -> list[Path]:
    return list((settings.weights_folder / ".download").glob("*.part"))


def test_a_model_comes_whole(hub: FakeHub, here: Settings) -> None:
    heard: list[tuple[str, str, int, int | None]] = []
    files = get(here, progress=lambda *what: heard.append(what))
    assert [file.part for file in files] == list(PARTS)
    assert {file.status for file in files} == {"verified"}
    paths = find_model(here.weights_folder, MODEL, catalog=tiny_catalog())
    assert [path.read_bytes() for path in paths] == [file_bytes(part) for part in PARTS]
    record = read_weights_record(paths[0])
    assert record is not None
    assert record.source == f"{REPO}@{hub.commit}"
    name, size = "dit-3b.safetensors", len(DIT)
    assert heard[0] == (name, "download", 0, size)
    assert {(name, "download", size, size), (name, "check", size, size)} <= set(heard)
    assert parts_of(here) == []


def test_nothing_is_told_and_nobody_else_is_asked(hub: FakeHub, here: Settings) -> None:
    get(here)
    assert {path for _, path, _ in hub.asked} == {
        f"/{REPO}/resolve/{version}/{part}.safetensors"
        for part in PARTS
        for version in ("main", hub.commit)
    }
    for _, _, headers in hub.asked:
        assert "authorization" not in headers
        assert "torch" not in headers["user-agent"]
        assert "agent/" not in headers["user-agent"]


def test_what_is_there_is_not_asked_for(hub: FakeHub, here: Settings) -> None:
    first = get(here)
    hub.asked.clear()
    assert get(here) == first
    assert hub.asked == []


def test_a_cut_connection_goes_on_where_it_was(hub: FakeHub, here: Settings) -> None:
    hub.cut = [100_000, 50_000]
    get(here)
    assert hub.ranges[:3] == [None, "bytes=100000-", "bytes=150000-"]
    assert (here.weights_folder / "dit-3b.safetensors").read_bytes() == DIT


def test_a_later_process_goes_on_where_it_was(hub: FakeHub, here: Settings) -> None:
    hub.cut = [100_000, *[0] * 100]
    with pytest.raises(SourceUnavailableError, match="100000 bytes are kept, run it again"):
        get(here)
    assert not (here.weights_folder / "dit-3b.safetensors").exists()
    assert [part.stat().st_size for part in parts_of(here)] == [100_000]
    hub.cut, hub.ranges = [], []
    get(here)
    assert hub.ranges[0] == "bytes=100000-"
    assert (here.weights_folder / "dit-3b.safetensors").read_bytes() == DIT


def test_another_version_begins_anew(hub: FakeHub, here: Settings) -> None:
    hub.cut = [100_000, *[0] * 100]
    hub.etags["dit-3b.safetensors"] = "of-the-version-before"
    with pytest.raises(SourceUnavailableError):
        get(here)
    hub.etags.clear()
    hub.cut, hub.ranges = [], []
    get(here)
    assert hub.ranges[0] is None
    assert parts_of(here) == []


@pytest.mark.parametrize("left", [len(DIT), len(DIT) + 5])
def test_a_part_that_is_already_whole_or_too_long(hub: FakeHub, here: Settings, left: int) -> None:
    hub.cut = [10, *[0] * 100]
    with pytest.raises(SourceUnavailableError):
        get(here)
    (part,) = parts_of(here)
    part.write_bytes(DIT + b"x" * (left - len(DIT)))
    hub.cut, hub.ranges = [], []
    get(here)
    assert hub.ranges[0] is None
    assert len(hub.ranges) == (2 if left == len(DIT) else 3)
    assert (here.weights_folder / "dit-3b.safetensors").read_bytes() == DIT


def test_a_busy_hub_is_asked_again(hub: FakeHub, here: Settings) -> None:
    hub.status = [503, 500, 429]
    assert len(get(here)) == 3


@pytest.mark.parametrize(
    ("answers", "kind", "told"),
    [
        ([404], CheckpointError, "the hub answers 404 for someone/weights/dit-3b.safetensors"),
        ([401], CheckpointError, "401.*SEEDVR2_HF_ENDPOINT"),
        ([403], CheckpointError, "403.*put the file into"),
        ([503] * 9, SourceUnavailableError, "503"),
    ],
)
def test_a_hub_that_refuses(hub: FakeHub, here: Settings, answers, kind, told) -> None:
    hub.status = list(answers)
    with pytest.raises(kind, match=told) as caught:
        get(here)
    assert "\n" not in str(caught.value)
    assert caught.value.user_mistake
    assert len(hub.asked) == min(len(answers), weights.ATTEMPTS)


def test_no_hub_there(settings_with: Make, hub: FakeHub, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = settings_with(weights_dir=tmp_path / "w", hf_endpoint=f"http://127.0.0.1:{port}")
    with pytest.raises(SourceUnavailableError, match=r"could not be downloaded: .*refused"):
        get(settings)


def test_offline_is_said(hub: FakeHub, here: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SourceUnavailableError, match="HF_HUB_OFFLINE forbids it"):
        get(here)
    assert hub.asked == []


def damaged(part: str) -> bytes:
    """Right in every name and shape, wrong in one bit."""
    content = bytearray(file_bytes(part))
    content[-1] ^= 1
    return bytes(content)


def test_a_wrong_digest_is_refused(hub: FakeHub, here: Settings) -> None:
    hub.offer("dit-3b", damaged("dit-3b"))
    with pytest.raises(CheckpointError, match=r"the publisher's is .*and not used") as caught:
        get(here)
    kept = here.weights_folder / "dit-3b.safetensors.refused"
    assert str(kept) in str(caught.value)
    assert kept.read_bytes() == damaged("dit-3b")
    with pytest.raises(CheckpointError, match="no usable weights"):
        find_model(here.weights_folder, MODEL, catalog=tiny_catalog())
    hub.offer("dit-3b")
    assert len(get(here)) == 3


def test_without_a_publishers_digest_the_hubs_word_counts(hub: FakeHub, here: Settings) -> None:
    catalog = without_digest("dit-3b")
    hub.etags["dit-3b.safetensors"] = "0" * 64
    with pytest.raises(CheckpointError, match="the hub announced 0000"):
        get(here, catalog=catalog)
    hub.etags.clear()
    found = get(here, catalog=catalog)[0]
    assert found.status == "unknown"
    assert "publisher's digest unknown" in found.notes[0]
    record = read_weights_record(found.path)
    assert record is not None
    assert record.publisher == "publisher's digest unknown"
    assert record.sha256 == found.sha256 is not None


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (file_bytes("dit-7b"), "it holds dit-7b, not dit-3b"),
        (DIT[:-7], "truncated: 7 of .*vid_out"),
        (b"<html>Please log in</html>", "no weights file"),
    ],
    ids=["another model", "truncated", "a web page"],
)
def test_names_and_shapes_decide_without_a_digest(hub, here, content: bytes, told: str) -> None:
    hub.offer("dit-3b", content)
    with pytest.raises(CheckpointError, match=told):
        get(here, catalog=without_digest("dit-3b"))
    assert not (here.weights_folder / "dit-3b.safetensors").exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (damaged("dit-3b"), "delete it"),
        (file_bytes("dit-7b"), "holds dit-7b"),
        (b"x", "no weights"),
    ],
    ids=["one bit", "another model", "junk"],
)
def test_a_wrong_file_that_is_there_is_not_replaced(hub, here, content: bytes, told: str) -> None:
    here.weights_folder.mkdir(parents=True)
    path = here.weights_folder / "dit-3b.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=told):
        get(here)
    assert path.read_bytes() == content
    assert hub.asked == []


def test_no_space(hub: FakeHub, here: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(here.work_dir.parent)._replace(free=10**9 + 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ResourceError, match="GB free; make room or set SEEDVR2_WEIGHTS_DIR"):
        get(here)
    assert hub.ranges == []


def test_a_disk_that_fills_up(hub: FakeHub, here: Settings) -> None:
    def fill(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(ResourceError, match="No space left"):
        get(here, progress=fill)


def test_a_folder_that_cannot_be_made(hub: FakeHub, settings_with: Make, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings = settings_with(weights_dir=tmp_path / "file" / "w", hf_endpoint=hub.url)
    with pytest.raises(ResourceError, match="cannot be written"):
        get(settings)


def test_two_at_once_download_once(hub: FakeHub, here: Settings) -> None:
    found: list[tuple[WeightsFile, ...]] = []
    threads = [threading.Thread(target=lambda: found.append(get(here))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert found[0] == found[1]
    assert len(hub.ranges) == 3


def test_verify(hub: FakeHub, here: Settings) -> None:
    get(here)
    heard: list[str] = []
    found = verify_weights(
        here, catalog=tiny_catalog(), progress=lambda file, *_: heard.append(file)
    )
    assert [file.status for file in found.files] == ["verified"] * 3
    assert set(heard) == {f"{part}.safetensors" for part in PARTS}
    (here.weights_folder / "vae.safetensors").write_bytes(damaged("vae"))
    write_safetensors(here.weights_folder / "mine", tensors("dit-7b", torch.bfloat16))
    (here.weights_folder / "cut").write_bytes(DIT[:-1])
    found = verify_weights(here, catalog=tiny_catalog())
    assert {file.path.name: file.status for file in found.files} == {
        "dit-3b.safetensors": "verified",
        "mine": "unknown",
        "pos_emb.safetensors": "verified",
        "vae.safetensors": "wrong",
    }
    assert [path.name for path in found.refused] == ["cut"]


@pytest.mark.parametrize(
    ("models", "precision", "files"),
    [
        (
            ["seedvr2-3b"],
            "fp16",
            ["seedvr2_ema_3b.pth", "ema_vae_fp16.safetensors", "pos_emb.pt"],  # not the first 3B
        ),
        (
            ["seedvr2-3b"],
            "q8_0",
            ["seedvr2_ema_3b-Q8_0.gguf", "ema_vae_fp16.safetensors", "pos_emb.pt"],
        ),
        (
            ["seedvr2-7b", "seedvr2-7b-sharp"],
            "fp8",
            [
                "seedvr2_ema_7b_fp8_e4m3fn_mixed_block35_fp16.safetensors",
                "ema_vae_fp16.safetensors",
                "pos_emb.pt",
                "seedvr2_ema_7b_sharp_fp8_e4m3fn_mixed_block35_fp16.safetensors",
            ],
        ),
        (
            ["seedvr2-7b-sharp"],
            "original",
            ["seedvr2_ema_7b_sharp.pth", "ema_vae.pth", "pos_emb.pt"],
        ),
    ],
)
def test_which_files_a_model_needs(models, precision, files: list[str]) -> None:
    assert [row.file for row in public_files(models, precision)] == files


@pytest.mark.parametrize("models", [[], ["seedvr2-9b"], ["seedvr2-3b", "span"]])
def test_models_that_have_no_weights(models: list[str]) -> None:
    with pytest.raises(InvalidRequestError, match="There are: seedvr2-3b"):
        public_files(models)


def test_settings(settings_with: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings_with().weights_folder == tmp_path / "work" / "weights"
    monkeypatch.setenv("SEEDVR2_WEIGHTS_DIR", "/models")
    monkeypatch.setenv("SEEDVR2_HF_ENDPOINT", "https://mirror.example")
    assert Settings().weights_folder == Path("/models")
    assert Settings().hf_endpoint == "https://mirror.example"
    with pytest.raises(ValidationError):
        Settings(hf_endpoint="mirror.example")
