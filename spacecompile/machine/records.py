"""Records of a machine."""

from __future__ import annotations

from spacecompile.record import Record


class MachineFacts(Record):
    """What the machine did from the start of the run to its end. None is what it does not tell; nothing is guessed.

    Attributes:
        frequency_start_mhz, frequency_end_mhz: Mean frequency of the cores that tell theirs.
        temperature_start_c, temperature_end_c: Temperature of the hottest sensor of the processor.
        throttle_events: How often the processor slowed down for its temperature.
        stolen_share: Share of the processor time that a hypervisor gave to others, 0 to 1.
        others_share: Share of the processor time that other processes took, 0 to 1.
        accelerators: Name and driver of every GPU that the driver's library lists.
    """

    frequency_start_mhz: float | None = None
    frequency_end_mhz: float | None = None
    temperature_start_c: float | None = None
    temperature_end_c: float | None = None
    throttle_events: int | None = None
    stolen_share: float | None = None
    others_share: float | None = None
    accelerators: tuple[str, ...] = ()


class Environment(Record):
    """Where and how the numbers were measured.

    Attributes:
        cpu: Model name of the processor.
        cores: Number of logical cores that this process may use.
        threads: Number of threads that every contestant used.
        openmp_wait_policy: `OMP_WAIT_POLICY`, which PyTorch's idle threads follow; None for the library's default.
        governor: Governor of the first core's frequency; None where the kernel does not tell.
        load_average_start, load_average_end: Mean number of runnable processes over the last minute; at the end this
            one is among them.
        memory_bytes: Memory of the machine; None where the system does not tell.
        platform: Operating system and machine.
        versions: Version of every package that takes part.
        commit: Commit of the source tree; None outside a clone.
        modified: Whether the source tree differs from that commit.
        machine: What the machine did during the run; None in files from before machines were watched.
    """

    cpu: str
    cores: int
    threads: int
    openmp_wait_policy: str | None
    governor: str | None
    load_average_start: float | None
    load_average_end: float | None
    memory_bytes: int | None
    platform: str
    versions: dict[str, str]
    commit: str | None
    modified: bool | None
    machine: MachineFacts | None = None
