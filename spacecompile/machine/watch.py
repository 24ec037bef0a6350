"""What the machine does while something is measured: clocks, heat, and who else takes its time. Needs psutil.

What a machine does not tell is None: a virtual one has neither a governor nor a sensor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from spacecompile.machine.records import MachineFacts

_NOISY_STOLEN_SHARE = 0.02
_NOISY_OTHERS_SHARE = 0.10
"""Shares of the processor time above which a reader is warned."""

_CPU_FOLDER = Path("/sys/devices/system/cpu")
_CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "soc_thermal", "acpitz")


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Readings of one moment; every counter grows.

    Attributes:
        frequency_mhz, temperature_c: Readings as in `MachineFacts`.
        throttle_count: Number of times that the cores slowed down for their temperature since the machine started.
        total_s, idle_s, stolen_s: Processor time of all cores since the machine started.
        own_s: Processor time of this process and its children.
    """

    frequency_mhz: float | None
    temperature_c: float | None
    throttle_count: int | None
    total_s: float
    idle_s: float
    stolen_s: float | None
    own_s: float


class MachineWatch:
    """Readings from its making on."""

    def __init__(self, read: Callable[[], Moment] | None = None) -> None:
        """Take the first reading.

        Args:
            read: Function that reads a moment; None for the readings of this machine.
        """
        self._read = read or _read_moment
        self._start = self._read()

    def facts(self) -> MachineFacts:
        """From the first reading until now."""
        return facts_between(self._start, self._read(), accelerators())


def facts_between(start: Moment, end: Moment, gpus: Sequence[str] = ()) -> MachineFacts:
    """What two readings say about the time between them."""
    total_s = end.total_s - start.total_s
    stolen_s = None if start.stolen_s is None or end.stolen_s is None else end.stolen_s - start.stolen_s
    busy_s = total_s - (end.idle_s - start.idle_s) - (stolen_s or 0.0)
    throttled = None
    if start.throttle_count is not None and end.throttle_count is not None:
        throttled = end.throttle_count - start.throttle_count
    return MachineFacts(
        frequency_start_mhz=start.frequency_mhz,
        frequency_end_mhz=end.frequency_mhz,
        temperature_start_c=start.temperature_c,
        temperature_end_c=end.temperature_c,
        throttle_events=throttled,
        stolen_share=_share(stolen_s, total_s),
        others_share=_share(busy_s - (end.own_s - start.own_s), total_s),
        accelerators=tuple(gpus),
    )


def _share(part_s: float | None, total_s: float) -> float | None:
    # Counters tick in hundredths of a second, so that a difference may fall a little below zero.
    return None if part_s is None or total_s <= 0 else min(max(part_s / total_s, 0.0), 1.0)


def _read_moment() -> Moment:
    """This machine's readings now."""
    times, own = psutil.cpu_times(), psutil.Process().cpu_times()
    fields = times._asdict()
    return Moment(
        frequency_mhz=_frequency_mhz(),
        temperature_c=_temperature_c(),
        throttle_count=throttle_count(_CPU_FOLDER),
        # A guest's time is part of `user` on Linux.
        total_s=sum(seconds for name, seconds in fields.items() if not name.startswith("guest")),
        idle_s=fields["idle"] + fields.get("iowait", 0.0),
        stolen_s=fields.get("steal"),
        own_s=sum(own[:4]),
    )


def _frequency_mhz() -> float | None:
    try:
        seen = psutil.cpu_freq()
    except (OSError, NotImplementedError):
        return None
    return float(seen.current) if seen is not None and seen.current else None


def _temperature_c() -> float | None:
    # Only some systems have the function at all.
    sensors: dict[str, Any] = getattr(psutil, "sensors_temperatures", dict)()
    readings = [reading.current for name in _CPU_SENSORS for reading in sensors.get(name, ())]
    return float(max(readings)) if readings else None


def throttle_count(cpu_folder: Path) -> int | None:
    """How often the cores slowed down for their temperature since the machine started; None if it does not count."""
    counts = [int(path.read_text()) for path in cpu_folder.glob("cpu[0-9]*/thermal_throttle/core_throttle_count")]
    return sum(counts) if counts else None


def accelerators() -> tuple[str, ...]:
    """Name and driver of every NVIDIA GPU that NVML lists; none without its library."""
    import pynvml  # noqa: PLC0415 - loads the driver's library

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        driver = pynvml.nvmlSystemGetDriverVersion()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return tuple(f"{pynvml.nvmlDeviceGetName(handle)}, driver {driver}" for handle in handles)
    finally:
        pynvml.nvmlShutdown()


def machine_warnings(facts: MachineFacts) -> list[str]:
    """What a reader must know about the machine before using the numbers."""
    warnings = []
    if facts.throttle_events:
        warnings.append(f"the processor slowed down for its temperature {facts.throttle_events} times during the run")
    if facts.stolen_share is not None and facts.stolen_share > _NOISY_STOLEN_SHARE:
        warnings.append(f"a hypervisor gave {facts.stolen_share:.0%} of the processor time to others during the run")
    if facts.others_share is not None and facts.others_share > _NOISY_OTHERS_SHARE:
        warnings.append(
            f"other processes took {facts.others_share:.0%} of the processor time during the run; compare ratios, not "
            "milliseconds"
        )
    return warnings
