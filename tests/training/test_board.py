"""What TensorBoard reads is what the log holds, also after a break."""

import csv
import struct
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from tensorboardX import event_file_writer
from tensorboardX.proto.event_pb2 import Event

from brainmets.config import Architecture, Tiling, Training
from brainmets.training import loop
from brainmets.training.loop import train
from training_cases import prepared_case

ARCHITECTURE = Architecture(width=4)
TRAINING = Training(
    steps=4, batch=2, patch_vox=32, warmup_steps=1, checkpoint_every=2, validate_every=2,
    precision="f32",
)  # fmt: skip
CASES = [prepared_case(seed=n, name=str(n)) for n in range(3)]


@pytest.fixture(autouse=True)
def _one_settling_batch(monkeypatch):
    monkeypatch.setattr(loop, "SETTLING_BATCHES", 1)


def run(folder, **options):
    train(
        CASES[:2], ARCHITECTURE, TRAINING, folder / "run.pt", validation=CASES[2:],
        tiling=Tiling(32), **options,
    )  # fmt: skip


def shown(folder):
    """Numbers by name and step, as TensorBoard takes them.

    It reads the files in the order of their names; a restart purges later steps.
    """
    found = {}
    for path in sorted((folder / "tensorboard").iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            if event.session_log.status == 1:  # START
                found = {key: v for key, v in found.items() if key[1] < event.step}
            for value in event.summary.value:
                found[value.tag, event.step] = value.simple_value
    return found


def logged(folder):
    with (folder / "losses.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_tensorboard_is_told_what_the_log_holds(tmp_path):
    run(tmp_path)
    found = shown(tmp_path)
    for row in logged(tmp_path):
        step = int(row["step"])
        assert found["loss", step] == pytest.approx(float(row["loss"]), rel=1e-4)
        assert found["learning_rate", step] == pytest.approx(float(row["learning_rate"]), rel=1e-4)
        if row["lesion_f1"]:
            assert found["validation/f1", step] == pytest.approx(float(row["lesion_f1"]))
    assert len(logged(tmp_path)) == 4
    assert ("validation/loss", 2) in found


@pytest.mark.parametrize("apart_s", [0.0, 1.0])
def test_a_run_taken_further_shows_each_step_once(tmp_path, monkeypatch, apart_s):
    now = 1.8e9
    monkeypatch.setattr(event_file_writer, "time", SimpleNamespace(time=lambda: now))
    run(tmp_path, until=2)
    now += apart_s
    run(tmp_path)
    steps = [step for name, step in shown(tmp_path) if name == "loss"]
    assert sorted(steps) == [1, 2, 3, 4]


def test_without_tensorboardx_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    run(tmp_path)
    assert not (tmp_path / "tensorboard").exists()
    assert len(logged(tmp_path)) == 4


def test_whole_cases_that_are_not_looked_at_leave_no_number(tmp_path):
    blind = replace(TRAINING, validation_cases=0)
    train(
        CASES[:2], ARCHITECTURE, blind, tmp_path / "run.pt", validation=CASES[2:], tiling=Tiling(32)
    )
    assert not [name for name, _ in shown(tmp_path) if name == "validation/f1"]
