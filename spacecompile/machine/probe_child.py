"""Tries one third-party part, in a process of its own that `probe` starts.

A library that crashes, hangs or talks then costs one row of `doctor` and nothing else.
"""

from __future__ import annotations

import base64
import sys
import zlib
from importlib import import_module

import numpy as np
from numpy.typing import NDArray

from spacecompile.child_process import report

# A sealed graph of a dozen nodes for frames of 16x16 pixels and three classes, as `tests/machine/test_probe_child.py`
# makes it: built here by hand, since the base install lacks the package that could.
GRAPH = base64.b85decode(
    "c-pN}OHYG95C#f#J2px-jkebKAU$#F%|s72^<qeRsW&~4g>I!0x(!QHdaEb@hCkIUEJ)+Y#7ST>kMEn;BDniB;R=j-LSl*yf16Tn"
    ">yLz|P7Ab@b=5CbgFX}yFnB;Bip_vUEa7%zvW{Q~(gZEsU?Zkv$!(a@**c&TVK^s%-YH$p7BTNCdpaA6ENG?7i`d&D<=8B=ZB9tK"
    "XT1dJ!AC(vIQLcw^SRx8X7e;A8C+LYksw)-L}coIouLQ0jbRhAh<bU<n6mY91_P)$v5}(>rq=dt-jr>cqJqydjKt5&w%N9-aWF|p"
    "NtA}zEOeP8=tbw$IY*k+9E%mXmLf%!+Bvb*aj{xg|Jd#Bom<pE4dMJ*kULP6-AFl*-?lRnKwSW3%kEJ5qd2dE!IY(oN!%yppTxPy"
    "r>ZXIwnftqGB|qam+ugRg*4m-4O#MQ_&umU1Pp+XiuF8n2E_^SF|-8^l{o(ts*}|Ky59kLq?*?p>!4VjZ?eUk{r"
)
FRAME_SIZE_PX = (16, 16)
_ERROR_MAX = 0.05


def main(arguments: list[str]) -> None:
    """Run one probe, and report what it found or what is the matter.

    Args:
        arguments: `backend NAME`, or `import MODULE...`.
    """
    kind, *names = arguments
    try:
        found = _run_backend(names[0]) if kind == "backend" else _import(names)
        answer = {"found": found}
    except Exception as error:  # noqa: BLE001  whatever a third-party library raises is what was asked for
        reason = (str(error).strip() or "no message").splitlines()[0]
        answer = {"problem": f"{type(error).__name__}: {reason}"}
    report(answer)


def _probe_frame() -> NDArray[np.uint8]:
    """The frame that backends are tried on: red on the left, blue on the right."""
    frame_HWC = np.zeros((*FRAME_SIZE_PX, 3), np.uint8)
    frame_HWC[:, :8, 0] = 255
    frame_HWC[:, 8:, 2] = 255
    return frame_HWC


def _run_backend(name: str) -> str:
    """Answer the small graph in a backend; what works is said for a reader."""
    from spacecompile.runtime.backends.registry import BACKENDS  # noqa: PLC0415  part of what is tried

    entry = next(entry for entry in BACKENDS if entry.name == name)
    backend = entry.factory()(zlib.decompress(GRAPH), precision="fp32", threads=1, spinning=False, cache=False)
    raw = backend.run(_probe_frame())
    parts_HW = np.repeat([[1, 2]], 8, axis=1).repeat(16, axis=0)
    means = np.array([0.5, 0.0, 0.5])
    probs_L = np.exp(4 * means) / np.exp(4 * means).sum()
    error = float(np.abs(raw.class_probs_L - probs_L).max())
    if not error <= _ERROR_MAX or not np.array_equal(raw.parts_HW, parts_HW):
        raise ValueError(f"a small graph gives wrong answers: probabilities {raw.class_probs_L}, expected {probs_L}")
    return f"{backend.name} {backend.version} answers a small graph rightly"


def _import(modules: list[str]) -> str:
    """Import modules, and compute something where PyTorch is among them; what works is said for a reader."""
    for module in modules:
        import_module(module)
    versions = {module: getattr(sys.modules[module], "__version__", None) for module in modules}
    found = ", ".join(f"{module} {version}" if version else module for module, version in versions.items())
    if "torch" not in modules:
        return found
    torch = sys.modules["torch"]
    torch.nn.functional.conv2d(torch.ones(1, 1, 8, 8), torch.ones(1, 1, 3, 3))
    cuda = f"CUDA {torch.version.cuda}, GPU usable" if torch.cuda.is_available() else "on the CPU"
    return f"{found}; PyTorch computes {cuda}"
