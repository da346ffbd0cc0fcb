"""The series of a study as rows of a table."""

from brainmets.errors import VolumeError
from brainmets.io.dicom import Study
from brainmets.io.dicom_choice import Series, choose, description_of

CHOSEN, POSSIBLE, LEFT_OUT = "read", "possible", "not read"


def rows_of(
    study: Study, *, descriptions: bool = False
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows: number, digits, images, verdict, reasons, and descriptions if wanted."""
    try:
        chosen: Series | None = choose(study.series)[0]
    except VolumeError:
        chosen = None
    header = ("series", "digits", "images", "verdict", "why")
    rows = [
        (
            "" if one.number is None else str(one.number),
            one.key,
            str(one.images),
            _verdict(one, chosen),
            ", ".join(one.verdict.reasons),
            *((description_of(one.headers[0]),) if descriptions else ()),
        )
        for one in study.series
    ]
    return (*header, *(("description",) if descriptions else ())), rows


def _verdict(one: Series, chosen: Series | None) -> str:
    if one is chosen:
        return CHOSEN
    return POSSIBLE if one.verdict.usable else LEFT_OUT
