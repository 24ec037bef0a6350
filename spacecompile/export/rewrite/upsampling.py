"""1x1 convolutions moved from behind an upsampling to before it.

Layout legend: N batch, C channels, O outputs, H W rows and columns.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from spacecompile.export.rewrite.base import Pass
from spacecompile.export.rewrite.traced import DecoderAndHead, TracedDecoder, shape_of, traced
from spacecompile.network.model import MultiTaskNetwork

_RESIZE_COST = {"bilinear": 4, "nearest": 1, "nearest-exact": 1}
"""Multiply-adds per output value, as fvcore counts them, of each kind of resize whose weights sum to one per pixel."""


@dataclass(frozen=True, eq=False)
class _Part:
    """A run of a convolution's input channels, which is the sum of plain tensors and of results of a resize."""

    channels: slice
    plain: list[fx.Node]
    resized: list[fx.Node]


@dataclass(frozen=True, eq=False)
class _Meeting:
    """A 1x1 convolution that reads upsampled values, alone or beside or added to others."""

    convolution: fx.Node
    parts: list[_Part]


class MovePointwiseFirst(Pass):
    """Convolve before upsampling, where there are fewer pixels.

    A 1x1 convolution mixes channels, an upsampling pixels, with weights that sum to one: they commute, bias included.
    Where the convolution reads a concatenation, each part gets its share of the weights; where it reads a sum, each
    summand gets all of them, and summands that are resized alike are added first: W [up(a), b] = up(W_a a) + W_b b and
    W (up(a) + up(b) + c) = up(W (a + b)) + W c. A single pixel needs no upsampling at all, it is added to every other.

    Not where it would give more channels to resize or add than before: PSPNet on EfficientNet-B0 at depth 3, with 10
    channels per pooled branch and 512 outputs, then has 6 % fewer multiply-adds and takes 1.3 times as long in ONNX
    Runtime on one core.
    """

    name = "move_pointwise_first"

    def requires(self, network: MultiTaskNetwork) -> bool:
        """Whether one meets an upsampling and is cheaper before it."""
        return _first(network) is not None

    @torch.no_grad()
    def apply(self, network: MultiTaskNetwork) -> MultiTaskNetwork:
        """Move one after the other: what moved may meet the next upsampling."""
        while found := _first(network):
            graph, meeting, with_head = found
            _move(graph, meeting)
            graph.delete_all_unused_submodules()
            graph.graph.lint()
            graph.recompile()
            network.decoder = TracedDecoder(graph)
            if with_head:
                network.segmentation_head = nn.Identity()
        return network


def _first(network: MultiTaskNetwork) -> tuple[fx.GraphModule, _Meeting, bool] | None:
    """The graph that holds a meeting, the meeting, and whether the graph holds the segmentation head too."""
    roots: list[nn.Module] = [network.decoder]
    if network.spec.class_pooling == "mean":  # any other classifier reads the decoder's output too
        roots.append(DecoderAndHead(network.decoder, network.segmentation_head))
    for root in roots:
        graph = traced(network, root)
        meetings = [] if graph is None else _meetings(graph)
        if graph is not None and meetings:
            return graph, meetings[0], isinstance(root, DecoderAndHead)
    return None


def _meetings(graph: fx.GraphModule) -> list[_Meeting]:
    """In the order of the calls."""
    found = []
    for node in graph.graph.nodes:
        if _is_pointwise(graph, node):
            meeting = _Meeting(node, _parts(graph, node))
            if any(part.resized for part in meeting.parts) and _saving(graph, meeting) > 0:
                found.append(meeting)
    return found


def _is_pointwise(graph: fx.GraphModule, node: fx.Node) -> bool:
    if node.op != "call_module":
        return False
    module = graph.get_submodule(str(node.target))
    # A layer that is called twice has one weight for two places.
    if type(module) is not nn.Conv2d or sum(other.target == node.target for other in graph.graph.nodes) > 1:
        return False
    plain = module.stride == (1, 1) and module.padding in ((0, 0), "valid") and module.groups == 1
    return plain and module.kernel_size == (1, 1)


