"""The package as users get it: a wheel, installed without an index, outside the repository."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def _run(*command: str | Path, cwd: Path, **variables: str) -> str:
    done = subprocess.run(  # noqa: S603  # our own commands
        list(map(str, command)),
        cwd=cwd,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_the_wheel_runs_the_demo_in_a_clean_environment(tmp_path):
    """Built, installed with --no-index from a wheelhouse, run where no source lies."""
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    house = tmp_path / "wheelhouse"
    _run(*pip, "wheel", "-q", "-c", ROOT / "constraints.txt", "-w", house, ROOT, cwd=tmp_path)
    _run(sys.executable, "-m", "venv", tmp_path / "clean", cwd=tmp_path)
    python = tmp_path / "clean" / "bin" / "python"
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(house), "PIP_EXTRA_INDEX_URL": ""}
    _run(python, "-m", "pip", "install", "-q", "brainmets", cwd=tmp_path, **offline)
    place = _run(
        python, "-c", "import brainmets; print(brainmets.__file__)", cwd=tmp_path, PYTHONPATH=""
    )
    assert Path(place.strip()).is_relative_to(tmp_path / "clean")
    shown = _run(tmp_path / "clean" / "bin" / "brainmets", "demo", "-o", "out", cwd=tmp_path)
    assert "report:" in shown
    assert (tmp_path / "out" / "simulated-patient" / "report.html").stat().st_size > 10_000
