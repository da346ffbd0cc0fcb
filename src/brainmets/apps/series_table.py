"""The series of a study as rows of a table."""

from brainmets.errors import VolumeError
from brainmets.io.dicom import Study, refusal
from brainmets.io.dicom_choice import Series, choose, description_of
from brainmets.io.dicom_header import silence

CHOSEN, POSSIBLE, LEFT_OUT = "read", "possible", "not read"


def rows_of(
    study: Study, *, descriptions: bool = False
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows: number, digits, images, verdict, reasons, and descriptions if wanted."""
    try:
        chosen: Series | None = choose(study.series)[0]
    except VolumeError:
        chosen = None
    fault = "" if chosen is None else refusal(study, chosen)
    header = ("series", "digits", "images", "verdict", "why")
    rows = [
        (
            "" if one.number is None else str(one.number),
            one.key,
            str(one.images),
            _verdict(one, chosen, fault),
            ", ".join(one.verdict.reasons),
            *((_description(one),) if descriptions else ()),
        )
        for one in study.series
    ]
    return (*header, *(("description",) if descriptions else ())), rows


def _description(one: Series) -> str:
    with silence():
        return description_of(one.headers[0])


def _verdict(one: Series, chosen: Series | None, fault: str) -> str:
    if one is chosen:
        return f"refused: {fault}" if fault else CHOSEN
    return POSSIBLE if one.verdict.usable else LEFT_OUT
