"""A simulated patient from the embedded head, through the whole line, against the truth."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from brainmets.batch import Watch, predict_cases
from brainmets.cohort import Case, Cohort
from brainmets.errors import RunError
from brainmets.evaluation.evaluate import evaluate
from brainmets.evaluation.summary import Table, summarise, tables
from brainmets.io import nifti
from brainmets.io.storage import require_own, whole_folder
from brainmets.pipeline import load_model
from brainmets.simulate.anatomy import embedded_head
from brainmets.simulate.examination import simulate

SEED = 20
LESIONS = 6
NAME = "simulated-patient"
FILES = ("t1c.nii.gz", "mask.nii.gz")


@dataclass(frozen=True)
class Demonstration:
    """Where the report is, and how it compares with what was simulated."""

    report: Path
    tables: tuple[Table, ...]


def run_demo(out: Path, model: str, *, watch: Watch | None = None) -> Demonstration:
    """Simulate a patient, run the line, score the result.

    Raises:
        RunError: the case failed; the message says why.
        BundleError: no such model.
        WriteError: ``out`` cannot be written to.
    """
    loaded = load_model(model)
    case = _patient(out / "patient")
    outcome = predict_cases([case], out, loaded, watch=watch)[0]
    if outcome.exit_code:
        raise RunError(outcome.message)
    scores = evaluate(out, Cohort((case,)))
    return Demonstration(out / NAME / "report.html", tables(summarise(scores)))


def _patient(folder: Path) -> Case:
    require_own(folder, FILES)
    examination = simulate(embedded_head(), np.random.default_rng(SEED), lesions=LESIONS)
    with whole_folder(folder) as temporary:
        nifti.write(examination.scan, temporary / FILES[0])
        nifti.write(examination.mask, temporary / FILES[1])
    return Case(NAME, folder / FILES[0], folder / FILES[1])
