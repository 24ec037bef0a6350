"""What a results file holds of times: samples, starts, paces, ratios against peers."""

from __future__ import annotations

from spacecompile.record import Record


class Latency(Record):
    """Samples of one contestant in one scope, and what follows from them.

    Attributes:
        samples: Their number.
        p50_ms, p90_ms, p99_ms: None below the sample floor of that percentile.
        max_ms, min_ms, mean_ms: Over every sample; none is left out.
        variation: Standard deviation over mean.
        further_ms: Other percentiles that were asked for.
        missing_samples: How many more each percentile that is None needs.
        samples_ms: In the order in which they were measured.
    """

    samples: int
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    max_ms: float
    min_ms: float
    mean_ms: float
    variation: float
    further_ms: dict[str, float | None]
    missing_samples: dict[str, int]
    samples_ms: tuple[float, ...]


class ColdStart(Record):
    """One start of a variant: files in the page cache, modules imported, and no compiled model in the engine's cache.

    Attributes:
        load_ms: From `load` being called until it returns: hashing, parsing, optimising.
        first_answer_ms: From `load` being called until the first answer.
    """

    load_ms: float
    first_answer_ms: float


class ProcessStart(Record):
    """A variant started in processes of its own, as a user's program starts it; medians of several starts.

    Attributes:
        starts: Number of processes.
        import_ms: Importing `spacecompile.runtime`.
        load_ms: `load`: hashing, importing the engine, parsing, optimising.
        first_answer_ms: The first answer, after `load`.
        next_answer_ms: The fastest of the answers after it.
        start_to_answer_ms: From the import to the first answer, the interpreter's own start left out.
        imported_memory_bytes: Resident memory after the import.
        peak_memory_bytes: Largest resident memory, engine and all; the largest of the starts.
        problem: Why there is no number, where a start failed; the numbers are zero then.
    """

    starts: int
    import_ms: float = 0.0
    load_ms: float = 0.0
    first_answer_ms: float = 0.0
    next_answer_ms: float = 0.0
    start_to_answer_ms: float = 0.0
    imported_memory_bytes: int = 0
    peak_memory_bytes: int = 0
    problem: str = ""


class Paced(Record):
    """A variant that is handed frames at a camera's rate, with idle gaps, instead of back to back.

    Attributes:
        rate_hz: Frames per second.
        frames: Number of frames that were due.
        deadline_misses: Answers that came after the next frame was due.
        late_starts: Frames that had to wait for the one before them.
        busy_share: Share of the time in which a frame was worked on, 0 to 1.
        latency: From the moment when the frame was due to its answer, waiting included.
    """

    rate_hz: float
    frames: int
    deadline_misses: int
    late_starts: int
    busy_share: float
    latency: Latency


class Throughput(Record):
    """Frames per second with several sessions side by side, back to back. The sealed graph takes one frame at a time.

    Attributes:
        sessions: Side by side, one in each of so many threads of the program.
        threads: Number of threads per operator in each session.
        frames: Answered.
        seconds: Seconds that the frames took.
        frames_per_s: Their ratio.
    """

    sessions: int
    threads: int
    frames: int
    seconds: float
    frames_per_s: float


class Energy(Record):
    """What one frame takes, by a counter of the machine.

    Attributes:
        counter: Counter that was read, for example `RAPL package-0`.
        frames: Answered back to back.
        joules_per_frame: Everything that the counter covers, over the frames.
        watts: Mean power meanwhile.
        idle_watts: Mean power right before, when nothing was measured.
    """

    counter: str
    frames: int
    joules_per_frame: float
    watts: float
    idle_watts: float


class Ratio(Record):
    """A variant's time over a peer's on the same frame in the same round; below 1 the variant is faster.

    Attributes:
        ratio: Median over the pairs of samples.
        spread: First and third quartile.
        rounds: Number of pairs: samples of both on the same frame in the same round.
    """

    ratio: float
    spread: tuple[float, float]
    rounds: int


class VariantEngine(Record):
    """What ran one variant.

    Attributes:
        name: Name of the backend.
        version: Version of the backend's engine.
        reason: Why this one.
    """

    name: str
    version: str
    reason: str
