"""What works on this machine, part by part, with the command for each part that doesn't."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from packaging.specifiers import SpecifierSet

from spacecompile._version import __version__
from spacecompile.contract import Progress, no_progress
from spacecompile.errors import MissingPartError, UsageError
from spacecompile.extras import modules_of
from spacecompile.machine.environment import read_environment
from spacecompile.machine.probe import ProbeResult, run_probe
from spacecompile.machine.requirements import Requirements, python_range, read_requirements
from spacecompile.record import Record
from spacecompile.runtime.backends.openvino_cache import user_cache_folder
from spacecompile.runtime.backends.registry import BACKENDS, BackendEntry
from spacecompile.runtime.cpu import cpu_features
from spacecompile.runtime.cuda.driver import probe_cuda
from spacecompile.runtime.threads import container_quota, usable_cores, usable_processors

Purpose = Literal["run", "build", "train", "bench", "tensorrt", "tensorrt-rtx"]
_State = Literal["ok", "missing", "broken", "note"]

_EXTRAS = (
    *("compile", "render", "train", "pretrained", "distributed", "tensorboard", "bench", "report", "search", "hub"),
    *("openvino", "tensorrt", "tensorrt-rtx"),
)
_BASE = ("Python", "base install", "backend onnxruntime")
_NEEDS: dict[str, tuple[str, ...]] = {
    "run": (),
    "build": ("extra compile",),
    "train": ("extra train",),
    "bench": ("extra bench", "extra compile", "extra report"),
    "tensorrt": ("extra tensorrt", "CUDA driver"),
    "tensorrt-rtx": ("extra tensorrt-rtx",),
}
"""What each purpose needs beside the base."""

# By the kernel's names: what short types compute in, on x86 and on ARM.
_CPU_FEATURES = {
    "AVX2": "avx2",
    "AVX-512": "avx512f",
    "VNNI": "avx512_vnni",
    "AVX-VNNI": "avx_vnni",
    "AVX-512 bf16": "avx512_bf16",
    "AMX int8": "amx_int8",
    "AMX bf16": "amx_bf16",
    "dot product": "asimddp",
    "int8 matrices": "i8mm",
    "bf16": "bf16",
}
_FREE_BYTES_MIN = 1 << 30
_DRIVER_REMEDY = (
    "install NVIDIA's driver, on Ubuntu: sudo ubuntu-drivers install; in a container, start it with: "
    "docker run --gpus all"
)


class Check(Record):
    """One row.

    Attributes:
        name: Name of the part.
        group: `base`, `extras`, `backends` or `machine`.
        state: `ok`; `missing`, not installed; `broken`, there but unusable; `note`, worth knowing.
        found: What was seen.
        remedy: Command, or what to do, where the state is not `ok`; may be empty for a note.
        required: Whether the purpose that was asked for needs the part.
    """

    name: str
    group: str
    state: _State
    found: str
    remedy: str = ""
    required: bool = False

    @property
    def fails(self) -> bool:
        """Whether the purpose that was asked for can't be had because of this part."""
        return self.required and self.state in ("missing", "broken")


class Checkup(Record):
    """What `examine` found.

    Attributes:
        purpose: Purpose that was asked for; None for the base alone.
        ok: Whether every part that the purpose needs works.
        checks: Rows in the order in which they are shown.
    """

    purpose: str | None
    ok: bool
    checks: tuple[Check, ...]


def examine(purpose: str | None = None, *, progress: Progress = no_progress) -> Checkup:
    """Look at every part; third-party ones are tried in processes of their own.

    Args:
        purpose: One of `Purpose`, of which only what it needs is tried; None for every part, of which the base must
            work.
        progress: Called with step `doctor`.

    Raises:
        UsageError: If the purpose is unknown.
    """
    if purpose is not None and purpose not in _NEEDS:
        raise UsageError(f"--for is {purpose!r}; choose one of {', '.join(get_args(Purpose))}.")
    needed = {*_BASE, *_NEEDS.get(purpose or "run", ())}
    parts = {name: part for name, part in _parts().items() if purpose is None or name in needed or part[0] == "machine"}
    checks = []
    for done, (name, (group, look)) in enumerate(parts.items(), start=1):
        state, found, remedy = look()
        checks.append(Check(name=name, group=group, state=state, found=found, remedy=remedy, required=name in needed))
        progress("doctor", done, len(parts))
    return Checkup(purpose=purpose, ok=not any(check.fails for check in checks), checks=tuple(checks))


def require_working(checkup: Checkup) -> None:
    """Refuse a machine on which something needed does not work.

    Raises:
        MissingPartError: If a part that is needed does not work; the message names every such part and its remedy.
    """
    failing = [check for check in checkup.checks if check.fails]
    if failing:
        reasons = "; ".join(f"{check.name} is {check.state} ({check.found}): {check.remedy}" for check in failing)
        what = "the base install" if checkup.purpose is None else f"`{checkup.purpose}`"
        raise MissingPartError(f"{what} can't work here. {reasons}")


_Row = tuple[_State, str, str]
_Part = tuple[str, Callable[[], _Row]]


def _parts() -> dict[str, _Part]:
    """Every part by name, in the order in which they are shown, with what looks at it."""
    imported: dict[tuple[str, ...], ProbeResult] = {}
    backends = {f"backend {entry.name}": entry for entry in BACKENDS}
    return {
        "Python": ("base", _python),
        "base install": ("base", _base_install),
        **{
            name: ("base" if name in _BASE else "backends", partial(_backend, entry))
            for name, entry in backends.items()
        },
        **{f"extra {extra}": ("extras", partial(_extra, extra, imported)) for extra in _EXTRAS},
        "CPU": ("machine", _cpu),
        "CPU features": ("machine", _features),
        "cores": ("machine", _cores),
        "CUDA driver": ("machine", _cuda),
        "cache folder": ("machine", partial(_cache, user_cache_folder())),
        "disk": ("machine", _disk),
    }


