"""The training report: one page beside the model."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import brainmets
from brainmets.cohort import Cohort
from brainmets.config import to_mapping
from brainmets.io.storage import whole_file
from brainmets.network.bundle import Bundle
from brainmets.training.split import patient_of
from brainmets.training.store import PreparedCase

if TYPE_CHECKING:
    from brainmets.evaluation.pictures import WorstCase
    from brainmets.evaluation.training_page import History


def write_report(
    bundle: Bundle,
    cohorts: Mapping[str, Cohort],
    prepared: Mapping[str, Sequence[PreparedCase]],
    log: Path,
    path: Path,
    *,
    target_labels: Sequence[int] | None = None,
    pictures: "Sequence[WorstCase]" = (),
) -> None:
    """Write how a model learnt, from whom, and how well it does.

    A machine that only trains need not have what draws: there no page is written.

    Args:
        bundle: the model.
        cohorts: its cases by their part: training, validation, test.
        prepared: the same cases in the store, of the parts that were prepared.
        log: rate and loss of every step, as the loop writes them.
        path: the page.
        target_labels: labels of the reference masks that are lesion; None: all above 0.
        pictures: of validation cases.

    Raises:
        WriteError: the place cannot be written to.
    """
    try:
        from brainmets.evaluation.training_page import Side, render

        sides = [
            Side(
                name, tuple(case.case_id for case in cohort), len(set(map(patient_of, cohort))),
                tuple(len(case.lesions) for case in prepared.get(name, ())),
            )
            for name, cohort in cohorts.items()
        ]  # fmt: skip
        card = bundle.card
        settings = {
            "training": card["training"],
            "architecture": to_mapping(bundle.architecture),
            "recipe": to_mapping(bundle.recipe),
            "tiling": to_mapping(bundle.tiling),
            "decision_rule": to_mapping(bundle.rule),
            "lesion": {"labels of the reference masks": list(target_labels or ()) or "all above 0"},
            **{key: card[key] for key in ("started_from", "encoder_from") if key in card},
            "model": {"weights SHA-256": bundle.sha256, "brainmets": brainmets.__version__},
        }
        page = render(bundle.name, card, settings, sides, _history(log), pictures)
    except ImportError:
        return
    with whole_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _history(log: Path) -> "History":
    """What the loop wrote of every step."""
    from brainmets.evaluation.training_page import History

    with log.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return History(
        tuple(float(row["loss"]) for row in rows if row["loss"]),
        tuple(float(row["learning_rate"]) for row in rows if row["loss"]),
        {int(r["step"]): float(r["validation_loss"]) for r in rows if r["validation_loss"]},
        {int(r["step"]): float(r["lesion_f1"]) for r in rows if r["lesion_f1"]},
    )
