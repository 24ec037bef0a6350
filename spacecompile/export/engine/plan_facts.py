"""What is written beside a plan: facts about it, and the types that its layers really have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final, Literal

from spacecompile.contract import Precision
from spacecompile.errors import BuildError, UsageError
from spacecompile.record import Record
from spacecompile.runtime.cuda.engine_api import EngineKind

_TYPE_NAMES: Final[dict[str, str]] = {"FLOAT": "fp32", "HALF": "fp16"}
"""TensorRT's names that differ from ours in more than case."""

_COMPUTE_LAYERS: Final = frozenset(("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "EINSUM"))
_SHAPE_LAYERS: Final = frozenset(("SHUFFLE", "SQUEEZE", "UNSQUEEZE", "IDENTITY"))
_SHARE_MIN: Final[dict[Precision, float]] = {"fp32": 1.0, "fp16": 0.8, "bf16": 0.8, "int8": 0.3}
"""Least share of the compute layers in the variant's type, by number. What goes before and after the network is in
float32 (5 layers), and int8 leaves the products of attention and sensitive layers in floats: 45 of 85 are int8 in the
reference network. The build holds its files to shares of weights and multiply-adds, which are stricter."""
_OPTIMIZATION_LEVEL_MAX: Final = 5

HardwareCompatibility = Literal["none", "ampere-plus", "same-compute-capability"]


class EngineOptions(Record):
    """How an engine is built.

    Attributes:
        workspace_bytes: Most scratch memory that a layer may use; None for the library's default, all of the GPU's.
        optimization_level: Level 0 to 5; a higher one builds slower and may run faster. None for the library's default.
        version_compatible: Whether the plan also runs on later versions of the same major version.
        hardware_compatibility: Other GPUs that the plan also runs on.
        compute_capabilities: Compute capabilities to build for, as `major.minor`; empty for the library's default.
    """

    workspace_bytes: int | None = None
    optimization_level: int | None = None
    version_compatible: bool = False
    hardware_compatibility: HardwareCompatibility = "none"
    compute_capabilities: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the numbers once.

        Raises:
            UsageError: If one is out of range.
        """
        if self.workspace_bytes is not None and self.workspace_bytes <= 0:
            raise UsageError(f"the workspace is {self.workspace_bytes} bytes; it must be above 0.")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= _OPTIMIZATION_LEVEL_MAX:
            raise UsageError(
                f"the optimization level is {self.optimization_level}; give 0 to {_OPTIMIZATION_LEVEL_MAX}."
            )


class NetworkTensor(Record):
    """One tensor of the parsed network."""

    name: str
    type: str
    shape: tuple[int, ...]


class LayerFact(Record):
    """One layer of the parsed network.

    Attributes:
        name: Name of the layer.
        kind: TensorRT's name for the kind of layer, for example CONVOLUTION.
        outputs: Tensors that the layer gives.
        computes_in: Type that the layer multiplies in; None for a layer that is no convolution and no matrix product.
    """

    name: str
    kind: str
    outputs: tuple[NetworkTensor, ...]
    computes_in: str | None = None


class RealisedTypes(Record):
    """The types that were read back from the network after parsing. It is strongly typed: the builder keeps them.

    Attributes:
        layers: Number of layers by the type of their first output.
        compute_layers: Number of convolutions and matrix products by the type that they multiply in.
        compute_shares: Share of convolutions and matrix products by the type that they multiply in, 0 to 1.
        engine_formats: Number of outputs of the engine's own layers by format and type in the inspector's words; None
            where no GPU could load the engine.
    """

    layers: dict[str, int]
    compute_layers: dict[str, int]
    compute_shares: dict[str, float]
    engine_formats: dict[str, int] | None = None


class EngineFacts(Record):
    """`model.plan.json`.

    Attributes:
        engine: Library that built the plan.
        library_version: Version of that library; a plan runs on no other, unless it is version-compatible.
        library_cuda: Major version of the CUDA toolkit that the library was made with; None when unknown.
        cuda: Newest CUDA version that the driver runs; None without a driver.
        driver: Version of the driver; None without one.
        gpu: Name of the GPU that the plan was built on; None without a driver.
        compute_capability: Compute capability of the GPU that the plan was built on; None without a driver.
        target: Machines that the plan runs on, in a word.
        options: Options that the plan was built with.
        timing_cache: Whether the timings came from a cache.
        strongly_typed: Whether the graph's own types were kept.
        tf32: Whether float32 may be computed in TF32.
        profile: The one optimisation profile: every input at its one shape.
        static_shapes: Whether all shapes are fixed.
        inputs, outputs: Inputs and outputs of the graph.
        types: Types that were read back after parsing.
        onnx_sha256: SHA-256 of the ONNX file.
        plan_sha256, plan_bytes: SHA-256 and size of the plan.
        certified: Backends that answered like PyTorch with this plan; empty where nothing has run it.
        spacecompile: Version of spacecompile that built the plan.
    """

    engine: EngineKind
    library_version: str
    library_cuda: str | None
    cuda: str | None
    driver: str | None
    gpu: str | None
    compute_capability: str | None
    target: str
    options: EngineOptions
    timing_cache: bool
    strongly_typed: bool
    tf32: bool
    profile: dict[str, tuple[int, ...]]
    static_shapes: bool
    inputs: tuple[NetworkTensor, ...]
    outputs: tuple[NetworkTensor, ...]
    types: RealisedTypes
    onnx_sha256: str
    plan_sha256: str
    plan_bytes: int
    certified: tuple[str, ...]
    spacecompile: str


def network_tensor(tensor: Any) -> NetworkTensor:
    """Name, type and shape of TensorRT's tensor."""
    return NetworkTensor(name=tensor.name, type=type_name(tensor.dtype), shape=tuple(tensor.shape))


def type_name(dtype: Any) -> str:
    """Our name for TensorRT's type: fp32, fp16, bf16, int8, int32, int64, bool, uint8."""
    name: str = dtype.name
    return _TYPE_NAMES.get(name, name.lower())


def layer_facts(network: Any) -> tuple[LayerFact, ...]:
    """Every layer of a parsed network, in order."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    producers = {tensor.name: layer for layer in layers for tensor in _outputs(layer)}
    return tuple(
        LayerFact(
            name=layer.name,
            kind=layer.type.name,
            outputs=tuple(network_tensor(tensor) for tensor in _outputs(layer)),
            computes_in=_compute_type(layer, producers) if layer.type.name in _COMPUTE_LAYERS else None,
        )
        for layer in layers
    )


def _outputs(layer: Any) -> Iterator[Any]:
    return (layer.get_output(index) for index in range(layer.num_outputs))


def _compute_type(layer: Any, producers: dict[str, Any]) -> str:
    """int8 when both factors come out of a DequantizeLinear, which the builder fuses, else the first factor's type."""
    # A convolution whose weights are not given by a tensor holds them itself, in its own type: it has one factor here.
    factors = [layer.get_input(index) for index in range(min(layer.num_inputs, 2))]
    sources = [_source(tensor, producers) for tensor in factors if tensor is not None]
    quantised = [layer for layer in sources if layer is not None and layer.type.name == "DEQUANTIZE"]
    if len(quantised) == 2:
        # What is dequantised has the type that is multiplied in.
        layer = quantised[0]
        tensor = layer.get_input(0)
        return type_name(tensor.dtype)
    tensor = factors[0]
    return type_name(tensor.dtype)


def _source(tensor: Any, producers: dict[str, Any]) -> Any:
    """The layer that a tensor's values come from, through those that only reshape; None for an input."""
    layer = producers.get(tensor.name)
    while layer is not None and layer.type.name in _SHAPE_LAYERS:
        tensor = layer.get_input(0)
        layer = producers.get(tensor.name)
    return layer


def realised_types(layers: tuple[LayerFact, ...], engine_formats: dict[str, int] | None) -> RealisedTypes:
    """Count the types of a network's layers."""
    compute = Counter(fact.computes_in for fact in layers if fact.computes_in is not None)
    return RealisedTypes(
        layers=dict(Counter(fact.outputs[0].type for fact in layers if fact.outputs).most_common()),
        compute_layers=dict(compute.most_common()),
        compute_shares={name: count / compute.total() for name, count in compute.most_common()},
        engine_formats=engine_formats,
    )


def require_precision(types: RealisedTypes, precision: Precision, *, variant: str) -> None:
    """Refuse a plan that is not what its variant says.

    Raises:
        BuildError: If less than the least share computes in it: all of fp32, 80 % of fp16, 30 % of int8.
    """
    shares = types.compute_shares
    if shares.get(precision, 0.0) < _SHARE_MIN[precision]:
        found = ", ".join(f"{share:.0%} {name}" for name, share in shares.items()) or "nothing"
        raise BuildError(
            f"variant {variant} is {precision}, but its convolutions and matrix products compute in {found}. "
            "Build the bundle again."
        )