def _python() -> _Row:
    allowed, version = python_range(), platform.python_version()
    if allowed is not None and not SpecifierSet(allowed).contains(version, prereleases=True):
        return "broken", f"{version}, needed {allowed}", f"install Python {allowed} and spacecompile in it"
    return "ok", f"{version}, {platform.system()} {platform.machine()}", ""


def _base_install() -> _Row:
    state, found, remedy = _installed(read_requirements(), "spacecompile")
    if state == "note":
        return state, f"spacecompile {__version__} runs without being installed, so versions can't be checked", remedy
    return state, f"spacecompile {__version__}, {found}", remedy


def _installed(requirements: Requirements, target: str) -> _Row:
    """Judge a set of packages by their metadata alone."""
    if not requirements.known:
        return "note", "not known to the installed metadata", f"pip install --upgrade {target}"
    if requirements.missing:
        return "missing", f"not installed: {', '.join(requirements.missing)}", f"pip install {target}"
    if requirements.too_old:
        return "broken", f"version out of range: {'; '.join(requirements.too_old)}", f"pip install --upgrade {target}"
    return "ok", ", ".join(f"{name} {version}" for name, version in requirements.versions.items()), ""


def _extra(extra: str, imported: dict[tuple[str, ...], ProbeResult]) -> _Row:
    """Judge an extra by its metadata, and where that is right by importing it, unless `imported` has its modules."""
    target = f"'spacecompile[{extra}]'"
    requirements = read_requirements(extra)
    state, found, remedy = _installed(requirements, target)
    modules = modules_of(extra)
    if not requirements.known:
        return "missing", f"this spacecompile was installed without knowing the extra {extra}", remedy
    if state != "ok" or not modules:
        return state, found, remedy
    # `train` is `compile` under another name.
    is_repeated = modules in imported
    result = imported[modules] if is_repeated else run_probe(["import", *modules])
    imported[modules] = result
    if result.problem:
        return "broken", f"installed but can't be imported: {result.problem}", f"pip install --force-reinstall {target}"
    return "ok", "the same packages as above" if is_repeated else result.found, ""


def _backend(entry: BackendEntry) -> _Row:
    reason = entry.missing()
    if reason:
        return "missing", reason, entry.remedy
    if entry.suffix != ".onnx":
        # The small graph is no plan, and a plan is only good for one GPU.
        probe = probe_cuda()
        if probe.device is None:
            return "missing", f"installed, but {probe.problem}", "run it on a machine with an NVIDIA GPU"
        return "note", f"installed, {probe.device.gpu}", "spacecompile rebuild BUNDLE makes plans and tests them"
    result = run_probe(["backend", entry.name])
    if result.problem:
        remedy = entry.remedy.replace("pip install", "pip install --force-reinstall")
        return "broken", f"a small graph {_does_not_run(result.problem)}", remedy
    return "ok", result.found, ""


def _does_not_run(problem: str) -> str:
    return problem if problem.startswith(("crashes", "did not end")) else f"does not run: {problem}"


def _cpu() -> _Row:
    facts = read_environment(threads=usable_cores(), load_average_start=None)
    memory = "" if facts.memory_bytes is None else f", {facts.memory_bytes / 1e9:.0f} GB memory"
    return "ok", f"{facts.cpu}{memory}", ""


def _features() -> _Row:
    flags = cpu_features()
    if not flags:
        return "note", "the kernel does not list them", ""
    here = [name for name, flag in _CPU_FEATURES.items() if flag in flags]
    return ("ok", ", ".join(here), "") if here else ("note", "none for short types", "")


def _cores() -> _Row:
    quota = container_quota()
    limit = "no container quota" if quota is None else f"container quota of {quota:g} processors"
    found = f"{usable_cores()} physical usable, {usable_processors()} of {os.cpu_count()} processors, {limit}"
    return "ok", found, ""


def _cuda() -> _Row:
    probe = probe_cuda()
    tool = "nvidia-smi is there" if shutil.which("nvidia-smi") else "no nvidia-smi"
    if probe.device is None:
        return "missing", f"{probe.problem}; {tool}", _DRIVER_REMEDY
    device = probe.device
    driver = "" if device.driver is None else f", driver {device.driver}"
    found = f"{device.gpu}, compute capability {device.compute_capability}, CUDA {device.cuda}{driver}; {tool}"
    return "ok", found, ""


def _cache(folder: Path) -> _Row:
    """Whether compiled models can be kept; looked at without making anything."""
    remedy = "export XDG_CACHE_HOME=DIR with a folder that you can write to"
    if not folder.is_absolute():
        return "note", "this user has no home folder, compiled models are not kept", remedy
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return "note", f"{folder} can't be written, compiled models are not kept", remedy
    return "ok", f"{folder} can be written", ""


def _disk() -> _Row:
    try:
        folder = Path.cwd()
        free_bytes = shutil.disk_usage(folder).free
    except OSError as error:
        return "note", f"the current folder can't be looked at: {error.strerror}", "change to another folder"
    found = f"{free_bytes / 1e9:.1f} GB free in {folder}"
    if free_bytes < _FREE_BYTES_MIN:
        return "note", found, "free some space: frames, bundles and training need gigabytes"
    return "ok", found, ""
