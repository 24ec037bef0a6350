"""Where a number was measured: machine, versions, source tree, and how busy the machine was."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from spacecompile._version import __version__
from spacecompile.machine.records import Environment
from spacecompile.runtime.threads import usable_processors

_PACKAGES = ("numpy", "pillow", "onnxruntime", "openvino", "torch", "segmentation-models-pytorch", "timm", "onnx")

_CPU_FACTS = Path("/proc/cpuinfo")
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def load_average() -> float | None:
    """Runnable processes over the last minute; None where the system does not tell."""
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):  # Windows has none
        return None


def read_environment(*, threads: int, load_average_start: float | None) -> Environment:
    """Everything that a reader needs to judge a number."""
    commit, modified = _source_tree(Path(__file__).resolve().parents[2])
    return Environment(
        cpu=_cpu_model(_CPU_FACTS),
        cores=usable_processors(),
        threads=threads,
        openmp_wait_policy=os.environ.get("OMP_WAIT_POLICY"),
        governor=_text_of(_GOVERNOR),
        load_average_start=load_average_start,
        load_average_end=load_average(),
        memory_bytes=_memory_bytes(),
        platform=f"{platform.system()} {platform.release()} {platform.machine()}",
        versions=_versions(_PACKAGES),
        commit=commit,
        modified=modified,
    )


def _cpu_model(cpu_facts: Path) -> str:
    for line in (_text_of(cpu_facts) or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model", "Hardware"):
            return value.strip()
    return platform.processor() or platform.machine()


def _text_of(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _versions(packages: Sequence[str]) -> dict[str, str]:
    versions = {"python": platform.python_version(), "spacecompile": __version__}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _source_tree(root: Path) -> tuple[str | None, bool | None]:
    """Commit of a clone and whether files differ from it; None outside a clone or without git."""
    if not (root / ".git").exists():
        return None, None
    commit = _git(root, "rev-parse", "HEAD")
    status = _git(root, "status", "--porcelain", "--untracked-files=no")
    return commit, None if status is None else bool(status)


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
