"""The layers of ARCHITECTURE.md: who may import whom, and what the slim runtime must never pull in."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COMPILER_PACKAGES = ("torch", "torchvision", "timm", "segmentation_models_pytorch", "onnx")


def modules_after(statement: str) -> set[str]:
    """Top-level packages that a fresh interpreter holds after one statement."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "statement",
    [
        "import spacecompile",
        "import spacecompile.runtime",
        "import spacecompile.runtime.session",
        "import spacecompile.metrics",
        "import spacecompile.contract, spacecompile.errors",
        "import spacecompile; spacecompile.load",
        "import spacecompile.cli.main",
        "import spacecompile.machine.doctor",
        # A target that builds engines has neither torch nor onnx.
        "import spacecompile.export.engine.build_plan, spacecompile.export.engine.writer",
    ],
)
def test_the_slim_side_never_imports_the_compiler(statement: str) -> None:
    assert not modules_after(statement) & set(COMPILER_PACKAGES)


@pytest.mark.parametrize("package", ["onnxruntime", "PIL"])
def test_importing_the_package_pulls_in_nothing_heavy(package: str) -> None:
    assert package not in modules_after("import spacecompile")


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="the import contracts are checked in a clone")
def test_import_contracts_hold() -> None:
    lint_imports = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint_imports, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="the links exist in a clone only")
@pytest.mark.parametrize("stage", ["train", "export", "runtime", "benchmarks"])
def test_each_stage_can_be_entered_at_the_root(stage: str) -> None:
    assert (ROOT / stage).is_symlink()
    assert (ROOT / stage).resolve() == ROOT / "spacecompile" / stage
