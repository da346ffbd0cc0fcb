"""Killed ten times at moments of no one's choosing: the end is that of a run left in peace."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from training_cases import write_case

TESTS = Path(__file__).parents[1]
KILLS = 10

PREPARE = """
import sys
from pathlib import Path
from brainmets.cohort import read_cohort
from brainmets.config import Recipe
from brainmets.training.preparing import prepare_cohort
import blosc2
cohort = read_cohort(Path(sys.argv[1]))
print("ready", flush=True)
prepare_cohort(cohort, Recipe(spacing_mm=0.7), Path(sys.argv[2]))
"""

TRAIN = """
import sys
from pathlib import Path
import torch
from brainmets.config import Architecture, Training
from brainmets.training import loop
from training_cases import prepared_case
torch.set_num_threads(1)
cases = [prepared_case(seed=n, name=str(n)) for n in range(3)]
loop.SETTLING_BATCHES = 2
settings = Training(
    steps=25, batch=2, patch_vox=32, warmup_steps=2, checkpoint_every=1, validate_every=7,
    precision="f32", seed=1,
)
print("ready", flush=True)
out = Path(sys.argv[1])
network = loop.train(
    cases, Architecture(width=4, full_resolution_channels=4), settings, out / "checkpoint.pt",
    validation=cases[:1],
)
torch.save(loop.weights_of(network), out / "weights.pt")
"""


def start(script, *words):
    code = f"import sys; sys.path.insert(0, {str(TESTS)!r})\n{script}"
    child = subprocess.Popen(  # noqa: S603 - own script
        [sys.executable, "-c", code, *map(str, words)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "ready\n"
    return child


def killed_and_left_alone(script, *words, whole_s):
    """Start, kill -9 after a random part of a whole run's time, ten times; then let it end."""
    chance = random.Random(0)  # noqa: S311 - not for secrets
    killed = 0
    for _ in range(KILLS):
        with start(script, *words) as child:
            time.sleep(chance.uniform(0, whole_s / 3))
            child.kill()
            killed += child.wait() == -signal.SIGKILL
    with start(script, *words) as child:
        assert child.wait() == 0
    return killed


def timed(script, *words):
    with start(script, *words) as child:
        began = time.monotonic()
        assert child.wait() == 0
        return time.monotonic() - began


def bytes_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_preparing(tmp_path):
    rows = ["case\timage\tmask\tbrain_mask"]
    for n in range(8):
        case = write_case(tmp_path, f"c{n}", seed=n)
        files = (case.image, case.mask, case.brain_mask)
        rows.append("\t".join([f"c{n}", *(file.name for file in files)]))
    (tmp_path / "cohort.tsv").write_text("\n".join(rows) + "\n", "utf-8")
    whole = timed(PREPARE, tmp_path / "cohort.tsv", tmp_path / "straight")
    killed = killed_and_left_alone(
        PREPARE, tmp_path / "cohort.tsv", tmp_path / "store", whole_s=whole
    )
    assert killed >= KILLS / 2
    assert bytes_of(tmp_path / "store") == bytes_of(tmp_path / "straight")


@pytest.mark.slow
def test_training(tmp_path):
    for name in ("straight", "killed"):
        (tmp_path / name).mkdir()
    whole = timed(TRAIN, tmp_path / "straight")
    killed = killed_and_left_alone(TRAIN, tmp_path / "killed", whole_s=whole)
    assert killed >= KILLS / 2
    one, other = (torch.load(tmp_path / n / "weights.pt") for n in ("straight", "killed"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    logs = [(tmp_path / n / "losses.csv").read_bytes() for n in ("straight", "killed")]
    assert logs[0] == logs[1]
