"""Every score of a case together: agreement, volumes, probabilities, intervals in the summary."""

import csv
import json
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from sklearn import metrics

from brainmets.cohort import Case, Cohort
from brainmets.errors import CohortError, InputError
from brainmets.evaluation.case import score
from brainmets.evaluation.evaluate import evaluate
from brainmets.evaluation.summary import summarise
from brainmets.evaluation.tables import write_scores
from brainmets.evaluation.voxel import Counts, agreement_scores, count, volume_scores
from brainmets.io import nifti
from brainmets.volume import Grid, Volume

SHAPE = (6, 5, 4)
masks = hnp.arrays(np.bool_, SHAPE)


def volume(data, spacing=(1.0, 1.0, 1.0)):
    return Volume(np.asarray(data), Grid(np.shape(data), np.diag([*spacing, 1.0])))


def block(start, stop):
    data = np.zeros(SHAPE, np.uint8)
    data[start:stop, 1:3, 1:3] = 1
    return volume(data)


@settings(max_examples=40, deadline=None)
@given(masks, masks)
def test_agreement_is_scikit_learns(reference, prediction):
    scores = agreement_scores(count(volume(reference), volume(prediction)))
    truth, found = reference.ravel(), prediction.ravel()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of one class alone
        kappa = metrics.cohen_kappa_score(truth, found)
    assert scores["accuracy"].value == pytest.approx(metrics.accuracy_score(truth, found))
    assert scores["kappa"].value == pytest.approx(kappa, nan_ok=True)
    if scores["mcc"].defined:
        assert scores["mcc"].value == pytest.approx(metrics.matthews_corrcoef(truth, found))
    else:
        assert truth.all() or found.all() or not truth.any() or not found.any()


def test_empty_and_full_masks_leave_agreement_undefined_with_a_reason():
    undefined = {
        Counts(0, 0, 0, 9): {"mcc", "kappa"},
        Counts(9, 0, 0, 0): {"mcc", "kappa"},
        Counts(0, 4, 0, 5): {"mcc"},
        Counts(0, 0, 0, 0): {"accuracy", "mcc", "kappa"},
    }
    for counts, names in undefined.items():
        scores = agreement_scores(counts)
        assert {name for name, s in scores.items() if s.reason} == names
        assert {name for name, s in scores.items() if math.isnan(s.value)} == names


def test_agreement_of_a_large_scan_does_not_overflow():
    half = 10**9
    scores = agreement_scores(Counts(half, 0, 0, half))
    assert [s.value for s in scores.values()] == [1, 1, 1]


def test_volume_errors_have_a_sign_a_size_and_a_share():
    spacing = (0.5, 0.5, 6.0)
    reference, prediction = np.zeros((2, *SHAPE))
    reference[:4, 0, 0], prediction[:3, 0, 0] = 1, 1
    scores = volume_scores(volume(reference, spacing), volume(prediction, spacing))
    assert {name: s.value for name, s in scores.items()} == pytest.approx(
        {
            "reference_mm3": 6.0,
            "predicted_mm3": 4.5,
            "volume_error_mm3": -1.5,
            "absolute_volume_error_mm3": 1.5,
            "relative_volume_error": -0.25,
        }
    )
    none = volume_scores(volume(np.zeros(SHAPE)), volume(prediction))
    assert none["relative_volume_error"].reason == "the reference is empty"


def test_overlap_and_volume_scores_are_simpleitks():
    sitk = pytest.importorskip("SimpleITK")
    rng = np.random.default_rng(0)
    reference, prediction = rng.random((2, *SHAPE)) > 0.6
    filter_ = sitk.LabelOverlapMeasuresImageFilter()
    filter_.Execute(*(sitk.GetImageFromArray(m.astype(np.uint8)) for m in (prediction, reference)))
    scores = score(volume(prediction), volume(reference)).scores
    assert scores["dice"].value == pytest.approx(filter_.GetDiceCoefficient())
    assert scores["iou"].value == pytest.approx(filter_.GetJaccardCoefficient())
    assert scores["sensitivity"].value == pytest.approx(1 - filter_.GetFalseNegativeError())
    ours = scores["volume_error_mm3"].value / (reference.sum() + prediction.sum()) * 2
    assert abs(ours) == pytest.approx(abs(filter_.GetVolumeSimilarity()))


