"""The process that `process_start` measures: imports the runtime, loads one variant, answers a few frames, reports.

`child_process` runs it in a fresh interpreter; nothing is imported before the clock starts that a user's program would
not have imported either.
"""

from __future__ import annotations

import sys
import time

_NEXT_ANSWERS = 4


def main(arguments: list[str]) -> None:
    """Start a variant and report what that took.

    Args:
        arguments: Folder of the bundle, name of the variant, name of the backend, number of threads per operator, and
            `1` for threads that wait busily.
    """
    root, variant, backend, threads, spinning = arguments
    start_s = time.perf_counter()
    from spacecompile.runtime.session import load  # noqa: PLC0415 - what is timed

    imported_s = time.perf_counter()
    import numpy as np  # noqa: PLC0415
    import psutil  # noqa: PLC0415

    imported_bytes = psutil.Process().memory_info().rss
    load_start_s = time.perf_counter()
    with load(
        root, variant=variant, backend=backend, threads=int(threads), spinning=spinning == "1", cache=False
    ) as session:
        loaded_s = time.perf_counter()
        # Noise: what a frame shows changes no work.
        frame_HWC = np.random.default_rng(0).integers(0, 256, (*session.spec.frame_size_px, 3), dtype=np.uint8)
        answers_s = []
        for _ in range(1 + _NEXT_ANSWERS):
            begin_s = time.perf_counter()
            session(frame_HWC)
            answers_s.append(time.perf_counter() - begin_s)
    seen = {
        "import_ms": 1e3 * (imported_s - start_s),
        "load_ms": 1e3 * (loaded_s - load_start_s),
        "first_answer_ms": 1e3 * answers_s[0],
        "next_answer_ms": 1e3 * min(answers_s[1:]),
        "imported_memory_bytes": imported_bytes,
        "peak_memory_bytes": _peak_memory_bytes(),
    }
    from spacecompile.child_process import report  # noqa: PLC0415 - not before everything is measured

    report(seen)


def _peak_memory_bytes() -> int:
    """Largest resident memory of this process so far."""
    if sys.platform == "linux":
        # Not `ru_maxrss`: it survives `exec`, and would hold the memory of the process that started this one.
        with open("/proc/self/status", encoding="ascii") as stream:  # noqa: PTH123 - pathlib is not loaded yet
            return next(int(line.split()[1]) * 1024 for line in stream if line.startswith("VmHWM:"))
    if sys.platform == "win32":
        import psutil  # noqa: PLC0415

        return int(psutil.Process().memory_info().peak_wset)
    import resource  # noqa: PLC0415

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
