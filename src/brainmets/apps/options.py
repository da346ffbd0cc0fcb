"""What the commands' options may be, and how they are explained."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

OUT_HELP = "Folder to fill; made if absent."


class Device(StrEnum):
    """Where the network runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class EngineName(StrEnum):
    """What runs the network."""

    auto = "auto"
    torch = "torch"
    openvino = "openvino"


class Precision(StrEnum):
    """Arithmetic in the network."""

    auto = "auto"
    f32 = "f32"
    bf16 = "bf16"
    int8 = "int8"


class IdFrom(StrEnum):
    """What a DICOM case is called after; as :class:`brainmets.io.dicom_cases.IdFrom`."""

    hash = "hash"
    folder = "folder"
    patient_id = "patient-id"
    accession = "accession"


class Preset(StrEnum):
    """Size of the network."""

    light = "light"
    paper = "paper"


class BrainExtractor(StrEnum):
    """What finds the brain."""

    auto = "auto"
    builtin = "builtin"
    synthstrip = "synthstrip"
    none = "none"


class Inflation(StrEnum):
    """How flat kernels become solid."""

    mean = "mean"
    centre = "centre"


class Design(StrEnum):
    """Which brain extractor is trained."""

    builtin = "builtin"
    synthstrip = "synthstrip"


class LeftOut(StrEnum):
    """Of ``simulate --without``."""

    sinuses = "sinuses"
    vessels = "vessels"
    mass_effect = "mass-effect"


DeviceOption = Annotated[Device, typer.Option(help="auto takes a CUDA GPU where there is one.")]
EngineOption = Annotated[
    EngineName, typer.Option(help="auto: torch on a GPU, else openvino where it is installed.")
]
PrecisionOption = Annotated[
    Precision, typer.Option(help="auto: the fastest that the model and the CPU are good for.")
]
LargeTilesOption = Annotated[
    bool,
    typer.Option("--large-tiles", help="Fewer, larger tiles: faster, not quite as good."),
]
MemoryOption = Annotated[
    float | None,
    typer.Option("--max-memory", min=0.1, help="GB, half for the network; refused if too little."),
]
ArithmeticOption = Annotated[
    str, typer.Option("--precision", help="f32, or bf16: twice as fast where the processor has it.")
]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="Processor threads; all by default.")
]
TargetOption = Annotated[
    list[int] | None,
    typer.Option(help="Mask labels that are lesion; all above 0 by default, 1 and 3 of BraTS."),
]
OutOption = Annotated[Path, typer.Option("--out", "-o", help=OUT_HELP)]
SeriesOption = Annotated[
    str | None,
    typer.Option(help="DICOM series to read: its number, UID, or digits that inspect prints."),
]
IdOption = Annotated[
    IdFrom,
    typer.Option(
        help="What DICOM cases are called after. All but hash write identifiers into names of "
        "folders and into reports."
    ),
]
