"""Quick runs of `bench` on a tiny bundle, and bundles that are certified on other engines than those of their build."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from spacecompile.benchmarks.latency.interleaved import LatencySettings
from spacecompile.benchmarks.latency.variants import LoadSettings
from spacecompile.benchmarks.settings import BenchSettings, ContestSettings
from spacecompile.contract import Manifest

ROUNDS = 12


def settings(*, rounds: int = ROUNDS, **changes: object) -> BenchSettings:
    contest = ContestSettings(
        how=LoadSettings(backend="auto", threads=1, spinning=False),
        latency=LatencySettings(
            rounds_min=rounds,
            duration_s=0,
            warmup_rounds=1,
            warmup_s=0,
            settle_max_ms=0,
            priming_calls=0,
            block_calls=1,
        ),
        peers=("plain-export", "pytorch-eager"),
        from_file=False,
    )
    return BenchSettings(contest=contest, **changes)  # type: ignore[arg-type]


def certified_on(bundle: Path, target: Path, **certified: tuple[str, ...]) -> Path:
    """A copy of a bundle whose variants are certified on other backends; `bf16` is a variant of the fp32 file."""
    shutil.copytree(bundle, target)
    manifest = msgspec.json.decode((target / "manifest.json").read_bytes(), type=Manifest)
    fp32, d4 = manifest.variants
    variants = {"fp32": fp32, "fp32_d4": d4, "bf16": msgspec.structs.replace(fp32, name="bf16", precision="bf16")}
    chosen = tuple(msgspec.structs.replace(variants[name], certified=names) for name, names in certified.items())
    manifest = msgspec.structs.replace(manifest, variants=chosen)
    (target / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return target
