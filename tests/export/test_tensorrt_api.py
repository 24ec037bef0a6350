"""Every name of TensorRT's Python API that our code uses exists in each version that we say it works with.

The lists in `tensorrt_api/` were extracted from the bindings' wheels; see `tensorrt_api/extract.py`.
"""

from __future__ import annotations

import ast
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

import spacecompile

CODE = Path(spacecompile.__file__).parent
MODULES = (
    *("runtime/cuda/engine_api.py", "runtime/backends/tensorrt_.py", "export/engine/plan_facts.py"),
    *("export/engine/options.py", "export/engine/watch.py", "export/engine/build_plan.py"),
)
LISTS = Path(__file__).resolve().parent / "tensorrt_api"
VERSIONS = ("10.12", "10.16", "11.4", "rtx")
# In these modules a variable of one of these names holds an object of that class, and nothing else is called so.
CLASS_OF = {
    "builder": "Builder",
    "cache": "ITimingCache",
    "config": "IBuilderConfig",
    "context": "IExecutionContext",
    "engine": "ICudaEngine",
    "error": "ParserError",
    "inspector": "EngineInspector",
    "layer": "ILayer",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "profile": "IOptimizationProfile",
    "runtime": "Runtime",
    "tensor": "ITensor",
}
# Used where the library is TensorRT-RTX only: functions whose name says so.
RTX_ONLY = {"ComputeCapability", "IBuilderConfig.num_compute_capabilities", "IBuilderConfig.set_compute_capability"}
# Of Python's own objects, not of the library's.
OF_PYTHON = {"__members__", "__version__", "__init__"}


@cache
def known_names(version: str) -> frozenset[str]:
    lines = (LISTS / f"{version}.txt").read_text().splitlines()[1:]
    rows = (line.split(":") for line in lines)
    members = {owner: names.split() for owner, names in rows}
    top = members.pop("(module)")
    return frozenset((*top, *members, *(f"{owner}.{name}" for owner, names in members.items() for name in names)))


@cache
def used_names() -> frozenset[str]:
    return frozenset(name for module in MODULES for name in names_in(ast.parse((CODE / module).read_text())))


def names_in(tree: ast.AST) -> set[str]:
    """`Class.member` or `Class` for every attribute of `trt`, or of a variable that holds one of its objects."""
    names = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or node.attr in OF_PYTHON:
            continue
        match node.value:
            case ast.Name(id="trt"):
                names.add(node.attr)
            case ast.Attribute(value=ast.Name(id="trt"), attr=owner):
                names.add(f"{owner}.{node.attr}")
            case ast.Name(id=variable) if variable in CLASS_OF:
                names.add(f"{CLASS_OF[variable]}.{node.attr}")
    return names


@pytest.mark.parametrize("version", VERSIONS)
def test_every_name_that_is_used_exists(version: str) -> None:
    expected = used_names() if version == "rtx" else used_names() - RTX_ONLY
    assert not sorted(expected - known_names(version))


def test_what_only_tensorrt_rtx_has_is_used_for_it_only() -> None:
    assert used_names() >= RTX_ONLY
    for version in VERSIONS[:-1]:
        assert not RTX_ONLY & known_names(version)
    for module in MODULES:
        for function in ast.walk(ast.parse((CODE / module).read_text())):
            if isinstance(function, ast.FunctionDef) and names_in(function) & RTX_ONLY:
                assert function.name.endswith("_rtx"), f"{module}: {function.name} uses {names_in(function) & RTX_ONLY}"


def test_every_kind_of_object_is_looked_at_and_none_is_hidden_in_a_chain_of_calls() -> None:
    assert set(CLASS_OF.values()) == {name.split(".")[0] for name in used_names()} & set(CLASS_OF.values())
    for module in MODULES:
        for node in ast.walk(ast.parse((CODE / module).read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Call):
                called = node.value.func
                owner = called.value if isinstance(called, ast.Attribute) else None
                assert not (isinstance(owner, ast.Name) and owner.id in {*CLASS_OF, "trt"}), ast.unparse(node)


def test_what_runs_a_plan_is_looked_at() -> None:
    assert used_names() >= {
        *("Runtime", "Runtime.deserialize_cuda_engine", "Runtime.engine_host_code_allowed", "TensorIOMode.INPUT"),
        *("ICudaEngine.create_execution_context", "ICudaEngine.num_io_tensors", "ICudaEngine.get_tensor_name"),
        *("ICudaEngine.get_tensor_mode", "ICudaEngine.get_tensor_dtype", "ICudaEngine.get_tensor_shape"),
        *("IExecutionContext.set_tensor_address", "IExecutionContext.execute_async_v3"),
    }


def test_the_fake_that_tests_run_has_no_name_that_the_library_lacks() -> None:
    tree = ast.parse((LISTS.parents[1] / "support" / "fake_tensorrt.py").read_text())
    classes = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    for owner in ("Runtime", "ICudaEngine", "IExecutionContext"):
        members = {node.name for node in ast.walk(classes[owner]) if isinstance(node, ast.FunctionDef)}
        public = {f"{owner}.{name}" for name in members if not name.startswith("_")}
        assert public
        for version in VERSIONS:
            assert not public - known_names(version)


def test_a_name_that_is_missing_would_be_found() -> None:
    tree = ast.parse("trt.BuilderFlag.FP16\nbuilder.build_engine(network, config)\nconfig.int8_calibrator = None\n")
    used = names_in(tree)
    assert used == {"BuilderFlag", "BuilderFlag.FP16", "Builder.build_engine", "IBuilderConfig.int8_calibrator"}
    assert used - known_names("11.4") == used - {"BuilderFlag"}
    assert {"BuilderFlag.FP16", "IBuilderConfig.int8_calibrator"} <= known_names("10.16")


@pytest.mark.parametrize(
    ("version", "first_line"),
    [
        ("10.12", "# tensorrt-cu12-bindings 10.12"),
        ("10.16", "# tensorrt-cu13-bindings 10.16"),
        ("11.4", "# tensorrt-cu13-bindings 11.4"),
        ("rtx", "# tensorrt-rtx 1.7"),
    ],
)
def test_a_list_says_what_it_was_made_from(version: str, first_line: str) -> None:
    assert (LISTS / f"{version}.txt").read_text().startswith(first_line)


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")
def test_the_list_of_tensorrt_rtx_is_that_of_the_installed_one() -> None:
    sys.path.insert(0, str(LISTS))
    try:
        from extract import listing
    finally:
        sys.path.remove(str(LISTS))
    assert listing("tensorrt_rtx", "tensorrt-rtx", {}) == (LISTS / "rtx.txt").read_text()
