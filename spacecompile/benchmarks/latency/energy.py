"""Energy per frame, where the machine has a counter of it: RAPL on x86, NVML on NVIDIA GPUs. Never estimated."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from spacecompile.benchmarks.latency.records import Energy
from spacecompile.errors import DeviceError

POWERCAP = Path("/sys/class/powercap")

FRAMES_S = 4.0
IDLE_S = 1.0
"""How long frames are answered, and how long the machine idles before."""


class EnergyCounter(Protocol):
    """A counter of joules that only grows."""

    @property
    def name(self) -> str:
        """What it covers."""

    def joules(self) -> float:
        """Since some moment in the past."""


class RaplCounter:
    """One package of an Intel or AMD processor. Source: the kernel's Documentation/power/powercap/powercap.rst."""

    def __init__(self, folder: Path) -> None:
        """Read the first value.

        Args:
            folder: Folder of one zone, `intel-rapl:0` for example.

        Raises:
            OSError: If this user may not read it.
        """
        self._path = folder / "energy_uj"
        self._range_uj = int((folder / "max_energy_range_uj").read_text())
        self.name = f"RAPL {(folder / 'name').read_text().strip()}"
        self._last_uj = int(self._path.read_text())
        self._total_uj = 0

    def joules(self) -> float:
        """Since it was made; the kernel's counter starts again at zero now and then.

        Raises:
            DeviceError: If it can't be read any more.
        """
        try:
            now_uj = int(self._path.read_text())
        except (OSError, ValueError) as error:
            raise _unreadable(self.name, error) from error
        self._total_uj += (now_uj - self._last_uj) % self._range_uj
        self._last_uj = now_uj
        return self._total_uj / 1e6


class NvmlCounter:
    """One NVIDIA GPU of Volta or later."""

    def __init__(self, nvml: Any, index: int) -> None:
        """Find the GPU.

        Args:
            nvml: The module `pynvml`, initialised.
            index: Number of the GPU.
        """
        self._nvml = nvml
        self._handle = nvml.nvmlDeviceGetHandleByIndex(index)
        self.name = f"NVML {nvml.nvmlDeviceGetName(self._handle)}"
        self.joules()

    def joules(self) -> float:
        """Since the driver was loaded.

        Raises:
            DeviceError: If it can't be read, as on GPUs older than Volta.
        """
        try:
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3
        except self._nvml.NVMLError as error:
            raise _unreadable(self.name, error) from error


def _unreadable(counter: str, error: Exception) -> DeviceError:
    return DeviceError(f"the energy counter {counter} can't be read: {error}. Leave it out with --no-energy.")


@dataclass(frozen=True, kw_only=True)
class Counters:
    """The counters of this machine.

    Attributes:
        cpu: Counters of the processor's packages.
        gpu: Counters of the GPUs.
        why_no_cpu: Why there is none of the processor; empty where there is.
    """

    cpu: tuple[EnergyCounter, ...]
    gpu: tuple[EnergyCounter, ...]
    why_no_cpu: str = ""

    def of(self, *, on_gpu: bool) -> tuple[tuple[EnergyCounter, ...], str]:
        """What counts for a variant, and why nothing does where that is so.

        Args:
            on_gpu: Whether the variant runs there. The energy of a GPU that idles meanwhile is not the variant's.
        """
        if not on_gpu:
            return self.cpu, self.why_no_cpu
        if not self.gpu:
            return (), "n/a: there is no GPU that NVML counts for"
        return (*self.cpu, *self.gpu), ""


def open_counters(powercap: Path = POWERCAP) -> Counters:
    """Every counter of this machine.

    Args:
        powercap: The kernel's folder of power zones.
    """
    packages: list[EnergyCounter] = []
    why = f"n/a: this machine has no RAPL counter of its processor ({powercap})"
    for folder in sorted(powercap.glob("*-rapl:[0-9]*")):
        if not _is_package(folder):
            continue
        try:
            packages.append(RaplCounter(folder))
        except OSError as error:
            why = f"n/a: {folder / 'energy_uj'} can't be read ({error.strerror}); run as root, or chmod a+r it"
    return Counters(cpu=tuple(packages), gpu=tuple(_nvml_counters()), why_no_cpu="" if packages else why)


def _is_package(folder: Path) -> bool:
    """Whether a zone is a whole processor: `psys` is the machine with its packages in it, and `core` a part of one."""
    try:
        return (folder / "name").read_text().startswith("package") and (folder / "energy_uj").exists()
    except OSError:
        return False


def _nvml_counters() -> list[EnergyCounter]:
    import pynvml  # noqa: PLC0415 - loads the driver's library

    try:
        pynvml.nvmlInit()
        num_gpus = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError:
        return []
    counters: list[EnergyCounter] = []
    for index in range(num_gpus):
        try:
            counters.append(NvmlCounter(pynvml, index))
        except (pynvml.NVMLError, DeviceError):
            continue  # older than Volta: it has no such counter
    return counters


def measure_energy(
    run: Callable[[int], object],
    counters: Sequence[EnergyCounter],
    *,
    frames_s: float = FRAMES_S,
    idle_s: float = IDLE_S,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Energy:
    """Idle, then answer frames back to back, and read all counters around both.

    Args:
        run: Answers frame number i.
        counters: At least one; their joules are added.
        frames_s: How long frames are answered; at least one is.
        idle_s: How long the machine idles before.
        clock: Seconds.
        sleep: For seconds.
    """
    idle_start_s, idle_start_j = clock(), _joules(counters)
    sleep(idle_s)
    idle_watts = (_joules(counters) - idle_start_j) / (clock() - idle_start_s)
    start_s, start_j, frames = clock(), _joules(counters), 0
    while frames == 0 or clock() - start_s < frames_s:
        run(frames)
        frames += 1
    seconds, joules = clock() - start_s, _joules(counters) - start_j
    return Energy(
        counter=" + ".join(counter.name for counter in counters),
        frames=frames,
        joules_per_frame=joules / frames,
        watts=joules / seconds,
        idle_watts=idle_watts,
    )


def _joules(counters: Sequence[EnergyCounter]) -> float:
    return sum(counter.joules() for counter in counters)
