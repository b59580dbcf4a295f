"""What all storages share: names, candidates, translated errors."""

import errno
import random
from pathlib import PurePosixPath

import pytest

from seedvr2_core.errors import InvalidRequestError, ResourceError, StorageError
from tasks.storage.base import candidates, check_name, no_name_left, translated


@pytest.mark.parametrize(
    ("name", "second"),
    [("a.mp4", "a-1.mp4"), ("a.b.mp4", "a.b-1.mp4"), ("a", "a-1"), ("a.", "a-1.")],
)
def test_candidates(name: str, second: str) -> None:
    tried = list(candidates(name))
    assert tried[:2] == [name, second]
    assert len(set(tried)) == len(tried) == 1000
    assert {PurePosixPath(one).suffix for one in tried} == {PurePosixPath(name).suffix}
    assert "1000 different files" in str(no_name_left(name))


@pytest.mark.parametrize("seed", range(20))
def test_every_candidate_of_a_good_name_is_a_name(seed: int) -> None:
    """The longest ones too: the file system's limit is 255 bytes."""
    name = "".join(random.Random(seed).choices("aé.- ", k=100)).strip(". ")
    check_name(name)
    for candidate in candidates(name):
        assert len(candidate.encode()) <= 255
        assert "/" not in candidate
        assert not candidate.startswith(".")


@pytest.mark.parametrize("name", ["", ".a", "a/b", "a\\b", "a\n", "é" * 126])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequestError, match="at most 250 bytes"):
        check_name(name)


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, ResourceError), (errno.EDQUOT, ResourceError), (errno.EIO, StorageError)],
)
def test_errors_of_the_system_are_translated(number: int, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="storing a failed: told") as caught, translated("storing a"):
        raise OSError(number, "told")
    assert type(caught.value) is kind
    assert isinstance(caught.value.__cause__, OSError)
