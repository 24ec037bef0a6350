"""How the death of a decoding process is told, however torch hears of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from spacecompile.errors import OutputError, UsageError
from spacecompile.files import replacing
from spacecompile.train.frames import loader
from spacecompile.train.frames.decode import ALL_VIEWS
from spacecompile.train.frames.loader import DecodedGroup, received, worker_deaths_told


def broken_off(error: Exception) -> Iterator[DecodedGroup]:
    yield DecodedGroup(requests=((1, ALL_VIEWS),))
    raise error


def test_torchs_news_of_a_death_becomes_a_sentence_wherever_the_main_thread_is() -> None:
    with (
        pytest.raises(
            UsageError, match=r"died \(DataLoader worker \(pid 7\) is killed by signal: Killed\).*--workers 0"
        ),
        worker_deaths_told(),
    ):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")


@pytest.mark.parametrize("text", ["Caught RuntimeError in DataLoader worker process 0.\nTraceback", "CUDA error"])
def test_other_errors_stay_what_they_are(text: str) -> None:
    with pytest.raises(RuntimeError, match=text.splitlines()[0]), worker_deaths_told():
        raise RuntimeError(text)


@pytest.mark.parametrize(
    "error", [ConnectionResetError(104, "Connection reset by peer"), EOFError(), OSError("cut off")]
)
def test_a_connection_that_breaks_before_the_signal_comes_is_a_death_too(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "_NEWS_OF_DEATH_S", 0.0)
    groups = received(broken_off(error))
    assert next(groups).requests == ((1, ALL_VIEWS),)
    with pytest.raises(UsageError, match="a decoding process died"), worker_deaths_told():
        next(groups)


def test_an_error_that_a_live_process_sent_is_not_its_death() -> None:
    groups = received(broken_off(OSError("Caught OSError in DataLoader worker process 0.\nTraceback")))
    next(groups)
    with pytest.raises(OSError, match="Caught OSError"), worker_deaths_told():
        next(groups)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("DataLoader worker (pid 7) is killed by signal: Killed.", UsageError),
        ("PytorchStreamWriter failed writing file", OutputError),
    ],
)
def test_a_death_while_a_file_is_written_is_no_full_disk(tmp_path: Path, text: str, kind: type[Exception]) -> None:
    path = tmp_path / "last.pt"
    first, *_ = text.split()
    with pytest.raises(kind, match=first), worker_deaths_told(), replacing(path, errors=(RuntimeError,)):
        raise RuntimeError(text)
    assert not list(tmp_path.iterdir())