def _parts(graph: fx.GraphModule, convolution: fx.Node) -> list[_Part]:
    """What a convolution reads, taken apart through concatenations and sums that only it reads."""
    source = _behind_identities(graph, convolution.args[0])
    pieces = [source]
    if source.target is torch.cat and len(source.users) == 1 and _option(source, 1, "dim") == 1:
        pieces = _nodes(source.args[0])
    parts, begin, outputs = [], 0, _shape(convolution)[1]
    for piece in pieces:
        channels = _shape(piece)[1]
        summands = _summands(graph, piece)
        # With more outputs than inputs the resize itself would get dearer, see `MovePointwiseFirst`.
        resized = [node for node in summands if outputs <= channels and _is_upsampling(graph, node)]
        plain = [node for node in summands if node not in resized]
        parts.append(_Part(slice(begin, begin + channels), plain, resized))
        begin += channels
    return parts


def _summands(graph: fx.GraphModule, node: fx.Node) -> list[fx.Node]:
    """The node itself, or what it is the sum of, where nothing else reads the sum."""
    node = _behind_identities(graph, node)
    if len(node.users) != 1:
        return [node]
    if node.target in (operator.add, torch.add) and not node.kwargs and len(node.all_input_nodes) == 2:
        terms = [term for term in node.args if isinstance(term, fx.Node) and shape_of(term) == shape_of(node)]
        if len(terms) == 2:
            return [summand for term in terms for summand in _summands(graph, term)]
    if node.op == "call_method" and node.target == "sum" and _option(node, 1, "dim") == 0:
        stack = node.args[0]
        if isinstance(stack, fx.Node) and stack.target is torch.stack and _option(stack, 1, "dim", default=0) == 0:
            return [summand for term in _nodes(stack.args[0]) for summand in _summands(graph, term)]
    return [node]


