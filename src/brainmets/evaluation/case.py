"""All scores of one case."""

from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from brainmets.config import DecisionRule
from brainmets.errors import ConfigError, VolumeError
from brainmets.evaluation.brats_mets import (
    REGIONS,
    Rules2023,
    Rules2025,
    region,
    scores_2023,
    scores_2025,
)
from brainmets.evaluation.curves import curve_scores
from brainmets.evaluation.froc import ScanCandidates, candidates_of
from brainmets.evaluation.lesionwise import Match, Overlap, lesion_scores
from brainmets.evaluation.matching import (
    AnyOverlap,
    Findings,
    OneToOne,
    Rule,
    look_at,
    merges_and_splits,
    pair_up,
    panoptic_scores,
)
from brainmets.evaluation.scores import Score, undefined
from brainmets.evaluation.surface import TOLERANCES_MM, surface_scores
from brainmets.evaluation.voxel import (
    agreement_scores,
    count,
    target,
    volume_scores,
    voxel_scores,
)
from brainmets.lesions import Box, bounding_box, components
from brainmets.volume import Grid, Volume, require_same_grid

WHOLE_GRID = "whole grid"
BRAIN_MASK = "brain mask"
TARGET = "target"
"""What ``target_labels`` say, scored as a region of BraTS-METS."""

BRATS_REGIONS = (TARGET, *REGIONS)
NO_PROBABILITIES = "no probabilities were given"


def require_labels(labels: Collection[int] | None, what: str) -> None:
    """Refuse labels that no mask marks anything with.

    Raises:
        ConfigError: a label of 0, the background, or below.
    """
    if labels is not None and min(labels, default=1) < 1:
        raise ConfigError(
            f"{what} labels {tuple(labels)}; expected whole numbers above 0 (0 is the background)"
        )


