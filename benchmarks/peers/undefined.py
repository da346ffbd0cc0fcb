"""What brainmets and the public tools answer where a score has no value.

python benchmarks/peers/undefined.py

Asks each tool in its own environment, made by ``make bench-peers``, and writes
``results/undefined_scores.json``, from which ``benchmarks/tables.py`` makes
``docs/reference/undefined-scores.md``.
"""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
write = runpy.run_path(str(HERE.parent / "record.py"))["write"]

ENVIRONMENTS = {
    "brainmets": None,
    "brainmets, BraTS-METS 2023": None,
    "brainmets, BraTS-METS 2025": None,
    "scikit-learn": None,
    "SimpleITK": None,
    "monai": "monai",
    "monai, mean over cases": "monai",
    "panoptica": "panoptica",
    "brats-evaluation": "panoptica",
    "surface-distance": "surface-distance",
}
"""``.venv-NAME`` of each tool; None: brainmets' own."""


def main() -> None:
    """Ask and record."""
    found = {tool: _asked(tool, environment) for tool, environment in ENVIRONMENTS.items()}
    print(write("undefined_scores", found).read_text())


def _asked(tool: str, environment: str | None) -> dict[str, Any]:
    python = ROOT / f".venv-{environment}" / "bin" / "python" if environment else sys.executable
    command = [str(python), str(HERE / "probes.py"), tool]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    answers: dict[str, Any] = json.loads(done.stdout)
    return answers


if __name__ == "__main__":
    main()
