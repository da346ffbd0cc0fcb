"""BraTS-METS scores: equal to the public scorers' on real pairs, and by hand on small masks."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from brainmets.errors import ConfigError, GridMismatchError
from brainmets.evaluation.brats_mets import (
    REGIONS,
    Rules2023,
    Rules2025,
    region,
    scores_2023,
    scores_2025,
)
from brainmets.io import nifti
from brainmets.volume import Grid, Volume

TABLE = Path(__file__).parent / "public_scores.tsv"
sparse = hnp.arrays(np.bool_, (7, 6, 5), elements=st.sampled_from([False] * 6 + [True]))
quick = settings(max_examples=40, deadline=None)


def volume(data, spacing=(1.0, 1.0, 1.0)):
    return Volume(np.asarray(data), Grid(np.shape(data), np.diag([*spacing, 1.0])))


def line(*runs, spacing=(1.0, 1.0, 1.0)):
    """A mask with runs of voxels along its first axis."""
    data = np.zeros((60, 5, 5), bool)
    for start, stop in runs:
        data[start:stop, 2, 2] = True
    return volume(data, spacing)


def values(scores):
    return {name: s.value for name, s in scores.items()}


# Real pairs


def frozen():
    """The table's rows, without the lines that say where they come from."""
    lines = [x for x in TABLE.read_text(encoding="utf-8").splitlines() if not x.startswith("#")]
    return list(csv.DictReader(lines, delimiter="\t"))


def pair_of(folder, scan):
    """Reference and prediction, cut to the box that holds both, for speed."""
    (reference,) = folder.glob(f"*{scan}-seg.nii.gz")
    (prediction,) = (folder / "predictions").glob(f"*{scan}.nii.gz")
    pair = nifti.read_labels(reference), nifti.read_labels(prediction)
    inside = np.greater(pair[0].data, 0) | np.greater(pair[1].data, 0)
    box = ndimage.find_objects(inside.view(np.int8))[0]
    return [volume(mask.data[box], mask.grid.spacing_mm) for mask in pair]


def in_voxels(mask):
    """The same mask as if its voxels measured 1 mm."""
    return volume(mask.data)


