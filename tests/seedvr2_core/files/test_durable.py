"""Files that are complete or absent, also where a folder lies in their place."""

from pathlib import Path

import pytest

from seedvr2_core.errors import SegmentError
from seedvr2_core.files import hold_lock, read_record, write_record
from seedvr2_core.files.durable import replace_file, write_bytes
from seedvr2_core.planning.plan import CutList

CUTS = CutList(detector="a", frames=(1, 2))


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"\x00\xff\xfe", b"[1, 2]", b'{"detector": "a", "frames": [1'], ids=repr
)
def test_a_damaged_record_is_named_and_can_be_written_anew(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "cuts.json"
    path.write_bytes(content)
    with pytest.raises(SegmentError, match=r"cuts\.json is not a valid CutList record") as told:
        read_record(path, CutList)
    assert "remove" not in str(told.value)
    write_record(path, CUTS)
    assert read_record(path, CutList) == CUTS


def test_a_folder_in_a_files_place_is_set_aside_with_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "cuts.json"
    for number in (1, 2):
        path.unlink(missing_ok=True)
        path.mkdir()
        (path / "theirs").write_text(str(number))
        (tmp_path / "cuts.json.part").mkdir(exist_ok=True)
        with pytest.raises(SegmentError, match="is no file"):
            read_record(path, CutList)
        write_record(path, CUTS)
        assert read_record(path, CutList) == CUTS
        assert (tmp_path / f"cuts.json.set-aside-{number}" / "theirs").read_text() == str(number)
    assert (tmp_path / "cuts.json.part.set-aside-1").is_dir()


def test_a_finished_part_and_a_lock_get_their_names_all_the_same(tmp_path: Path) -> None:
    part, target, lock = tmp_path / "a.part", tmp_path / "a.mp4", tmp_path / "job.lock"
    target.mkdir()
    lock.mkdir()
    write_bytes(part, b"video")
    replace_file(part, target)
    assert target.read_bytes() == b"video"
    with hold_lock(lock, timeout=0, on_wait=lambda: None):
        assert lock.is_file()


def test_a_link_to_a_folder_is_replaced_and_the_folder_stays(tmp_path: Path) -> None:
    theirs, path = tmp_path / "theirs", tmp_path / "a.json"
    theirs.mkdir()
    path.symlink_to(theirs)
    write_bytes(path, b"{}")
    assert path.read_bytes() == b"{}"
    assert theirs.is_dir()
