"""A checkpoint is whole, says whose it is, and refuses what is none."""

import numpy as np
import pytest
import torch

from brainmets.errors import ConfigError
from brainmets.training.checkpoints import read_checkpoint, write_checkpoint


def test_what_was_written_is_read(tmp_path):
    path = tmp_path / "a.pt"
    write_checkpoint(path, {"seed": 1}, {"step": 3, "weights": torch.arange(4)})
    saved = read_checkpoint(path, lambda settings: settings == {"seed": 1}, ("step", "weights"))
    assert set(saved) == {"step", "weights"}
    assert saved["step"] == 3
    assert torch.equal(saved["weights"], torch.arange(4))
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]


def test_another_runs_is_refused(tmp_path):
    write_checkpoint(tmp_path / "a.pt", 1, {})
    with pytest.raises(ConfigError, match=r"a\.pt: holds a run of other settings"):
        read_checkpoint(tmp_path / "a.pt", lambda settings: settings == 2, ())


@pytest.mark.parametrize(
    "content",
    [b"", b"no checkpoint", b"PK" + bytes(100), b"\x80\x02.", b"\x80\x02X\x01\0\0\0\xff."],
)
def test_a_damaged_one_is_refused(content, tmp_path):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(ConfigError, match=r"a\.pt: damaged, or no checkpoint; delete it"):
        read_checkpoint(tmp_path / "a.pt", lambda _: True, ())


def test_changed_bytes_are_read_or_refused(tmp_path):
    path = tmp_path / "a.pt"
    write_checkpoint(path, 1, {"step": 3, "weights": torch.arange(40)})
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(150):
        bad = bytearray(whole)
        for place in rng.integers(len(bad), size=3):
            bad[place] = rng.integers(256)
        path.write_bytes(bad[: len(bad) if rng.random() < 0.6 else rng.integers(len(bad))])
        try:
            read_checkpoint(path, lambda settings: settings == 1, ("step", "weights"))
        except ConfigError:
            continue


@pytest.mark.parametrize(
    "held", [{"step": 1}, [1, 2], {"settings": {}}, torch.arange(3), {"settings": {"training": 1}}]
)
def test_tensors_of_something_else_are_refused(held, tmp_path):
    torch.save(held, tmp_path / "a.pt")
    with pytest.raises(ConfigError, match="damaged, or no checkpoint"):
        read_checkpoint(tmp_path / "a.pt", lambda settings: settings["training"], ("step",))


def test_one_that_cannot_be_written_leaves_the_last(tmp_path):
    path = tmp_path / "a.pt"
    write_checkpoint(path, 1, {"step": 1})
    with pytest.raises(Exception, match="pickle"):
        write_checkpoint(path, 1, {"step": lambda: None})
    assert read_checkpoint(path, lambda _: True, ["step"])["step"] == 1
