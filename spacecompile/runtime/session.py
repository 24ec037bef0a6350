"""From a bundle to answers: `load` chooses a variant and a backend, `Session` answers frames.

Layout legend: H, W frame rows and columns; C channels (RGB).
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from spacecompile.contract import ModelSpec, PrecisionWish, Tta, Variant
from spacecompile.errors import DeviceError, FrameError, MissingPartError, SpacecompileError, UsageError
from spacecompile.runtime.answer import Answer, answer_from_raw
from spacecompile.runtime.backend import Backend, RawTicket
from spacecompile.runtime.backends.registry import is_on_gpu, open_backend
from spacecompile.runtime.bundle import Bundle, open_bundle
from spacecompile.runtime.choice import Choice, check_graph_fits, choose_variant, gpu_options
from spacecompile.runtime.cuda.answer import DeviceAnswer, answer_from_any_raw
from spacecompile.runtime.cuda.source import is_on_device
from spacecompile.runtime.frame_reader import Color, FrameReader, FrameSource
from spacecompile.runtime.guard import GuardRule
from spacecompile.runtime.threads import usable_cores
from spacecompile.runtime.ticket import Ticket

DeviceSource: TypeAlias = Any
"""A frame on the GPU: `cuda.source.DeviceFrame`, or an array with DLPack or `__cuda_array_interface__`."""

_log = logging.getLogger(__name__)


_Fallback: TypeAlias = Callable[[SpacecompileError], tuple[Backend, Choice]]
"""Opens a backend for the CPU, after an error of the GPU."""

DevicePolicy = Literal["raise", "cpu"]
"""What an error of a GPU does: it is raised, or the CPU takes over, which is logged and stands in `Choice.fallback`."""


class Session:
    """Answers frames with one graph. A context manager; `close` frees the engine.

    One session answers one frame at a time, in the process that loaded it: a second thread that enters while it is
    busy gets an error, because two runs at once would share the threads and slow each other down unnoticed. Load
    one session per thread or process instead. On a GPU too; there `submit` keeps several frames in flight from one
    thread.
    """

    def __init__(
        self,
        backend: Backend,
        spec: ModelSpec,
        *,
        choice: Choice,
        rule: GuardRule,
        fallback: _Fallback | None = None,
    ) -> None:
        """Take over a backend; users call `load`."""
        self.spec = spec
        self.choice = choice
        self.rule = rule
        self._backend: Backend | None = backend
        self._retired: list[Backend] = []
        self._fallback = fallback
        self._reader = FrameReader(frame_size_px=spec.frame_size_px, color=choice.color)
        self._busy = threading.Lock()
        self._process_id = os.getpid()

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of `Answer.class_probs`."""
        return self.spec.classes

    @property
    def cuda_graphs(self) -> str:
        """How frames are queued on the GPU, for a person: with CUDA graphs, or why without; empty on the CPU."""
        return "" if self._backend is None else self._backend.graphs

    def __call__(self, frame: FrameSource | DeviceSource) -> Answer:
        """Answer one frame.

        Args:
            frame: uint8 array [H, W, 3], path of an image, or Pillow image, as in `FrameReader.read`; for a backend on
                a GPU also a frame on that GPU, as in `cuda.source`.

        Raises:
            FrameError: If the frame is not what the bundle was built for.
            AnswerError: If the graph put out what no sound graph can.
            DeviceError: If the GPU fails, and the policy is to raise.
            UsageError: If the session is closed, busy in another thread, or was loaded in another process.
        """
        if is_on_device(frame):
            answer = self.submit(frame).result()
            assert isinstance(answer, Answer)
            return answer
        frame_HWC = self._reader.read(frame)
        with self._entered() as backend:
            try:
                raw = backend.run(frame_HWC)
            except DeviceError as error:
                raw = self._fall_back(error, backend).run(frame_HWC)
        return answer_from_raw(raw, self.spec, self.rule)

    def submit(self, frame: FrameSource | DeviceSource, *, parts_on_device: bool = False) -> Ticket:
        """Start one frame and return at once; on the CPU it is answered before this returns.

        A frame of the host may be overwritten as soon as this returns, one on the GPU once the result is taken.

        Args:
            frame: One frame, as for `__call__`.
            parts_on_device: Whether the parts mask stays on the GPU: the result is a `DeviceAnswer` then, and until its
                `parts.release()` one frame less may be in flight.

        Raises:
            SpacecompileError: For the reasons of `__call__`.
            UsageError: If as many frames are in flight as `load` was told, beside the reasons of `__call__`.
        """
        given = frame if is_on_device(frame) else self._reader.read(frame)
        with self._entered() as backend:
            try:
                return self._started(backend, given, parts_on_device=parts_on_device)
            except DeviceError as error:
                engine = self._fall_back(error, backend)
                if is_on_device(given):
                    raise
                return self._started(engine, given, parts_on_device=parts_on_device)

    def _started(self, backend: Backend, frame: object, *, parts_on_device: bool) -> Ticket:
        """The ticket of a frame that a backend was handed."""
        on_device = is_on_device(frame)
        if (on_device or parts_on_device) and not backend.takes_device_frames:
            what = "the parts mask can't stay" if parts_on_device else "the frame is"
            why = f" ({self.choice.fallback})" if self.choice.fallback else ""
            raise UsageError(
                f"{what} on a GPU, but the session runs on {backend.name}{why}. Copy the frame to the host and take a "
                "plain answer, or load with a backend on the GPU."
            )
        if on_device and self.choice.color != "rgb":
            raise FrameError(
                f"a frame on the GPU is taken as it is, in RGB; the session was loaded for {self.choice.color} "
                'frames. Load it with color="rgb" and convert on the GPU.'
            )
        ticket = backend.submit(frame, parts_on_device=parts_on_device)
        # An answer that is there outlives the session; one in flight is taken through it, by one thread at a time.
        answer = None if ticket.at_once is None else answer_from_raw(ticket.at_once, self.spec, self.rule)
        return Ticket(ticket, partial(self._taken, ticket, backend), answer)

    def _taken(self, ticket: RawTicket, started_on: Backend) -> Answer | DeviceAnswer:
        """The result of a frame in flight; see `Ticket.result`."""
        with self._entered() as backend:
            try:
                raw = ticket.result()
            except DeviceError as error:
                # Only the first ticket that fails finds its own backend still in charge.
                engine = self._fall_back(error, backend) if backend is started_on else backend
                if ticket.failed_frame_HWC is None:
                    raise
                raw = engine.run(ticket.failed_frame_HWC)
        return answer_from_any_raw(raw, self.spec, self.rule)

    def _fall_back(self, error: DeviceError, backend: Backend) -> Backend:
        """The CPU's backend in place of the GPU's, which is kept for its frames in flight; raises under that policy."""
        if self._fallback is None:
            raise error
        engine, self.choice = self._fallback(error)
        self._retired.append(backend)
        self._backend = engine
        return engine

    def stream(self, frames: Iterable[FrameSource]) -> Iterator[Answer]:
        """Answer frames one after the other as they come; memory does not grow with their number.

        Raises:
            SpacecompileError: For the reasons of `__call__`, when the frame at fault is reached; `next` then goes on
                behind that frame.
        """
        return map(self, frames)

    def batch(self, frames: Iterable[FrameSource]) -> list[Answer]:
        """Answer several frames, for example an array [N, H, W, 3] or a list of paths.

        The sealed graph takes one frame, so they run in sequence: a batch saves no time, and its answers equal those of
        single calls bit for bit. `stream` does the same lazily.

        Raises:
            SpacecompileError: For the reasons of `__call__`; nothing is returned then.
        """
        return list(self.stream(frames))

    def warm_up(self, runs: int = 2) -> None:
        """Run a black frame, so that the first real one does not pay for memory and code that is touched first.

        Raises:
            DeviceError, UsageError: For the reasons of `__call__`.
        """
        black_HWC = np.zeros((*self.spec.frame_size_px, 3), np.uint8)
        for _ in range(runs):
            with self._entered() as backend:
                try:
                    backend.warm_up(black_HWC)
                except DeviceError as error:
                    self._fall_back(error, backend).run(black_HWC)

    def close(self) -> None:
        """Free the engine. Closing twice is harmless.

        Raises:
            UsageError: If another thread is in the middle of a frame.
        """
        if self._backend is not None:
            with self._entered() as backend:
                self._backend = None
                for engine in (backend, *self._retired):
                    engine.close()
                self._retired.clear()

    def __enter__(self) -> Session:
        """The session itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    @contextmanager
    def _entered(self) -> Iterator[Backend]:
        """The backend, for one thread at a time of the process that loaded the session."""
        if os.getpid() != self._process_id:
            # The engine's threads do not survive a fork: a run would wait for them for ever.
            raise UsageError("this session was loaded in another process. Call `load` in each process.")
        if not self._busy.acquire(blocking=False):
            raise UsageError("this session is answering a frame in another thread. Load one session per thread.")
        try:
            if self._backend is None:
                raise UsageError("this session is closed. Load the bundle again.")
            yield self._backend
        finally:
            self._busy.release()


def load(  # noqa: PLR0913  each is a choice of the user, and all but the path have a default
    path: str | Path | Bundle,
    *,
    backend: str = "auto",
    tta: Tta = "none",
    precision: PrecisionWish | None = None,
    variant: str | None = None,
    threads: int | None = None,
    spinning: bool = True,
    color: Color = "rgb",
    rule: GuardRule | None = None,
    cache: bool = True,
    device_index: int = 0,
    in_flight: int = 1,
    on_device_error: DevicePolicy = "raise",
) -> Session:
    """Open a bundle and make a session of one variant. The caller closes it, or uses `with`.

    Only the file of that variant is hashed, right before it is parsed, so that the first answer comes soon;
    `open_bundle` or `spacecompile verify` check every file.

    Args:
        path: Folder of the bundle, or an open bundle.
        backend: Name of a backend of `backends.registry.BACKENDS`, or `auto`. The choice is in `Session.choice`.
        tta: Test-time augmentation of the variant.
        precision: Precision of the variant. None takes the most exact that the bundle has, `auto` the one that is
            fastest on this CPU by `backends.speed.SPEEDS`, among those that a backend here is certified for.
        variant: Name of the variant, instead of `tta` and `precision`.
        threads: Number of threads per operator; None for the physical cores that this process may use.
        spinning: Whether idle threads wait busily: lower latency, more power. OpenVINO has no such switch.
        color: Order of the colour channels in the frames; see `frame_reader.Color`.
        rule: Thresholds beyond which answers are flagged; None for the defaults.
        cache: Whether the engine may keep compiled models in the user's cache folder; see `backends.openvino_cache`.
        device_index: Index of the GPU, for a backend on a GPU.
        in_flight: Number of frames that may be in flight on the GPU at the same time; see `Session.submit`.
        on_device_error: `cpu` to let the CPU take over when the GPU that was asked for is missing or fails, with the
            most exact variant of the same augmentation that a backend for the CPU is certified for; else `raise`.

    Raises:
        UsageError: If there is no such bundle, variant or backend, or an argument is out of range.
        MissingPartError: If the named backend is missing or can't be used; under `auto`, if every certified one is.
        IntegrityError: If the bundle is damaged, changed, or made for another version.
    """
    bundle = path if isinstance(path, Bundle) else open_bundle(path, verify=False)
    if on_device_error not in get_args(DevicePolicy):
        raise UsageError(f"on_device_error is {on_device_error!r}; choose one of {', '.join(get_args(DevicePolicy))}.")
    wish = _Wish(
        threads=threads,
        spinning=spinning,
        color=color,
        cache=cache,
        device_index=device_index,
        in_flight=in_flight,
    )
    FrameReader(frame_size_px=bundle.manifest.spec.frame_size_px, color=color)
    chosen, why = choose_variant(bundle, tta=tta, precision=precision, name=variant, backend=backend)

    def fall_back(error: SpacecompileError) -> tuple[Backend, Choice]:
        _log.warning("the CPU takes over: %s", error)
        substitute, reason = choose_variant(bundle, tta=chosen.tta, precision=None, name=None, backend="auto")
        return _opened(bundle, substitute, backend="auto", wish=wish, variant_reason=reason, fallback=str(error))

    fallback = fall_back if on_device_error == "cpu" and is_on_gpu(backend) else None
    try:
        engine, choice = _opened(bundle, chosen, backend=backend, wish=wish, variant_reason=why)
    except (DeviceError, MissingPartError) as error:
        if fallback is None:
            raise
        engine, choice = fallback(error)
    _log.info("loaded %s", choice)
    return Session(engine, bundle.manifest.spec, choice=choice, rule=rule or GuardRule(), fallback=fallback)


@dataclass(frozen=True, kw_only=True)
class _Wish:
    """What a caller of `load` wants beside variant and backend."""

    threads: int | None
    spinning: bool
    color: Color
    cache: bool
    device_index: int
    in_flight: int


def _opened(
    bundle: Bundle, chosen: Variant, *, backend: str, wish: _Wish, variant_reason: str, fallback: str = ""
) -> tuple[Backend, Choice]:
    """A backend that holds a variant, and what to say of it."""
    thread_count = usable_cores() if wish.threads is None else wish.threads
    model_bytes = bundle.read(chosen.path)
    gpu = gpu_options(bundle, chosen, device_index=wish.device_index, in_flight=wish.in_flight)
    engine, backend_reason = open_backend(
        backend,
        chosen,
        make=lambda factory: factory(
            model_bytes,
            precision=chosen.precision,
            threads=thread_count,
            spinning=wish.spinning,
            cache=wish.cache,
            gpu=gpu,
        ),
    )
    check_graph_fits(engine, bundle, chosen)
    return engine, Choice(
        bundle=bundle.manifest.name,
        manifest_sha256=bundle.manifest_sha256,
        variant=chosen.name,
        variant_reason=variant_reason,
        backend=engine.name,
        backend_version=engine.version,
        backend_reason=backend_reason,
        threads=thread_count,
        threads_reason="physical cores that this process may use" if wish.threads is None else "asked for",
        spinning=wish.spinning,
        color=wish.color,
        in_flight=engine.in_flight_max,
        fallback=fallback,
    )