RULES = {
    "mets2023": scores_2023,
    "mets2025": scores_2025,
    "mets2025-20mm3": lambda r, p: scores_2025(r, p, Rules2025(20, 0.1)),
    "mets2025-275mm3": lambda r, p: scores_2025(r, p, Rules2025(275, 0.2)),
    # That scorer measures whole regions in voxels, whatever the spacing.
    "mets2025-global": lambda r, p: scores_2025(
        in_voxels(r), in_voxels(p), Rules2025(tolerance_mm=0.5)
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("scan", ["00132-000", "00217-000", "00630-001", "01325-000", "01352-000"])
def test_real_pairs_have_the_public_scorers_scores(data_folder, scan):
    rows = [row for row in frozen() if row["scan"] == scan]
    assert {row["region"] for row in rows} == set(REGIONS)
    pair = pair_of(data_folder / "lesion_masks", scan)
    regions = {name: [region(mask, name) for mask in pair] for name in REGIONS}
    scores = {
        (rules, name): compute(*masks)
        for rules, compute in RULES.items()
        for name, masks in regions.items()
    }
    for row in rows:
        got = scores[row["scorer"], row["region"]][row["score"]]
        if not got.defined:  # the scorer leaves it empty, or writes 0 for 0 / 0
            assert row["value"] in {"nan", "0.0"}, row
        else:
            assert got.value == pytest.approx(float(row["value"]), abs=1e-6), row


def test_the_frozen_table_says_where_it_comes_from():
    head = [x for x in TABLE.read_text(encoding="utf-8").splitlines() if x.startswith("#")]
    for scorer in RULES:
        assert any(x.startswith(f"# {scorer}: ") for x in head), scorer
    assert {row["scorer"] for row in frozen()} == set(RULES)


# The rules of 2023 by hand


def test_2023_counts_a_missed_lesion_and_a_false_positive_with_the_penalty():
    reference, prediction = line((0, 4), (20, 24)), line((0, 4), (40, 43))
    got = values(scores_2023(reference, prediction))
    assert got["lesionwise_dice"] == pytest.approx(1 / 3)
    assert got["lesionwise_hd95_mm"] == pytest.approx((0 + 374 + 374) / 3)
    names = ("true_positives", "false_positives", "false_negatives")
    assert [got[name] for name in names] == [1, 1, 1]
    assert got["dice"] == pytest.approx(2 * 4 / (8 + 7))


def test_2023_merges_lesions_whose_dilations_touch():
    # A gap of two is closed by dilating both; of three it is not: 2 + 1 voxels are dilated,
    # and neighbours of neighbours are one component.
    near, far = line((0, 4), (6, 10)), line((0, 4), (7, 11))
    both = line((0, 10))
    assert values(scores_2023(near, both))["lesionwise_dice"] == pytest.approx(16 / 18)
    assert values(scores_2023(far, line((0, 11))))["true_positives"] == 2
    alone = values(scores_2023(near, line((0, 4))))
    assert (alone["true_positives"], alone["false_negatives"]) == (1, 0)
    apart = values(scores_2023(near, line((0, 4)), Rules2023(dilations=0)))
    assert (apart["true_positives"], apart["false_negatives"]) == (1, 1)


def test_2023_gives_a_lesion_every_prediction_that_touches_its_dilation():
    got = values(scores_2023(line((5, 10)), line((2, 5), (7, 8), (12, 14))))
    assert got["lesionwise_dice"] == pytest.approx((2 * 1 / (5 + 4)) / 2)
    assert (got["true_positives"], got["false_positives"]) == (1, 1)


def test_2023_drops_small_reference_lesions_but_not_small_false_positives():
    reference = line((0, 2), (10, 20))
    assert values(scores_2023(reference, line((10, 20))))["lesionwise_dice"] == 1
    found = values(scores_2023(reference, line((0, 1), (10, 20))))
    assert (found["lesionwise_dice"], found["false_positives"]) == (1, 0)
    extra = values(scores_2023(reference, line((10, 20), (40, 41))))
    assert (extra["lesionwise_dice"], extra["false_positives"]) == (0.5, 1)
    doubled = line((0, 2), (10, 20), spacing=(1.0, 1.0, 1.5))  # 3 mm³ count
    assert values(scores_2023(doubled, doubled))["true_positives"] == 2
    wavering = line((0, 2), spacing=(1.0, 1.0, 1.0 + 1e-7))  # a float32 of 2 mm³
    assert not scores_2023(wavering, wavering)["lesionwise_dice"].defined


# The newer rules by hand


def test_2025_counts_large_and_small_lesions_apart_and_every_false_positive_in_both():
    # Large: 30 voxels with Dice 40/50, and 28 missed. Small: 10 found, 5 with too little.
    reference = line((0, 30), (32, 42), (44, 49))
    prediction = line((10, 30), (32, 42), (48, 58))
    got = values(scores_2025(reference, prediction))
    assert (got["tp"], got["fp"], got["fn"]) == (3, 0, 0)
    assert (got["large_tp"], got["large_fn"]) == (1, 0)
    assert (got["small_tp"], got["small_fn"]) == (1, 1)  # Dice 2/15 is below 0.2
    assert got["lesionwise_dice"] == pytest.approx(40 / 50)
    extra = values(scores_2025(reference, line((10, 30), (32, 42), (55, 56))))
    assert (extra["fp"], extra["large_fp"], extra["small_fp"]) == (1, 1, 1)
    assert extra["lesionwise_dice"] == pytest.approx(40 / 50 / 2)
    assert extra["lesionwise_hd95_mm"] > 373 / 2
    assert extra["lesionwise_dice_sd"] == pytest.approx(0.4)
    assert extra["pq_dice"] == pytest.approx((0.8 + 1) / (2 + 1 / 2 + 1 / 2))
    assert extra["sq_dice"] == pytest.approx(0.9)


def test_2025_distances_by_hand():
    # A line of 30 against its first 20: surface voxels are all; ten lie 1 … 10 away.
    reference, prediction = line((0, 30)), line((0, 20))
    got = values(scores_2025(reference, prediction))
    directed = [0] * 20 + list(range(1, 11)) + [0] * 20
    assert got["lesionwise_hd95_mm"] == pytest.approx(np.percentile(directed, 95))
    assert got["lesionwise_nsd"] == pytest.approx((21 / 30 + 1) / 2)
    wide = [line(*runs, spacing=(2.0, 1.0, 1.0)) for runs in ([(0, 30)], [(0, 20)])]
    longer = values(scores_2025(*wide, Rules2025(tolerance_mm=4.0)))
    assert longer["hd95_mm"] == pytest.approx(2 * np.percentile(directed, 95))
    assert longer["nsd"] == pytest.approx((22 / 30 + 1) / 2)


def test_2025_whole_masks_that_share_no_voxel_are_as_bad_as_an_empty_one():
    # As brats-evaluation 0.0.10 gives for two cubes of 6³ voxels that touch: 0, 0 and 373.
    reference, prediction = np.zeros((24, 20, 16), bool), np.zeros((24, 20, 16), bool)
    reference[4:10, 4:10, 4:10] = prediction[10:16, 4:10, 4:10] = True
    got = values(scores_2025(volume(reference), volume(prediction)))
    assert (got["dice"], got["nsd"], got["hd95_mm"]) == (0, 0, 373)


def test_2025_pairs_one_prediction_with_one_lesion():
    got = values(scores_2025(line((0, 10), (12, 18)), line((0, 18))))
    assert (got["tp"], got["fp"], got["fn"]) == (1, 0, 1)


# Both


@quick
@given(sparse)
def test_a_mask_scored_against_itself_is_perfect(mask):
    old, new = scores_2023(volume(mask), volume(mask)), scores_2025(volume(mask), volume(mask))
    perfect = {"dice": 1, "hd95_mm": 0, "lesionwise_dice": 1, "lesionwise_hd95_mm": 0}
    more = {"nsd": 1, "f1": 1, "sq_dice": 1, "pq_dice": 1, "lesionwise_nsd": 1}
    for scores, expected in ((old, perfect), (new, perfect | more)):
        for name, value in expected.items():
            assert scores[name].value == value or not scores[name].defined, name
        assert scores["dice"].defined == mask.any()
    assert old["false_positives"].value == old["false_negatives"].value == 0


@quick
@given(sparse, sparse, st.permutations(range(3)))
def test_turned_arrays_have_the_same_scores(reference, prediction, axes):
    spacing = (0.5, 1.0, 3.0)
    pair = [volume(m, spacing) for m in (reference, prediction)]
    turned = [
        volume(m.transpose(axes), [spacing[a] for a in axes]) for m in (reference, prediction)
    ]
    assert values(scores_2023(*turned)) == pytest.approx(values(scores_2023(*pair)), nan_ok=True)
    new = values(scores_2025(*turned)), values(scores_2025(*pair))
    for name in ("tp", "fp", "fn", "pq_dice", "dice", "nsd", "hd95_mm"):  # ties may pair others
        if name in {"pq_dice", "dice", "nsd", "hd95_mm"}:
            assert new[0][name] == pytest.approx(new[1][name], nan_ok=True)
    assert new[0]["tp"] + new[0]["fn"] == new[1]["tp"] + new[1]["fn"]


@pytest.mark.parametrize("compute", [scores_2023, scores_2025])
def test_empty_masks_are_undefined_or_penalised(compute):
    none, some = line(), line((0, 30))
    assert not any(compute(none, none)[n].defined for n in ("dice", "hd95_mm", "lesionwise_dice"))
    missed = values(compute(some, none))
    assert (missed["dice"], missed["lesionwise_dice"]) == (0, 0)
    assert missed["lesionwise_hd95_mm"] == missed["hd95_mm"] >= 373
    invented = compute(none, some)
    assert invented["dice"].value == 0
    if compute is scores_2023:
        assert invented["lesionwise_hd95_mm"].value == 374
    else:
        assert invented["lesionwise_dice"].reason == "the reference has no large lesion"
        assert invented["sensitivity"].reason == "the reference has no lesion"
        assert math.isnan(invented["large_fp"].value)


def test_regions_are_enhancing_core_and_whole():
    data = np.arange(5, dtype=np.uint8).reshape(5, 1, 1) * np.ones((5, 1, 1), np.uint8)
    got = {name: np.flatnonzero(region(volume(data), name).data).tolist() for name in REGIONS}
    assert got == {"ET": [3], "TC": [1, 3], "WT": [1, 2, 3]}
    with pytest.raises(ConfigError, match="ET, TC, WT"):
        region(volume(data), "RC")


def test_masks_on_different_grids_are_not_scored():
    for compute in (scores_2023, scores_2025):
        with pytest.raises(GridMismatchError):
            compute(line(), line(spacing=(1, 1, 2)))
