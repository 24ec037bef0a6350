"""Groups of frames decoded ahead of their use, by threads or by worker processes.

Threads share the caller's memory and start at once; Pillow and torch let each other run while they work, but what is
Python in between takes turns. Processes don't, and pay for it with seconds to start and a copy through shared memory.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from spacecompile.data.broken import BrokenFile
from spacecompile.data.interrupts import interrupts_held
from spacecompile.errors import OutputError, UsageError, first_line_of
from spacecompile.train.frames.decode import Request, ShownFrame, ViewDecoder

GROUPS_AHEAD = 2
_NEWS_OF_DEATH_S = 2.0

_Group = TypeVar("_Group")
_Key = TypeVar("_Key")
_Item = TypeVar("_Item")


@dataclass(frozen=True, kw_only=True)
class DecodedGroup:
    """Some decoded frames. Few tensors, since each one that crosses between processes takes a file descriptor.

    Attributes:
        requests: What was asked for.
        shown: Indices of the frames whose views are there; another index than asked for where that frame is broken.
        pixels_NVCHW, boxes_NV4: Views and boxes of the shown frames, see `decode.Views`; None for an empty group.
        broken: Frames that could not be decoded.
    """

    requests: tuple[Request, ...] = ()
    shown: tuple[int, ...] = ()
    pixels_NVCHW: Tensor | None = None
    boxes_NV4: Tensor | None = None
    broken: tuple[BrokenFile, ...] = ()


def group_of(requests: Sequence[Request], decoded: Sequence[ShownFrame]) -> DecodedGroup:
    """Stack frames that were decoded for some requests."""
    if not decoded:
        return DecodedGroup()
    return DecodedGroup(
        requests=tuple(requests),
        shown=tuple(frame.shown for frame in decoded),
        pixels_NVCHW=torch.stack([frame.views.pixels_VCHW for frame in decoded]),
        boxes_NV4=torch.stack([frame.views.boxes_V4 for frame in decoded]),
        broken=tuple(broken for frame in decoded for broken in frame.broken),
    )


def ahead(
    groups: Sequence[_Group],
    start: Callable[[ThreadPoolExecutor, _Group], dict[_Key, Future[_Item]]],
    *,
    threads: int,
) -> Iterator[tuple[_Group, dict[_Key, Future[_Item]]]]:
    """Groups with their decoding already under way for the next few of them, in threads."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    pending: deque[tuple[_Group, dict[_Key, Future[_Item]]]] = deque()
    try:
        for group in groups:
            pending.append((group, start(pool, group)))
            if len(pending) > GROUPS_AHEAD:
                yield pending.popleft()
        while pending:
            yield pending.popleft()
    finally:
        pool.shutdown(cancel_futures=True)


def decoded_by_threads(
    decoder: ViewDecoder, groups: Sequence[Sequence[Request]], wanted: Callable[[Request], bool], *, threads: int
) -> Iterator[DecodedGroup]:
    """The frames of each group that are still wanted when its turn comes, decoded by threads."""

    def start(pool: ThreadPoolExecutor, group: Sequence[Request]) -> dict[Request, Future[ShownFrame]]:
        return {request: pool.submit(decoder, request) for request in group if wanted(request)}

    for _, futures in ahead(groups, start, threads=threads):
        yield group_of([*futures], [future.result() for future in futures.values()])


class _Frames(Dataset[tuple[Request, ShownFrame]]):
    def __init__(self, decoder: ViewDecoder) -> None:
        self._decoder = decoder

    def __getitem__(self, index: Request) -> tuple[Request, ShownFrame]:
        return index, self._decoder(index)


class _Groups(Sampler[list[Request]]):
    """The groups of the epoch that is about to begin; the loader asks for each only a few groups ahead."""

    def __init__(self) -> None:
        self.groups: Sequence[Sequence[Request]] = ()
        self.wanted: Callable[[Request], bool] = lambda _: True

    def __iter__(self) -> Iterator[list[Request]]:
        return ([request for request in group if self.wanted(request)] for group in self.groups)


def _collated(items: list[tuple[Request, ShownFrame]]) -> DecodedGroup:
    return group_of([request for request, _ in items], [decoded for _, decoded in items])


@contextmanager
def worker_deaths_told() -> Iterator[None]:
    """Tell of a decoding process that died in a sentence.

    Torch notices by a signal and raises from its handler, wherever the main thread is at that moment: while it writes
    a file too, whose writer takes it for an error of its own.

    Raises:
        UsageError: In place of torch's error.
    """
    try:
        yield
    except (RuntimeError, OutputError) as error:
        # With "process" instead of "(pid" it is an error within a live one.
        death = next((it for it in (error, error.__cause__) if "DataLoader worker (pid" in str(it)), None)
        if death is None:
            raise
        raise UsageError(
            f"a decoding process died ({first_line_of(death)}). Check the free memory and the size of /dev/shm, take "
            "fewer --workers, or decode in threads with --workers 0."
        ) from error


def received(groups: Iterator[DecodedGroup]) -> Iterator[DecodedGroup]:
    """What processes send, with one error for their death: the connection may break before torch's signal comes.

    Raises:
        RuntimeError: As torch words it, if a process died.
    """
    try:
        yield from groups
    except (OSError, EOFError) as error:
        if "DataLoader worker process" in str(error):  # raised by the decoder, and sent here
            raise
        time.sleep(_NEWS_OF_DEATH_S)  # the signal's error must not come while this one is handled
        raise RuntimeError(f"DataLoader worker (pid unknown): {first_line_of(error)}") from error


class ProcessDecoder:
    """Worker processes that live as long as this object, so that each epoch starts at once.

    Torch stops them when the object is dropped, and no longer tells of their death then.
    """

    def __init__(self, decoder: ViewDecoder, *, processes: int) -> None:
        """Prepare; nothing is started yet.

        Args:
            decoder: Sent to every process.
            processes: Number of them.
        """
        self._groups = _Groups()
        self._loader: DataLoader[Any] = DataLoader(
            _Frames(decoder),
            batch_sampler=self._groups,
            num_workers=processes,
            collate_fn=_collated,
            # A fork would inherit locks that torch's threads hold at that moment.
            multiprocessing_context="spawn",
            persistent_workers=True,
            prefetch_factor=GROUPS_AHEAD,
        )

    def decoded(self, groups: Sequence[Sequence[Request]], wanted: Callable[[Request], bool]) -> Iterator[DecodedGroup]:
        """The frames of each group that are still wanted when its turn comes.

        Raises:
            UsageError: If a process died.
        """
        self._groups.groups, self._groups.wanted = groups, wanted
        with worker_deaths_told():
            yield from received(self._started())

    def _started(self) -> Iterator[DecodedGroup]:
        with interrupts_held():
            batches = iter(self._loader)
        yield from batches