def test_areas_under_curves_come_with_probabilities_alone():
    reference, prediction = block(1, 4), block(2, 5)
    probability = prediction.with_data(prediction.data * np.float32(0.9))
    bare = score(prediction, reference).scores
    full = score(prediction, reference, probability=probability).scores
    assert set(full) - set(bare) == {"roc_auc", "pr_auc"}
    assert {k: v for k, v in full.items() if k in bare} == bare
    negatives, positives = (
        probability.data[reference.data == 0],
        probability.data[reference.data > 0],
    )
    wins = [(p > n) + 0.5 * (p == n) for p in positives for n in negatives]
    assert full["roc_auc"].value == pytest.approx(np.mean(wins))


def test_a_domain_changes_voxel_scores_and_is_stated():
    reference, prediction = block(1, 4), block(2, 5)
    brain = reference.with_data(np.ones(SHAPE, bool))
    brain.data[:, :, 0] = False
    whole = score(prediction, reference)
    within = score(prediction, reference, domain=brain)
    assert (whole.domain, within.domain) == ("whole grid", "brain mask")
    assert within.scores["specificity"].value < whole.scores["specificity"].value
    assert within.scores["hd95_mm"] == whole.scores["hd95_mm"]
    stated = summarise([whole, within])["domain"]
    assert stated["voxels"] == "brain mask and whole grid"
    assert "near 1 for any model" in stated["note"]


@pytest.fixture
def study(tmp_path):
    """Four cases of two patients; the first two predictions have probabilities."""
    cases = []
    for i, patient in enumerate("aabb"):
        nifti.write(block(1, 4), tmp_path / f"{i}-seg.nii.gz")
        (tmp_path / "out" / str(i)).mkdir(parents=True)
        found = block(1 + i, 4 + i)
        nifti.write(found, tmp_path / "out" / str(i) / "mask.nii.gz")
        if i < 2:
            codes = found.with_data(found.data.astype(np.uint16) * 60000)
            nifti.write(codes, tmp_path / "out" / str(i) / "probability.nii.gz", slope=1 / 65535)
        reference = tmp_path / f"{i}-seg.nii.gz"
        cases.append(Case(str(i), reference, reference, row={"patient": patient}))
    return tmp_path, Cohort(tuple(cases))


def test_probabilities_are_read_where_they_are_and_their_absence_is_a_reason(study):
    folder, cohort = study
    results = evaluate(folder / "out", cohort)
    assert [r.patient_id for r in results] == list("aabb")
    assert results[0].scores["roc_auc"].value == 1
    described = write_scores(results, folder / "scores")["per_case"]["roc_auc"]
    assert (described["defined"], described["undefined"]) == (2, 2)
    assert described["reasons"] == {"no probabilities were given": 2}
    with (folder / "scores" / "cases.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["roc_auc"] == "1"
    assert rows[3]["roc_auc"] == ""
    assert "pr_auc: no probabilities were given" in rows[3]["undefined"]


def test_the_summary_has_intervals_by_patient(study):
    folder, cohort = study
    summary = write_scores(evaluate(folder / "out", cohort), folder / "scores")
    stored = json.loads((folder / "scores" / "summary.json").read_text(encoding="utf-8"))
    assert (stored["cases"], stored["patients"]) == (4, 2)
    dice = stored["per_case"]["dice"]
    assert dice["mean_interval"]["patients"] == 2
    assert dice["median_interval"]["method"] == "percentile"
    low, high = dice["median_interval"]["low"], dice["median_interval"]["high"]
    assert low <= dice["median"] <= high
    volumes = stored["per_case"]["reference_mm3"]["mean_interval"]
    assert (volumes["low"], volumes["reason"]) == (None, "equal in all resamples")
    assert summary["per_case"]["dice"]["mean"] == dice["mean"]


def test_what_is_no_probability_is_an_error_that_names_the_case(study):
    folder, cohort = study
    wrong = block(1, 4)
    nifti.write(
        wrong.with_data(wrong.data.astype(np.float32) * 2), folder / "out/1/probability.nii.gz"
    )
    with pytest.raises(InputError, match="case 1: probabilities between 0 and 2"):
        evaluate(folder / "out", cohort)


def test_voxels_count_within_the_brain_mask_if_asked(study):
    folder, cohort = study
    with pytest.raises(CohortError, match="case 0: no brain mask"):
        evaluate(folder / "out", cohort, within_brain=True)
    nifti.write(block(0, 6), folder / "brain.nii.gz")
    first = cohort.cases[1]
    masked = Case("1", first.image, first.mask, folder / "brain.nii.gz")
    (result,) = evaluate(folder / "out", Cohort((masked,)), within_brain=True)
    assert result.domain == "brain mask"
    assert result.scores["specificity"].value == pytest.approx(1 - 4 / 12)
