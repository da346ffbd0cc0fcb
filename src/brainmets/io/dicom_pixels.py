"""Stored pixels of one file, unpacked frame by frame.

Each compression is unpacked by one stated package, so that the same file gives the same
numbers wherever brainmets is installed.
"""

from collections.abc import Iterator, Sequence
from io import BytesIO

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder

from brainmets.errors import ReadError, VolumeError
from brainmets.io.dicom_header import parse, silence, text, value, whole
from brainmets.io.lossless_jpeg import require_sound
from brainmets.volume import Array

NATIVE = {
    "1.2.840.10008.1.2": "Implicit VR Little Endian",
    "1.2.840.10008.1.2.1": "Explicit VR Little Endian",
    "1.2.840.10008.1.2.2": "Explicit VR Big Endian",
}
UNPACKERS = {
    "1.2.840.10008.1.2.4.50": "pillow",  # JPEG baseline, 8 bits, lossy
    "1.2.840.10008.1.2.4.51": "pillow",  # JPEG extended, of 8 bits alone
    "1.2.840.10008.1.2.4.57": "gdcm",  # JPEG lossless
    "1.2.840.10008.1.2.4.70": "gdcm",  # JPEG lossless, first-order prediction
    "1.2.840.10008.1.2.4.80": "pyjpegls",  # JPEG-LS lossless
    "1.2.840.10008.1.2.4.81": "pyjpegls",  # JPEG-LS near-lossless
    "1.2.840.10008.1.2.4.90": "pylibjpeg",  # JPEG 2000 lossless
    "1.2.840.10008.1.2.4.91": "pylibjpeg",  # JPEG 2000
    "1.2.840.10008.1.2.4.201": "pylibjpeg",  # HTJ2K lossless
    "1.2.840.10008.1.2.4.202": "pylibjpeg",
    "1.2.840.10008.1.2.4.203": "pylibjpeg",
    "1.2.840.10008.1.2.5": "pydicom",  # RLE
}
"""Transfer syntax → the decoding plugin of pydicom that unpacks it."""
LOSSLESS_JPEG = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
LOSSY = (
    "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.203",
)  # fmt: skip


class Pixels:
    """The pixel data of one file.

    Args:
        content: the whole file.

    Raises:
        ReadError: damaged, without pixel data, or compressed in a way that is not read.
        VolumeError: bits laid out as no scanner does.
    """

    def __init__(self, content: bytes) -> None:
        """Look at the layout; nothing is unpacked yet."""
        self._data = parse(BytesIO(content), pixels=True)
        meta = getattr(self._data, "file_meta", None)
        self._syntax = ("" if meta is None else text(meta, "TransferSyntaxUID")) or _guess(
            self._data
        )
        if self._syntax not in NATIVE and self._syntax not in UNPACKERS:
            raise ReadError(
                "its pixels are compressed in a way that is not read; export it uncompressed"
            )
        with silence():
            stored = value(self._data, "PixelData")
        if not stored:
            raise ReadError("the pixel data are missing or empty; export or copy it again")
        _require_plain_bits(self._data)

    @property
    def is_lossy(self) -> bool:
        """Whether the compression loses detail, by its transfer syntax."""
        return self._syntax in LOSSY

    @property
    def padding(self) -> tuple[int, int] | None:
        """Lowest and highest stored value that mean "outside" (0028,0120), if there are any."""
        first = self._stored("PixelPaddingValue")
        if first is None:
            return None
        last = self._stored("PixelPaddingRangeLimit")
        ends = sorted((first, first if last is None else last))
        return ends[0], ends[1]

    def _stored(self, keyword: str) -> int | None:
        """A tag that is signed if the pixels are, though its own encoding may not say so."""
        found = value(self._data, keyword)
        number = int.from_bytes(found, "little") if isinstance(found, bytes) else found
        if not isinstance(number, int):
            return None
        bits = whole(self._data, "BitsAllocated") or 16
        stored: int = number & (2**bits - 1)
        is_signed = whole(self._data, "PixelRepresentation") == 1
        return stored - 2**bits if is_signed and stored >= 2 ** (bits - 1) else stored

    def frames(self, indices: Sequence[int]) -> Iterator[Array]:
        """Stored values of the frames ``indices``, each of shape (rows, columns).

        Raises:
            ReadError: the pixel data end early, or cannot be unpacked.
        """
        try:
            with silence():
                self._require_sound(indices)
                decoder = get_decoder(self._syntax)
                pairs = decoder.iter_array(
                    self._data, indices=list(indices), raw=True, decoding_plugin=self._plugin()
                )
                frames = (np.asarray(frame) for frame, _ in pairs)
                for _ in indices:
                    yield next(frames)
        except Exception as error:  # decoders raise whatever their parts raise
            raise ReadError(
                f"the pixel data end early or are damaged ({type(error).__name__}); export or copy "
                "it again"
            ) from error

    def _require_sound(self, indices: Sequence[int]) -> None:
        """Look compressed frames over where their unpacker would not survive damage."""
        if self._syntax not in LOSSLESS_JPEG:
            return
        rows, columns = whole(self._data, "Rows") or 0, whole(self._data, "Columns") or 0
        count = whole(self._data, "NumberOfFrames") or 1
        for index in indices:
            frame = get_frame(self._data["PixelData"].value, index, number_of_frames=count)
            require_sound(frame, (rows, columns))

    def _plugin(self) -> str:
        return UNPACKERS.get(self._syntax, "")


def rescaled(frame: Array, rescale: tuple[float, float]) -> npt.NDArray[np.float32]:
    """Stored values × slope + intercept, as float32, computed in double precision."""
    slope, intercept = rescale
    if (slope, intercept) == (1.0, 0.0):
        return frame.astype(np.float32)
    with np.errstate(over="ignore"):  # infinite, and refused as such
        return (frame.astype(np.float64) * slope + intercept).astype(np.float32)


def _guess(tags: Dataset) -> str:
    """The transfer syntax of a file without meta group, as pydicom found it to be."""
    implicit, little = tags.original_encoding
    if not little:
        return "1.2.840.10008.1.2.2"
    return "1.2.840.10008.1.2" if implicit else "1.2.840.10008.1.2.1"


def _require_plain_bits(tags: Dataset) -> None:
    allocated, stored = whole(tags, "BitsAllocated"), whole(tags, "BitsStored")
    high = whole(tags, "HighBit")
    if allocated not in (8, 16, 32) or stored is None or not 0 < stored <= allocated:
        raise VolumeError(
            f"BitsAllocated and BitsStored (0028,0100–0101) of {allocated} and {stored}; expected "
            "8, 16 or 32, and no more stored than allocated. Export the series again"
        )
    if high not in (None, stored - 1):
        raise VolumeError("HighBit (0028,0102) is not the top one of BitsStored; export it anew")
