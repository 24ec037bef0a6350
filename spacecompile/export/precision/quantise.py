"""A float32 graph with 8-bit layers: Q/DQ pairs around the inputs and weights of chosen convolutions and products.

Symmetric: zero points are 0. Activations have one scale per tensor, weights one per output channel. Biases stay float,
and nothing is quantised behind a layer, so that residual sums, norms, activations and softmax see floats. That is what
TensorRT's explicit quantisation reads (it refuses int32 biases and zero points other than 0), OpenVINO too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from spacecompile.export.precision.graph import NETWORK_PREFIX, GraphView

QUANTISED_MAX = 127
"""Largest code; -128 is not used, so that a scale is the same on both sides."""

_WEIGHT_INPUT = 1


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer that can be quantised.

    Attributes:
        key: Digest of the weights, the same in every export of one network; numbered where weights repeat.
        node: Name of the layer's node.
        op_type: Operator: Conv, ConvTranspose, Gemm or MatMul.
        activation: Name of the input tensor.
        weight: Name of the weights.
        label: Name for reports: the network's own for the weights or bias, where the file still has one.
    """

    key: str
    node: str
    op_type: str
    activation: str
    weight: str
    label: str


def quantisable_layers(view: GraphView) -> list[Layer]:
    """Every layer of the network that multiplies an activation by weights, in order, but the last ones of its heads."""
    nodes = view.network_nodes
    last = _last_layers(view, nodes)
    layers: list[Layer] = []
    seen: dict[str, int] = {}
    for node in nodes:
        if not _is_quantisable(node, view) or node.name in last:
            continue
        content = hashlib.sha256(_values(view, node.input[_WEIGHT_INPUT]).tobytes()).hexdigest()[:16]
        seen[content] = seen.get(content, 0) + 1
        layers.append(
            Layer(
                key=content if seen[content] == 1 else f"{content}-{seen[content]}",
                node=node.name,
                op_type=node.op_type,
                activation=node.input[0],
                weight=node.input[_WEIGHT_INPUT],
                label=_label(node),
            )
        )
    return layers


def quantised(model: ModelProto, layers: list[Layer], scales: Mapping[str, float]) -> ModelProto:
    """Put Q/DQ pairs around the inputs and the weights of some layers.

    Args:
        model: float32 graph with inferred types; left as it is.
        layers: Layers of this very model.
        scales: Scale of each layer's activation by layer key.

    Returns:
        The graph with int8 weights, its types inferred anew.
    """
    work = _Quantising(view=GraphView(model), layers={layer.node: layer for layer in layers}, scales=scales)
    for node in model.graph.node:
        work.add(node)
    result = ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:], result.graph.initializer[:], result.graph.value_info[:]
    result.graph.node.extend(work.nodes)
    read = {name for node in work.nodes for name in node.input}
    result.graph.initializer.extend(weight for weight in model.graph.initializer if weight.name in read)
    result.graph.initializer.extend(work.weights)
    return onnx.shape_inference.infer_shapes(result, check_type=True, strict_mode=True, data_prop=True)


def weight_codes(values: NDArray[np.float32], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Codes of weights and one scale per index of an axis: its largest magnitude is the largest code."""
    others = tuple(index for index in range(values.ndim) if index != axis)
    largest = np.abs(values).max(axis=others)
    scale = np.where(largest > 0, largest / QUANTISED_MAX, 1.0).astype(np.float32)
    shape = [-1 if index == axis else 1 for index in range(values.ndim)]
    codes = np.clip(np.rint(values / scale.reshape(shape)), -QUANTISED_MAX, QUANTISED_MAX)
    return codes.astype(np.int8), scale


@dataclass(kw_only=True)
class _Quantising:
    view: GraphView
    layers: Mapping[str, Layer]
    scales: Mapping[str, float]
    nodes: list[NodeProto] = field(default_factory=list)
    weights: list[TensorProto] = field(default_factory=list)
    _made: set[str] = field(default_factory=set)

    def add(self, node: NodeProto) -> None:
        """Append a node, behind what it reads now."""
        layer = self.layers.get(node.name)
        if layer is not None:
            changed = NodeProto()
            changed.CopyFrom(node)
            changed.input[0] = self._rounded(layer.activation, self.scales[layer.key])
            changed.input[_WEIGHT_INPUT] = self._rounded_weight(node)
            node = changed
        self.nodes.append(node)

    def _rounded(self, tensor: str, scale: float) -> str:
        """The tensor behind a Q/DQ pair, which all layers that read it share: a tensor has one scale."""
        name = f"{tensor} int8"
        if tensor not in self._made:
            self._made.add(tensor)
            parameters = [
                self._constant(f"{name} scale", np.float32(scale)),
                self._constant(f"{name} zero", np.int8(0)),
            ]
            self.nodes += [
                helper.make_node("QuantizeLinear", [tensor, *parameters], [f"{name} code"], name=f"quantise {name}"),
                helper.make_node("DequantizeLinear", [f"{name} code", *parameters], [name], name=f"dequantise {name}"),
            ]
        return name

    def _rounded_weight(self, node: NodeProto) -> str:
        weight = node.input[_WEIGHT_INPUT]
        axis = _output_axis(node)
        name = f"{weight} int8 by axis {axis}"
        if name not in self._made:
            self._made.add(name)
            # No QuantizeLinear before it: the file holds the codes, a quarter of the bytes.
            codes, scale = weight_codes(_values(self.view, weight), axis)
            inputs = [
                self._constant(f"{name} code", codes),
                self._constant(f"{name} scale", scale),
                self._constant(f"{name} zero", np.zeros(len(scale), np.int8)),
            ]
            self.nodes.append(
                helper.make_node("DequantizeLinear", inputs, [name], name=f"dequantise {name}", axis=axis)
            )
        return name

    def _constant(self, name: str, values: object) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name


def _values(view: GraphView, weight: str) -> NDArray[np.float32]:
    values: NDArray[np.float32] = numpy_helper.to_array(view.weights[weight])
    return values


def _is_quantisable(node: NodeProto, view: GraphView) -> bool:
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return False
    weight = view.weights.get(node.input[_WEIGHT_INPUT])
    if weight is None or weight.data_type != TensorProto.FLOAT or not view.is_activation(node.input[0]):
        return False
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type == "ConvTranspose":
        # With groups the output channels lie on two axes of the weights.
        return "group" not in attributes or attributes["group"].i == 1
    if node.op_type == "Gemm":
        return "transA" not in attributes or attributes["transA"].i == 0
    return node.op_type == "Conv" or len(weight.dims) == 2


def _output_axis(node: NodeProto) -> int:
    """Axis of the weights that the output channels lie on."""
    if node.op_type == "Conv":
        return 0
    is_transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return 0 if is_transposed else 1


def _last_layers(view: GraphView, nodes: tuple[NodeProto, ...]) -> set[str]:
    """Nodes with weights from which no other node with weights is reached: the heads' last layers."""
    reaching: set[str] = set()
    last = set()
    for node in reversed(nodes):
        is_reaching = not reaching.isdisjoint(node.output)
        has_weights = node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul") and any(
            name in view.weights for name in node.input
        )
        if has_weights and not is_reaching:
            last.add(node.name)
        if has_weights or is_reaching:
            reaching.update(name for name in node.input if view.is_activation(name))
    return last


def _label(node: NodeProto) -> str:
    named = [name for name in node.input if name.startswith(NETWORK_PREFIX)]
    return named[0].removeprefix(NETWORK_PREFIX).removesuffix(".weight").removesuffix(".bias") if named else node.name
