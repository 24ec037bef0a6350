"""From a bundle to answers: `load` chooses a variant and a backend, `Session` answers frames.

Layout legend: H, W frame rows and columns; C channels (RGB).
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from spacecompile.contract import ModelSpec, PrecisionWish, Tta, Variant
from spacecompile.errors import IntegrityError, UsageError
from spacecompile.runtime.answer import Answer, answer_from_raw
from spacecompile.runtime.backends import Backend
from spacecompile.runtime.backends.registry import expected_ratio, open_backend
from spacecompile.runtime.bundle import Bundle, open_bundle
from spacecompile.runtime.frames import Color, FrameReader, FrameSource
from spacecompile.runtime.guard import GuardRule
from spacecompile.runtime.threads import usable_cores

# From the most to the least exact, as `precision=None` prefers: on a CPU fewer bits are not faster by themselves.
_EXACTNESS = ("fp32", "fp16", "bf16", "int8")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What `load` decided, and why: a number without its circumstances is not a result.

    Attributes:
        bundle: Name of the bundle.
        manifest_sha256: Of its manifest.
        variant: Name of the graph.
        variant_reason: Why this one.
        backend: Name of the engine.
        backend_version: Of the engine.
        backend_reason: Why this one.
        threads: That share one operator.
        threads_reason: Why so many.
        spinning: Whether idle threads were to wait busily; OpenVINO has no such switch.
        color: What the caller's frames hold.
    """

    bundle: str
    manifest_sha256: str
    variant: str
    variant_reason: str
    backend: str
    backend_version: str
    backend_reason: str
    threads: int
    threads_reason: str
    spinning: bool
    color: Color


