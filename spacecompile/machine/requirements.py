"""What this package's own metadata demands of an environment, and what the environment holds. Imports none of it."""

from __future__ import annotations

from importlib import metadata

from packaging.requirements import Requirement

from spacecompile.record import Record

_PACKAGE = "spacecompile"


class Requirements(Record):
    """The base install (`extra` None) or one extra, as installed here.

    Attributes:
        extra: Name of the extra; None for the base install.
        versions: Installed versions by package.
        missing: Packages that are not installed.
        too_old: Name, version and range, in one phrase, of every package whose version is outside the range.
        known: Whether the installed metadata knows the extra; where it does not, nothing is demanded.
    """

    extra: str | None
    versions: dict[str, str]
    missing: tuple[str, ...]
    too_old: tuple[str, ...]
    known: bool


def read_requirements(extra: str | None = None) -> Requirements:
    """Compare the metadata of the installed `spacecompile` with the installed packages.

    Args:
        extra: Name of an extra; None for the base install.
    """
    demanded = _demanded(extra)
    versions, missing, too_old = {}, [], []
    for requirement in demanded:
        try:
            installed = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            missing.append(requirement.name)
            continue
        versions[requirement.name] = installed
        if not requirement.specifier.contains(installed, prereleases=True):
            too_old.append(f"{requirement.name} {installed}, needed {requirement.specifier}")
    return Requirements(
        extra=extra,
        versions=versions,
        missing=tuple(missing),
        too_old=tuple(too_old),
        known=bool(demanded),
    )


def python_range() -> str | None:
    """The Python versions that the installed metadata allows; None where the package is not installed."""
    try:
        return metadata.metadata(_PACKAGE)["Requires-Python"]
    except metadata.PackageNotFoundError:
        return None


def _demanded(extra: str | None) -> list[Requirement]:
    """What the base install demands, or what an extra adds to it."""
    try:
        every = list(map(Requirement, metadata.requires(_PACKAGE) or ()))
    except metadata.PackageNotFoundError:
        return []
    if extra is None:
        return [requirement for requirement in every if _applies(requirement, "")]
    return [requirement for requirement in every if _applies(requirement, extra) and not _applies(requirement, "")]


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})