@dataclass(frozen=True)
class Scoring:
    """Which scores, by which rules.

    Attributes:
        rule: when two lesions are the same.
        nsd_mm: tolerances of the normalised surface Dice.
        brats: regions to score as BraTS-METS does, of :data:`BRATS_REGIONS`.
        rules_2023: parameters of those scores.
        rules_2025: parameters of the newer ones.
        predicted_labels: labels of the prediction that count as found; None: all above 0.

    Raises:
        ConfigError: no such region, a tolerance below 0 or twice, or a label below 1.
    """

    rule: Rule = field(default_factory=AnyOverlap)
    nsd_mm: tuple[float, ...] = TOLERANCES_MM
    brats: tuple[str, ...] = ()
    rules_2023: Rules2023 = field(default_factory=Rules2023)
    rules_2025: Rules2025 = field(default_factory=Rules2025)
    predicted_labels: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Check regions and tolerances."""
        for name in self.brats:
            if name not in BRATS_REGIONS:
                raise ConfigError(f"region {name!r}; expected one of {', '.join(BRATS_REGIONS)}")
        if not all(0 <= mm < float("inf") for mm in self.nsd_mm):
            raise ConfigError(f"NSD tolerances {self.nsd_mm} mm; expected numbers of 0 or more")
        if len({f"{mm:g}" for mm in self.nsd_mm}) < len(self.nsd_mm):
            raise ConfigError(
                f"NSD tolerances {self.nsd_mm} mm: two would have one name; leave one out"
            )
        require_labels(self.predicted_labels, "predicted")


@dataclass(frozen=True)
class CaseScores:
    """What came out for one case.

    Attributes:
        case_id: which one.
        scores: by name, in the order of the tables.
        lesions: every lesion of both sides, matched.
        patient_id: whose case it is; None: a patient of its own.
        domain: where voxels count, in words.
        overlaps: every pair of lesions that share a voxel, whatever the rule.
        pairs: the one-to-one pairing with the largest summed Dice.
        brats: scores as BraTS-METS counts, by region and name.
        candidates: for the free-response curve; None without probabilities.
        candidate_rule: what made them.
        covariates: columns of the cohort's table to be kept with the scores.
        target_found: which of the target labels the reference holds, if any were named.
    """

    case_id: str
    scores: Mapping[str, Score]
    lesions: Match
    patient_id: str | None = None
    domain: str = WHOLE_GRID
    overlaps: tuple[Overlap, ...] = ()
    pairs: tuple[Overlap, ...] = ()
    brats: Mapping[str, Mapping[str, Score]] = field(default_factory=dict)
    candidates: ScanCandidates | None = None
    candidate_rule: DecisionRule | None = None
    covariates: Mapping[str, str] = field(default_factory=dict)
    target_found: tuple[int, ...] = ()

    def score_of(self, name: str) -> Score:
        """A score by name, undefined if this case lacks what it takes."""
        return self.scores.get(name, undefined(NO_PROBABILITIES))


def score_names(cases: Iterable[CaseScores]) -> tuple[str, ...]:
    """Every score that at least one case has, in the order of the tables."""
    fullest = max((case.scores for case in cases), key=len, default={})
    return tuple(fullest)


def score(
    prediction: Volume,
    reference: Volume,
    *,
    case_id: str = "",
    target_labels: Collection[int] | None = None,
    domain: Volume | None = None,
    probability: Volume | None = None,
    candidate_rule: DecisionRule | None = None,
    scoring: Scoring | None = None,
) -> CaseScores:
    """Score one predicted mask against its reference.

    Both are taken as masks: lesions are the 26-connected components, whatever labels
    the files give them.

    Args:
        prediction: > 0 is inside.
        reference: label image; ``target_labels`` are inside.
        case_id: kept with the scores.
        target_labels: see :func:`brainmets.evaluation.voxel.target`.
        domain: mask of the brain, to count voxels there alone, see
            :func:`brainmets.evaluation.voxel.count`; without it the whole grid. Surfaces,
            volumes and lesions are those of the whole grid in any case.
        probability: of each voxel, for ROC AUC, PR AUC and the candidates of the
            free-response curve; without it they are left out.
        candidate_rule: of the model that made the probabilities, see
            :func:`brainmets.evaluation.froc.candidates_of`; None: the usual one.
        scoring: which scores by which rules; None: the usual ones.

    Raises:
        GridMismatchError: the images do not lie on the same voxels.
        VolumeError: probabilities outside 0 to 1, or NaN; or labels that are not those of
            BraTS where its regions are asked for.
    """
    require_same_grid(reference.grid, prediction.grid, "reference and prediction")
    scoring = scoring or Scoring()
    truth, found = target(reference, target_labels), target(prediction, scoring.predicted_labels)
    lesions = components(truth)
    findings = look_at(lesions, components(found))
    curves, candidates = {}, None
    if probability is not None:
        curves = curve_scores(truth, probability, domain=domain)
        candidate_rule = candidate_rule or DecisionRule()
        candidates = candidates_of(lesions, probability, candidate_rule)
    pairing = pair_up(findings, scoring.rule)
    counts = count(truth, found, domain=domain)
    within = "" if domain is None else "within the domain"
    return CaseScores(
        case_id,
        {
            **voxel_scores(counts, within=within),
            **agreement_scores(counts, within=within),
            **curves,
            **surface_scores(truth, found, tolerances_mm=scoring.nsd_mm),
            **lesion_scores(pairing.match),
            **_structure_scores(findings),
            **volume_scores(truth, found),
        },
        pairing.match,
        domain=WHOLE_GRID if domain is None else BRAIN_MASK,
        overlaps=findings.overlaps,
        pairs=pair_up(findings, OneToOne()).pairs,
        brats=_brats_scores(scoring, (reference, prediction), (truth, found)),
        candidates=candidates,
        candidate_rule=None if probability is None else candidate_rule,
        target_found=tuple(n for n in target_labels or () if np.equal(reference.data, n).any()),
    )  # fmt: skip


def _structure_scores(findings: Findings) -> dict[str, Score]:
    """Merged and split lesions, and panoptic quality, which needs pairs of one and one."""
    shared = merges_and_splits(findings.overlaps)
    return {
        "merging_predictions": Score(float(len(shared.merged))),
        "split_lesions": Score(float(len(shared.split))),
        **{
            f"one_to_one_{name}": value
            for name, value in panoptic_scores(pair_up(findings, OneToOne())).items()
        },
    }


def _brats_scores(
    scoring: Scoring, labels: tuple[Volume, Volume], targets: tuple[Volume, Volume]
) -> dict[str, dict[str, Score]]:
    """Each region by both rule sets.

    Args:
        scoring: names the regions.
        labels: reference and prediction as they were given.
        targets: what counts of both, as masks.
    """
    if scoring.brats:  # most of a head holds no label; no score depends on what lies beyond
        box = _box(*labels, margin_vox=scoring.rules_2023.dilations)
        labels, targets = _cut(labels, box), _cut(targets, box)
    pairs = [targets if name == TARGET else _region(name, *labels) for name in scoring.brats]
    with ThreadPoolExecutor(2) as pool:  # most of the time is spent in compiled code
        old = [pool.submit(scores_2023, *pair, scoring.rules_2023) for pair in pairs]
        new = [pool.submit(scores_2025, *pair, scoring.rules_2025) for pair in pairs]
    return {
        name: {
            **{f"mets2023_{key}": value for key, value in old[i].result().items()},
            **{f"mets2025_{key}": value for key, value in new[i].result().items()},
        }
        for i, name in enumerate(scoring.brats)
    }


def _box(reference: Volume, prediction: Volume, *, margin_vox: int) -> Box:
    """The part of the grid that holds all labels, and a margin as far as the grid goes."""
    x, y, z = bounding_box(np.greater(reference.data, 0) | np.greater(prediction.data, 0))
    if not x.stop:
        return slice(0, 1), slice(0, 1), slice(0, 1)
    sides = (slice(max(s.start - margin_vox, 0), s.stop + margin_vox) for s in (x, y, z))
    return next(sides), next(sides), next(sides)


def _cut(pair: tuple[Volume, Volume], box: Box) -> tuple[Volume, Volume]:
    """Both images within the box; their place in the patient is lost."""
    one, other = (np.ascontiguousarray(volume.data[box]) for volume in pair)
    grid = Grid((one.shape[0], one.shape[1], one.shape[2]), pair[0].grid.affine)
    return Volume(one, grid), Volume(other, grid)


def _region(name: str, reference: Volume, prediction: Volume) -> tuple[Volume, Volume]:
    for what, mask in (("reference", reference), ("prediction", prediction)):
        _require_brats_labels(what, mask)
    return region(reference, name), region(prediction, name)


def _require_brats_labels(what: str, mask: Volume) -> None:
    highest = int(mask.data.max(initial=0))
    if highest > 4:
        raise VolumeError(
            f"the {what} has labels up to {highest}; the regions {', '.join(REGIONS)} need "
            f"those of BraTS, 0 to 4. Score the region {TARGET!r} instead"
        )
