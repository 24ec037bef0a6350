"""Writes the names that a version of TensorRT's Python API has, from its bindings wheel, without its libraries.

    python tests/export/tensorrt_api/extract.py tensorrt_cu13_bindings-11.4.0.106-cp311-none-manylinux_2_28_x86_64.whl

writes `11.4.txt` beside this file. The bindings are imported over empty libraries that a C compiler makes on the spot;
nothing in them is ever called. TensorRT-RTX's own libraries are on the package index, so it is imported as installed:
`extract.py tensorrt_rtx` writes `rtx.txt`. Wheels come from `pip download --no-deps tensorrt-cu13-bindings==11.4.0.106`
(for the interpreter that runs this) and are not committed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
# What the bindings link to; the list of `nm -D --undefined-only tensorrt.so`.
SYMBOLS = (
    *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL"),
    *("createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry"),
    *("getNvOnnxParserVersion", "getPluginRegistry", "initLibNvInferPlugins"),
)
# Run in an interpreter of its own: one line per class with its public names, and one with all other names.
LISTING = """
import importlib, inspect, sys
module = importlib.import_module(sys.argv[1])
print(f"# {sys.argv[2]} {module.__version__}")
public = {name: value for name, value in vars(module).items() if not name.startswith("_")}
classes = {name: value for name, value in public.items() if inspect.isclass(value)}
others = sorted(name for name in public if name not in classes and not inspect.ismodule(public[name]))
print("(module):", *others)
for name in sorted(classes):
    print(f"{name}:", *sorted(member for member in dir(classes[name]) if not member.startswith("_")))
"""


def main(source: str) -> None:
    if source == "tensorrt_rtx":
        write("rtx", listing("tensorrt_rtx", "tensorrt-rtx", {}))
        return
    wheel = Path(source)
    version = wheel.name.split("-")[1]
    major, minor = version.split(".")[:2]
    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(wheel).extractall(folder)
        make_libraries(Path(folder), major)
        search = {"PYTHONPATH": folder, "LD_LIBRARY_PATH": folder}
        write(f"{major}.{minor}", listing("tensorrt_bindings", wheel.name.split("-")[0].replace("_", "-"), search))


def make_libraries(folder: Path, major: str) -> None:
    code = folder / "empty.c"
    code.write_text("".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in SYMBOLS))
    for name in LIBRARIES:
        soname = f"lib{name}.so.{major}"
        command = ["cc", "-shared", "-fPIC", f"-Wl,-soname,{soname}", "-o", str(folder / soname), str(code)]
        subprocess.run(command, check=True)


def listing(module: str, package: str, search: dict[str, str]) -> str:
    command = [sys.executable, "-c", LISTING, module, package]
    return subprocess.run(command, env=os.environ | search, capture_output=True, text=True, check=True).stdout


def write(name: str, text: str) -> None:
    path = FOLDER / f"{name}.txt"
    path.write_text(text)
    sys.stdout.write(f"{path.name}: {text.splitlines()[0]}, {len(text.splitlines()) - 2} classes\n")


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        main(argument)
