"""What int8 needs comes from a cohort's tiles, and its loss is measured before it is trusted."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from brainmets import pipeline
from brainmets.cohort import Case, Cohort
from brainmets.config import Architecture, DecisionRule, Recipe, Tiling
from brainmets.errors import CohortError, ConfigError
from brainmets.network import openvino_engine
from brainmets.network.bundle import LAST, Bundle, read, write
from brainmets.network.unet import UNet
from brainmets.training.quantise import is_small, quantise
from training_cases import write_case


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(openvino_engine, "cache_folder", lambda: tmp_path)


@pytest.fixture
def bundle():
    """Random weights that call some bright voxels lesions."""
    torch.manual_seed(3)
    network = UNet(Architecture(width=4, full_resolution_channels=4)).eval()
    torch.nn.init.normal_(network.head.weight, std=0.5)
    torch.nn.init.zeros_(network.head.bias)
    weights = {k: v.numpy().astype(np.float16) for k, v in network.state_dict().items()}
    return Bundle(
        "tiny", Architecture(4, 4), Recipe(spacing_mm=2.0), Tiling(32), DecisionRule(0.5, 0.6, 5.0),
        weights, {name: np.zeros((32, 32, 32), np.float32) for name in ("input", "output")},
        {"limits": "finds nothing"},
    )  # fmt: skip


@pytest.fixture
def cohort(tmp_path):
    return Cohort(tuple(write_case(tmp_path, name, seed=n) for n, name in enumerate("abcd")))


def test_the_card_says_what_is_lost_and_the_file_keeps_what_is_needed(
    bundle, cohort, cache, tmp_path
):
    moments = []
    done, losses = quantise(cohort, bundle, lambda *moment: moments.append(moment))
    said = done.card["int8"]
    assert said["cases"] == 2  # the first two gave the largest values
    assert [loss.case_id for loss in losses] == ["c", "d"]
    assert said["cases_with_the_same_lesions"] == sum(loss.sameness.is_same for loss in losses)
    assert said["lesions"] == sum(loss.sameness.lesions[0] for loss in losses)
    assert all(loss.float32_dice is not None for loss in losses)
    assert 0.5 < said["mean_dice_against_float32"] <= 1
    assert said["is_default"] is done.int8.is_default is False  # for want of cases
    assert done.card["limits"] == "finds nothing"
    assert sorted(done.int8.largest) == sorted(LAST)
    assert moments == [(n, 4) for n in range(1, 5)]
    write(done, tmp_path / "m.brainmets")
    kept = read(tmp_path / "m.brainmets")
    assert kept.int8 == done.int8
    assert all(np.array_equal(kept.weights[k], v) for k, v in bundle.weights.items())


def test_the_loss_is_that_of_use(bundle, cohort, cache, monkeypatch):
    """Where int8 leaves doubt, float32 decides, as it does in predict."""
    asked = []
    again = pipeline.looked_at_again

    def counted(prepared, tiles, places, engine, *rest, **options):
        asked.append(engine.name)
        return again(prepared, tiles, places, engine, *rest, **options)

    everywhere = lambda probability, _rule: (tuple(slice(0, n) for n in probability.data.shape),)  # noqa: E731
    monkeypatch.setattr(pipeline, "looked_at_again", counted)
    monkeypatch.setattr(pipeline, "doubtful", everywhere)
    _, losses = quantise(cohort, bundle)
    assert asked == ["openvino cpu float32"] * len(losses)
    assert [loss.sameness.dice for loss in losses] == [1.0] * len(losses)


def test_what_a_case_reaches_is_within_what_all_reach(bundle, cohort, cache):
    one, _ = quantise(Cohort(tuple(cohort)[:1]), bundle)
    every, _ = quantise(cohort, bundle)
    for layer in LAST:
        assert (np.array(one.int8.largest[layer]) <= every.int8.largest[layer]).all()


def test_without_reference_masks_only_sameness_is_measured(bundle, cohort, cache):
    blind = Cohort(tuple(Case(c.case_id, c.image, None, c.brain_mask, {}) for c in cohort))
    done, losses = quantise(blind, bundle)
    assert done.card["int8"]["share_of_dice_kept"] is None
    assert [loss.int8_dice for loss in losses] == [None, None]


@pytest.mark.parametrize(
    ("cases", "same", "kept", "lesions", "small"),
    [
        (100, 99, 0.999, 300, True),
        (100, 98, 1.0, 300, False),
        (100, 100, 0.9989, 300, False),
        (20, 20, None, 20, True),
        (20, 19, None, 20, False),
        (19, 19, 1.0, 300, False),
        (100, 100, None, 19, False),
    ],
)
def test_it_is_the_default_only_if_it_is_known_to_lose_next_to_nothing(
    cases, same, kept, lesions, small
):
    said = {"cases": cases, "cases_with_the_same_lesions": same, "share_of_dice_kept": kept,
            "lesions": lesions}  # fmt: skip
    assert is_small(said) is small


def test_what_cannot_be_quantised_is_refused(bundle, cohort, cache):
    with pytest.raises(CohortError, match="no case"):
        quantise(Cohort(()), bundle)
    double = {f"{n}/{k}": v for n in range(2) for k, v in bundle.weights.items()}
    several = Bundle(**{**bundle.__dict__, "weights": double, "networks": 2})
    with pytest.raises(ConfigError, match="averages 2 networks"):
        quantise(cohort, several)


OFFLINE = """
import socket, sys
def forbidden(*words, **options):
    raise SystemExit("the network was asked for")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = forbidden
from pathlib import Path
from brainmets.apps import cli
from brainmets.network import openvino_engine
folder = sys.argv[1]
openvino_engine.cache_folder = lambda: Path(folder)
sys.argv = ["brainmets", "models", "quantise", folder + "/tiny.brainmets", folder + "/cohort.tsv"]
sys.argv += ["-o", folder + "/small.brainmets", "--threads", "1"]
cli.main()
"""


def test_quantising_asks_nothing_of_the_network(bundle, cohort, tmp_path):
    write(bundle, tmp_path / "tiny.brainmets")
    rows = ["\t".join((c.case_id, str(c.image), str(c.mask), str(c.brain_mask))) for c in cohort]
    table = ["case\timage\tmask\tbrain_mask", *rows]
    (tmp_path / "cohort.tsv").write_text("\n".join(table) + "\n")
    words = [sys.executable, "-W", "error", "-c", OFFLINE, tmp_path]
    done = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stdout + done.stderr
    assert read(tmp_path / "small.brainmets").int8 is not None
