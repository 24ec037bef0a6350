"""Which options a library has, and setting them."""

from __future__ import annotations

from typing import Any

from spacecompile.errors import BuildError, UsageError
from spacecompile.export.engine.plan_facts import EngineOptions
from spacecompile.runtime.cuda.compatibility import RTX_DEFAULT_TARGET
from spacecompile.runtime.cuda.engine_api import EngineApi


def check_options(api: EngineApi, options: EngineOptions, *, timing_cache: bool) -> None:
    """Refuse an option that the library does not have, before anything is parsed.

    Raises:
        UsageError: If an option is not there; names it.
    """
    unsupported = {
        "tensorrt": {
            "--compute-capability: it builds for the GPU of this machine": bool(options.compute_capabilities),
        },
        "tensorrt-rtx": {
            "--version-compatible: it has no lean runtime": options.version_compatible,
            "--hardware-compatible: its plans are portable; see --compute-capability": (
                options.hardware_compatibility != "none"
            ),
            "--timing-cache: it measures nothing when it builds": timing_cache,
        },
    }
    for option, asked in unsupported[api.kind].items():
        if asked:
            raise UsageError(f"{api.title} can't do {option}. Leave the option out.")
    _capabilities_rtx(api, options)


def target_of(api: EngineApi, options: EngineOptions) -> str:
    """What a plan runs on, in a word that can be part of a file name."""
    if api.kind == "tensorrt-rtx":
        digits = sorted({int(_digits(text)) for text in options.compute_capabilities})
        return "+".join(f"sm{number}" for number in digits) or RTX_DEFAULT_TARGET
    if options.hardware_compatibility == "ampere-plus":
        return "ampere-plus"
    return f"sm{_digits(api.device.compute_capability)}" if api.device else "unknown"


def configure(config: Any, api: EngineApi, options: EngineOptions, timing_cache: bytes | None) -> None:
    """Set the options on a builder's configuration.

    Raises:
        BuildError: If the library refuses one.
    """
    trt = api.trt
    # float32 stays float32: TF32 has 10 bits of mantissa, too few for the tolerance that fp32 is certified to.
    config.clear_flag(trt.BuilderFlag.TF32)
    # Only then does the inspector tell the types of the engine's layers.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatibility == "ampere-plus":
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.hardware_compatibility == "same-compute-capability":
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY
    if timing_cache is not None:
        cache = config.create_timing_cache(timing_cache)
        if not config.set_timing_cache(cache, False):
            raise BuildError(
                f"{api.title} refuses the timing cache: it was made by another version or on another GPU. Name another "
                "file with --timing-cache."
            )
    if options.compute_capabilities:
        _set_capabilities_rtx(config, api, options)


def stored_timing_cache(config: Any) -> bytes:
    """The timing cache after a build."""
    cache = config.get_timing_cache()
    host_memory = cache.serialize()
    return bytes(host_memory)


def _set_capabilities_rtx(config: Any, api: EngineApi, options: EngineOptions) -> None:
    """TensorRT-RTX only: the GPUs to build for."""
    capabilities = _capabilities_rtx(api, options)
    config.num_compute_capabilities = len(capabilities)
    for index, (text, capability) in enumerate(capabilities.items()):
        if not config.set_compute_capability(capability, index):
            raise BuildError(f"{api.title} can't build for compute capability {text} here. Name another.")


def _capabilities_rtx(api: EngineApi, options: EngineOptions) -> dict[str, Any]:
    """TensorRT-RTX only: the library's constant for each compute capability; one that it does not know is refused."""
    if not options.compute_capabilities:
        return {}
    trt = api.trt
    known = {name: value for name, value in trt.ComputeCapability.__members__.items() if name.startswith("SM")}
    capabilities = {}
    for text in options.compute_capabilities:
        value = known.get(f"SM{_digits(text)}")
        if value is None:
            names = ", ".join(f"{name[2:-1]}.{name[-1]}" for name in known)
            raise UsageError(f"{api.title} can't build for compute capability {text}; it knows {names}. Name others.")
        capabilities[text] = value
    return capabilities


def _digits(text: str) -> str:
    """`89` for `8.9`."""
    major, _, minor = text.partition(".")
    if not (major.isdecimal() and minor.isdecimal()):
        raise UsageError(f"compute capability is {text!r}; give MAJOR.MINOR, for example 8.9.")
    return major + minor