def _is_upsampling(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node resizes to more pixels, and only one other reads it."""
    if _resize_cost(graph, node) is None or len(node.users) != 1:
        return False
    return _pixels(node) > _pixels(_source(node))


def _resize_cost(graph: fx.GraphModule, node: fx.Node) -> int | None:
    """Multiply-adds per output value; None for a node that is no resize, or of a kind that does not commute."""
    mode = None
    if node.target is functional.interpolate:
        mode = _option(node, 3, "mode", default="nearest")
    elif node.op == "call_module":
        module = graph.get_submodule(str(node.target))
        mode = module.mode if isinstance(module, nn.Upsample) else None
    return _RESIZE_COST.get(str(mode))


def _saving(graph: fx.GraphModule, meeting: _Meeting) -> int:
    """Multiply-adds that moving spares, as fvcore counts them, per batch element."""
    outputs, pixels = _shape(meeting.convolution)[1], _pixels(meeting.convolution)
    saving = 0
    for part in meeting.parts:
        channels = part.channels.stop - part.channels.start
        # Plain summands keep a convolution at full size, which then spares nothing.
        if part.resized and not part.plain:
            saving += channels * outputs * pixels
        saving += sum((_resize_cost(graph, resize) or 0) * channels * pixels for resize in part.resized)
        for alike in _alike(part.resized):
            saving -= channels * outputs * _pixels(_source(alike[0]))
            if not _is_one_pixel(_source(alike[0])):
                saving -= (_resize_cost(graph, alike[0]) or 0) * outputs * pixels
    return saving


def _move(graph: fx.GraphModule, meeting: _Meeting) -> None:
    """Rewrite one meeting in the graph."""
    node = meeting.convolution
    convolution = graph.get_submodule(str(node.target))
    assert isinstance(convolution, nn.Conv2d)  # _is_pointwise
    builder = _Builder(graph, node, convolution)
    terms = []
    plain = [part for part in meeting.parts if part.plain]
    if plain:
        sums = [builder.total(part.plain) for part in plain]
        terms.append(builder.convolved(builder.beside(sums), [part.channels for part in plain]))
    pixels = []
    for part in meeting.parts:
        for alike in _alike(part.resized):
            projected = builder.convolved(builder.total([_source(resize) for resize in alike]), [part.channels])
            if _is_one_pixel(_source(alike[0])):
                pixels.append((alike[0], projected))
            else:
                terms.append(builder.resized(alike[0], projected))
    # Something must have the full size.
    terms += [projected if terms else builder.resized(resize, projected) for resize, projected in pixels]
    node.replace_all_uses_with(builder.total(terms))
    graph.graph.eliminate_dead_code()


class _Builder:
    """Writes the calls that take a convolution's place, before it."""

    def __init__(self, graph: fx.GraphModule, node: fx.Node, convolution: nn.Conv2d) -> None:
        self.graph = graph
        self.node = node
        self.convolution = convolution
        self.weights: dict[tuple[tuple[int, int], ...], nn.Parameter] = {}
        self.bias = convolution.bias

    def convolved(self, node: fx.Node, channels: list[slice]) -> fx.Node:
        """A convolution with the weights of some input channels; the first of all carries the bias."""
        key = tuple((run.start, run.stop) for run in channels)
        if key not in self.weights:
            weight = torch.cat([self.convolution.weight[:, run] for run in channels], dim=1)
            self.weights[key] = nn.Parameter(weight)
        weight = self.weights[key]
        # Made without memory: the weight is there already.
        module = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=False, device="meta")
        # Summands share one parameter, so that it counts once.
        module.weight, module.bias, self.bias = weight, self.bias, None
        number = sum(str(other.target).startswith("pointwise_") for other in self.graph.graph.nodes)
        self.graph.add_submodule(f"pointwise_{number}", module)
        with self.graph.graph.inserting_before(self.node):
            convolved: fx.Node = self.graph.graph.call_module(f"pointwise_{number}", (node,))
        return convolved

    def resized(self, like: fx.Node, node: fx.Node) -> fx.Node:
        """The node resized as another one is."""
        source = _source(like)
        with self.graph.graph.inserting_before(self.node):
            resized: fx.Node = self.graph.graph.node_copy(like, lambda old: node if old is source else old)
        return resized

    def beside(self, nodes: list[fx.Node]) -> fx.Node:
        """Their concatenation along the channels."""
        if len(nodes) == 1:
            return nodes[0]
        with self.graph.graph.inserting_before(self.node):
            together: fx.Node = self.graph.graph.call_function(torch.cat, (nodes, 1))
        return together

    def total(self, nodes: list[fx.Node]) -> fx.Node:
        """Their sum."""
        result = nodes[0]
        for node in nodes[1:]:
            with self.graph.graph.inserting_before(self.node):
                result = self.graph.graph.call_function(operator.add, (result, node))
        return result


def _alike(resizes: list[fx.Node]) -> list[list[fx.Node]]:
    """Resizes grouped by what they do, which includes the shape that they start from."""
    groups: dict[Any, list[fx.Node]] = {}
    for node in resizes:
        how = (node.op, str(node.target), str(node.args[1:]), str(node.kwargs), _shape(_source(node)))
        groups.setdefault(how, []).append(node)
    return list(groups.values())


def _source(resize: fx.Node) -> fx.Node:
    source = resize.args[0]
    assert isinstance(source, fx.Node)  # what is resized comes first
    return source


def _behind_identities(graph: fx.GraphModule, source: Any) -> fx.Node:
    assert isinstance(source, fx.Node)  # layers take tensors
    node: fx.Node = source
    while node.op == "call_module" and isinstance(graph.get_submodule(str(node.target)), nn.Identity):
        (node,) = node.all_input_nodes
    return node


def _option(node: fx.Node, position: int, name: str, *, default: Any = None) -> Any:
    """An argument, by position or by name."""
    return node.args[position] if position < len(node.args) else node.kwargs.get(name, default)


def _nodes(argument: Any) -> list[fx.Node]:
    return [item for item in argument if isinstance(item, fx.Node)]


def _shape(node: fx.Node) -> tuple[int, ...]:
    shape = shape_of(node)
    assert shape is not None  # only asked of tensors
    return shape


def _is_one_pixel(node: fx.Node) -> bool:
    return _pixels(node) == 1


def _pixels(node: fx.Node) -> int:
    return math.prod(_shape(node)[2:])
