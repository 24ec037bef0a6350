"""Published data sets fetched from the Hugging Face hub by their name, at one commit, ready to train on.

Nothing is fetched unless this module is asked to: it is an extra of its own.
"""

from __future__ import annotations

import json
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from spacecompile.contract import Progress, no_progress
from spacecompile.data.labels import SPLITS, scan_split
from spacecompile.errors import DataError, OutputError, first_line_of
from spacecompile.files import write_file

_ARCHIVE_SUFFIXES: Final = (".zip", ".tar", ".tar.gz", ".tgz")
FACTS_NAME: Final = "hub.json"
_HTTP_LIBRARIES: Final = ("httpx", "httpx2", "requests")
_UNPACKED_SUFFIX: Final = ".unpacked"


@dataclass(frozen=True, kw_only=True)
class FetchedSplit:
    """A split that can be read.

    Attributes:
        root: Folder for `--data`.
        split: Name of the split, `train` or `val`.
        format: Name of the format of its csv.
        frames: Number of frames whose files are there.
        missing: Number of rows whose files are missing.
    """

    root: Path
    split: str
    format: str
    frames: int
    missing: int


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What was fetched.

    Attributes:
        repo: Name of the data set.
        revision: Commit that was fetched.
        splits: Splits that were found in the data set.
    """

    repo: str
    revision: str
    splits: tuple[FetchedSplit, ...]


def fetch(
    repo: str,
    output: Path,
    *,
    revision: str | None = None,
    endpoint: str | None = None,
    bars: bool = False,
    progress: Progress = no_progress,
) -> Fetched:
    """Download a data set, unpack its archives and look for splits. What is there already is not fetched again.

    Args:
        repo: Name of the data set as `OWNER/NAME`.
        output: Folder for the files.
        revision: Branch, tag or commit; the main branch if not given.
        endpoint: Address of another hub than the public one.
        bars: Whether the hub's client draws its progress bars on stderr.
        progress: Callback for progress.

    Raises:
        DataError: If the hub refuses, can't be reached, or what it holds is in no known format.
        OutputError: If a file can't be written.
    """
    api = HfApi(endpoint=endpoint)
    with _translated(repo, output), _bars(bars):
        commit = str(api.repo_info(repo, repo_type="dataset", revision=revision).sha)
        # By the commit, so that a push in between changes nothing.
        api.snapshot_download(repo, repo_type="dataset", revision=commit, local_dir=output)
    archives = sorted(path for path in output.rglob("*") if path.name.endswith(_ARCHIVE_SUFFIXES) and path.is_file())
    for done, archive in enumerate(archives, start=1):
        _unpack(archive)
        progress("unpack", done, len(archives))
    splits = tuple(_splits_below(output))
    if not splits:
        names = sorted(path.relative_to(output).as_posix() for path in output.rglob("*.csv"))
        raise DataError(
            f"{repo} was fetched to {output}, but holds no {' or '.join(f'{name}.csv' for name in SPLITS)} of a known "
            f"format; its tables are {names}. Arrange it as `spacecompile render` does."
        )
    write_file(output / FACTS_NAME, json.dumps({"repo": repo, "revision": commit}) + "\n")
    return Fetched(repo=repo, revision=commit, splits=splits)


@contextmanager
def _bars(wanted: bool) -> Iterator[None]:
    if wanted or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


@contextmanager
def _translated(repo: str, output: Path) -> Iterator[None]:
    """The hub client's errors as ours."""
    try:
        yield
    except GatedRepoError as error:
        raise DataError(
            f"{repo} asks its users to accept its terms. Do so on its page, then log in with `hf auth login`."
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise DataError(
            f"the hub has no data set {repo} at that revision, or hides it. Check the name, or log in with "
            "`hf auth login`."
        ) from error
    except (HfHubHTTPError, OfflineModeIsEnabled, ConnectionError) as error:
        raise _unreachable(repo, error) from error
    except OSError as error:
        if error.errno is None:
            raise _unreachable(repo, error) from error
        raise OutputError(f"can't write {output}: {error.strerror}. Check the folder and its free space.") from error
    except Exception as error:
        # The hub's client lets its HTTP library's errors through, and which library that is depends on its version.
        if type(error).__module__.partition(".")[0] not in _HTTP_LIBRARIES:
            raise
        raise _unreachable(repo, error) from error


def _unreachable(repo: str, error: BaseException) -> DataError:
    return DataError(
        f"{repo} can't be fetched ({first_line_of(error)}). Check the network and give the command again: what was "
        "fetched is kept."
    )


def _unpack(archive: Path) -> None:
    """Unpack an archive beside itself, once."""
    mark = archive.with_name(archive.name + _UNPACKED_SUFFIX)
    if mark.exists() and mark.stat().st_mtime_ns >= archive.stat().st_mtime_ns:
        return
    try:
        if archive.suffix == ".zip":
            shutil.unpack_archive(archive, archive.parent, "zip")
        else:
            with tarfile.open(archive) as stream:
                stream.extractall(archive.parent, filter="data")
    except (zipfile.BadZipFile, tarfile.TarError, shutil.ReadError, EOFError) as error:
        raise DataError(f"{archive} can't be unpacked ({error}). Remove it and give the command again.") from error
    except OSError as error:
        raise OutputError(f"can't unpack {archive}: {error.strerror}. Check the free space.") from error
    write_file(mark, "")


def _splits_below(output: Path) -> Iterator[FetchedSplit]:
    """Every split whose table can be read, in the order of its path; tables of another kind are passed over."""
    for split in SPLITS:
        for table in sorted(output.rglob(f"{split}.csv")):
            root = table.parent.parent if table.parent.name == "labels" else table.parent
            try:
                found = scan_split(root, split)
            except DataError:
                continue
            yield FetchedSplit(
                root=root, split=split, format=found.format.name, frames=len(found.frames), missing=len(found.broken)
            )
