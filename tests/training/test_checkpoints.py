"""A checkpoint is whole, says whose it is, and refuses what is none."""

import pytest
import torch

from brainmets.errors import ConfigError
from brainmets.training.checkpoints import read_checkpoint, write_checkpoint


def test_what_was_written_is_read(tmp_path):
    path = tmp_path / "a.pt"
    write_checkpoint(path, {"seed": 1}, {"step": 3, "weights": torch.arange(4)})
    saved = read_checkpoint(path, lambda settings: settings == {"seed": 1})
    assert saved["step"] == 3
    assert torch.equal(saved["weights"], torch.arange(4))
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]


def test_another_runs_is_refused(tmp_path):
    write_checkpoint(tmp_path / "a.pt", 1, {})
    with pytest.raises(ConfigError, match=r"a\.pt: holds a run of other settings"):
        read_checkpoint(tmp_path / "a.pt", lambda settings: settings == 2)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK" + bytes(100)])
def test_a_damaged_one_is_refused(content, tmp_path):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(ConfigError, match=r"a\.pt: damaged, or no checkpoint; delete it"):
        read_checkpoint(tmp_path / "a.pt", lambda _: True)


@pytest.mark.parametrize("held", [{"step": 1}, [1, 2], {"settings": {}}])
def test_tensors_of_something_else_are_refused(held, tmp_path):
    torch.save(held, tmp_path / "a.pt")
    with pytest.raises(ConfigError, match="damaged, or no checkpoint"):
        read_checkpoint(tmp_path / "a.pt", lambda settings: settings["training"])


def test_one_that_cannot_be_written_leaves_the_last(tmp_path):
    path = tmp_path / "a.pt"
    write_checkpoint(path, 1, {"step": 1})
    with pytest.raises(Exception, match="pickle"):
        write_checkpoint(path, 1, {"step": lambda: None})
    assert read_checkpoint(path, lambda _: True)["step"] == 1