class Session:
    """Answers frames with one graph. A context manager; `close` frees the engine.

    One session answers one frame at a time, in the process that loaded it: a second thread that enters while it is
    busy gets an error, because two runs at once would share the threads and slow each other down unnoticed. Load
    one session per thread or process instead.
    """

    def __init__(self, backend: Backend, spec: ModelSpec, *, choice: Choice, rule: GuardRule) -> None:
        """Take over a backend; users call `load`."""
        self.spec = spec
        self.choice = choice
        self.rule = rule
        self._backend: Backend | None = backend
        self._reader = FrameReader(frame_size_px=spec.frame_size_px, color=choice.color)
        self._busy = threading.Lock()
        self._process_id = os.getpid()

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of `Answer.class_probs`."""
        return self.spec.classes

    def __call__(self, frame: FrameSource) -> Answer:
        """Answer one frame.

        Args:
            frame: uint8 array [H, W, 3], path of an image, or Pillow image; see `FrameReader.read`.

        Raises:
            FrameError: If the frame is not what the bundle was built for.
            AnswerError: If the graph put out what no sound graph can.
            UsageError: If the session is closed, busy in another thread, or was loaded in another process.
        """
        frame_HWC = self._reader.read(frame)
        with self._entered() as backend:
            raw = backend.run(frame_HWC)
        return answer_from_raw(raw, self.spec, self.rule)

    def stream(self, frames: Iterable[FrameSource]) -> Iterator[Answer]:
        """Answer frames one after the other as they come; memory does not grow with their number.

        Raises:
            SpacecompileError: As `__call__`, when the frame at fault is reached; `next` then goes on behind it.
        """
        return map(self, frames)

    def batch(self, frames: Iterable[FrameSource]) -> list[Answer]:
        """Answer several frames, for example an array [N, H, W, 3] or a list of paths.

        The sealed graph takes one frame, so they run in sequence: a batch saves no time, and its answers equal those of
        single calls bit for bit. `stream` does the same lazily.

        Raises:
            SpacecompileError: As `__call__`; nothing is returned then.
        """
        return list(self.stream(frames))

    def warm_up(self, runs: int = 2) -> None:
        """Run a black frame, so that the first real one does not pay for memory and code that is touched first.

        Raises:
            UsageError: As `__call__`.
        """
        black_HWC = np.zeros((*self.spec.frame_size_px, 3), np.uint8)
        for _ in range(runs):
            with self._entered() as backend:
                backend.run(black_HWC)

    def close(self) -> None:
        """Free the engine. Closing twice is harmless.

        Raises:
            UsageError: If another thread is in the middle of a frame.
        """
        if self._backend is not None:
            with self._entered() as backend:
                self._backend = None
                backend.close()

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
) -> Session:
    """Open a bundle and make a session of one variant. The caller closes it, or uses `with`.

    Only the file of that variant is hashed, right before it is parsed, so that the first answer comes soon;
    `open_bundle` or `spacecompile verify` check every file.

    Args:
        path: Folder of the bundle, or an open bundle.
        backend: A name of `backends.registry.BACKENDS`, or `auto`. What was chosen is in `Session.choice`.
        tta: Test-time augmentation of the variant.
        precision: Of the variant. None takes the most exact that the bundle has, `auto` the one that is fastest on this
            CPU by `backends.speed.SPEEDS`, among those that a backend here is certified for.
        variant: Its name, instead of `tta` and `precision`.
        threads: That share one operator; None takes the physical cores that this process may use.
        spinning: Let idle threads wait busily: lower latency, more power. OpenVINO has no such switch.
        color: What the frames hold, see `frames.Color`.
        rule: When answers are flagged; None takes the defaults.
        cache: Let the engine keep compiled models in the user's cache folder; see `backends.openvino_cache`.

    Raises:
        UsageError: If there is no such bundle, variant or backend, or an argument is out of range.
        MissingPartError: If the named backend is missing or can't be used; under `auto`, if every certified one is.
        IntegrityError: If the bundle is damaged, changed, or made for another version.
    """
    bundle = path if isinstance(path, Bundle) else open_bundle(path, verify=False)
    chosen, variant_reason = _choose_variant(bundle, tta=tta, precision=precision, name=variant, backend=backend)
    FrameReader(frame_size_px=bundle.manifest.spec.frame_size_px, color=color)
    thread_count = usable_cores() if threads is None else threads
    model_bytes = bundle.read(chosen.path)
    engine, backend_reason = open_backend(
        backend,
        chosen,
        make=lambda factory: factory(
            model_bytes, precision=chosen.precision, threads=thread_count, spinning=spinning, cache=cache
        ),
    )
    _check_graph_fits(engine, bundle, chosen)
    choice = Choice(
        bundle=bundle.manifest.name,
        manifest_sha256=bundle.manifest_sha256,
        variant=chosen.name,
        variant_reason=variant_reason,
        backend=engine.name,
        backend_version=engine.version,
        backend_reason=backend_reason,
        threads=thread_count,
        threads_reason="physical cores that this process may use" if threads is None else "asked for",
        spinning=spinning,
        color=color,
    )
    _log.info("loaded %s", choice)
    return Session(engine, bundle.manifest.spec, choice=choice, rule=rule or GuardRule())


def _choose_variant(
    bundle: Bundle, *, tta: Tta, precision: PrecisionWish | None, name: str | None, backend: str
) -> tuple[Variant, str]:
    if name is not None:
        named = bundle.variant(name)
        if precision not in (None, named.precision) or tta not in ("none", named.tta):
            raise UsageError(
                f"variant {name} has precision {named.precision} and tta {named.tta}, but precision {precision} and "
                f"tta {tta} were asked for. Give either the variant or these two."
            )
        return named, "asked for by name"
    wanted = None if precision == "auto" else precision
    fitting = [
        variant for variant in bundle.manifest.variants if variant.tta == tta and wanted in (None, variant.precision)
    ]
    if not fitting:
        wish = f"tta {tta}" + (f" and precision {wanted}" if wanted else "")
        raise UsageError(
            f"{bundle.root} has no variant with {wish}; it has {bundle.variant_names()}. Choose one of these, or build "
            "it with `spacecompile build --precision ... --tta ...`."
        )
    exact_first = sorted(fitting, key=lambda variant: _EXACTNESS.index(variant.precision))
    if precision == "auto":
        chosen, why = _fastest(exact_first, backend)
        return chosen, f"tta {tta}, {why}"
    return exact_first[0], f"tta {tta}, " + (
        "precision asked for" if precision else "the most exact precision of the bundle"
    )


def _fastest(variants: Sequence[Variant], backend: str) -> tuple[Variant, str]:
    """The fastest of the variants that were measured on a CPU like this, the earlier of equals; else the first."""
    ratios = {variant.name: expected_ratio(backend, variant) for variant in variants}
    measured = {name: ratio for name, ratio in ratios.items() if ratio is not None}
    if not measured:
        return variants[0], "the most exact precision of the bundle: none was measured on a CPU like this"
    fastest = min((variant for variant in variants if variant.name in measured), key=lambda it: measured[it.name])
    speeds = ", ".join(f"{name} {ratio}" for name, ratio in measured.items())
    return fastest, f"the fastest precision on a CPU like this, by measured time per frame: {speeds}"


def _check_graph_fits(engine: Backend, bundle: Bundle, variant: Variant) -> None:
    spec, signature = bundle.manifest.spec, engine.signature
    seen = (signature.frame_size_px, signature.num_classes)
    if seen != (spec.frame_size_px, len(spec.classes)):
        engine.close()
        raise IntegrityError(
            f"{bundle.root / variant.path} takes frames of {seen[0]} and knows {seen[1]} classes; the manifest says "
            f"{spec.frame_size_px} and {len(spec.classes)}. Build the bundle again with `spacecompile build`."
        )
