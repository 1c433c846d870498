"""Clearline's own operations of a graph as chains: one node of ONNX Runtime for all that can follow one another.

Between two products of a large model the machine's caches hold weights and little else: what ONNX Runtime does for a node then
takes one or two microseconds, and a step has hundreds of them. `native/operations.c` reads what is written here.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any

import onnx
from onnx import helper

from clearline.backends.onnx_graph import DOMAIN

# In the order of `native/operations.c`: each with what its record holds.
_RECORDS = {
    "Product": ("K", "N", "bits", "group", "narrow", "rows", "step", "gated", "eps"),
    "Attend": ("at", "rows", "heads", "kv_heads", "dim", "capacity", "interleaved"),
    "Embed": ("count", "dim", "at", "rows"),
    "Elu": ("size",),
}
_OPERANDS, _LINE = 10, 64


def chained(
    nodes: Sequence[onnx.NodeProto], shapes: Mapping[str, tuple[int, ...]], outputs: Iterable[str], threads: int
) -> list[onnx.NodeProto]:
    """The same graph with every own operation in a chain; `shapes` of their results, `outputs` of the graph."""
    stages = _stages(nodes)
    used: dict[str, set[int]] = {name: {-1} for name in outputs}  # by edge, which chains read it; -1: something else
    for node, stage in zip(nodes, stages, strict=True):
        for name in node.input:
            used.setdefault(name, set()).add(stage if node.domain == DOMAIN else -1)
    result: list[onnx.NodeProto] = []
    for stage in range(max(stages, default=-1) + 1):
        there = [node for node, its in zip(nodes, stages, strict=True) if its == stage]
        own = [node for node in there if node.domain == DOMAIN]
        result += [node for node in there if node.domain != DOMAIN]
        if own:
            result.append(_chain(own, shapes, {name for name, readers in used.items() if readers != {stage}}, threads))
    return result


def _stages(nodes: Sequence[onnx.NodeProto]) -> list[int]:
    """For each node how many chains must be done before it; own operations of one stage make a chain."""
    made: dict[str, tuple[int, bool]] = {}
    stages: list[int] = []
    for node in nodes:
        own = node.domain == DOMAIN
        before = [made[name] for name in node.input if name in made]
        stages.append(max((stage + (theirs and not own) for stage, theirs in before), default=0))
        made |= dict.fromkeys(node.output, (stages[-1], own))
    return stages


def _chain(
    nodes: Sequence[onnx.NodeProto], shapes: Mapping[str, tuple[int, ...]], wanted: set[str], threads: int
) -> onnx.NodeProto:
    results = [node.output[0] for node in nodes]
    inputs = list(dict.fromkeys(name for node in nodes for name in node.input if name and name not in results))
    outputs = [name for name in results if name in wanted]
    inner = [name for name in results if name not in wanted]
    entry = {name: number for number, name in enumerate(("", *inputs, *outputs, *inner))}
    places, memory = _places(nodes, shapes, set(inner))
    links: list[int] = []
    for node in nodes:
        operands = [entry[name] for name in node.input]
        links += [list(_RECORDS).index(node.op_type), *operands, *[0] * (_OPERANDS - len(operands)), entry[node.output[0]]]
        links += _record(node)
    ints: dict[str, list[int]] = {
        "links": links,
        "shapes": [number for name in outputs for number in (len(shapes[name]), *shapes[name])],
        "places": [places[name] for name in inner],
    }
    chain = helper.make_node("Chain", inputs, outputs, name=f"chain_{results[0]}", domain=DOMAIN)
    for name, numbers in ints.items():
        chain.attribute.append(helper.make_attribute(name, numbers, attr_type=onnx.AttributeProto.INTS))
    for name, number in (("memory", memory), ("inputs", len(inputs)), ("threads", threads)):
        chain.attribute.append(helper.make_attribute(name, number))
    return chain


def _record(node: onnx.NodeProto) -> list[int]:
    values: dict[str, Any] = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    record: list[int] = []
    for name in _RECORDS[node.op_type]:
        value = values[name]
        if isinstance(value, float):  # its bits
            value = struct.unpack("<i", struct.pack("<f", value))[0]
        record += value if isinstance(value, list) else [value]
    return record


def _places(nodes: Sequence[onnx.NodeProto], shapes: Mapping[str, tuple[int, ...]], inner: set[str]) -> tuple[dict[str, int], int]:
    """Where each result lies that only the chain reads, in bytes, and how many they take: a place is free after its last reader."""
    last = {name: number for number, node in enumerate(nodes) for name in (*node.output, *node.input)}
    held: list[tuple[int, int, str]] = []  # begin, end, edge
    places: dict[str, int] = {}
    memory = 0
    for number, node in enumerate(nodes):
        name = node.output[0]
        held = [place for place in held if last[place[2]] >= number]
        if name in inner:
            size, begin = -(-prod(shapes[name]) * 4 // _LINE) * _LINE, 0
            for first, end, _ in sorted(held):
                if begin + size <= first:
                    break
                begin = max(begin, end)
            held.append((begin, begin + size, name))
            places[name], memory = begin, max(memory, begin + size)
    return places, memory
