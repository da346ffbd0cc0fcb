"""Looks a lossless JPEG frame over before its unpacker sees it.

gdcm's unpacker trusts the headers of a frame and can end the whole process on damaged ones.
What passes here has every number it relies on within bounds (ITU-T T.81, annexes B and H).
"""

import re
from collections.abc import Iterator

START, END = b"\xff\xd8", b"\xff\xd9"
SOF3, DHT, SOS, DRI, COM = 0xC3, 0xC4, 0xDA, 0xDD, 0xFE
OTHER_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7]")
"""What ends the entropy-coded data: anything but a stuffed byte or a restart marker."""


def require_sound(frame: bytes, size: tuple[int, int]) -> None:
    """Refuse a damaged frame.

    Args:
        frame: one frame of one grey component.
        size: rows and columns that the DICOM header announces.

    Raises:
        ValueError: it is cut short, or its headers are damaged or of another kind of JPEG.
    """
    whole = frame.rstrip(b"\0")
    if not whole.startswith(START) or not whole.endswith(END):
        raise ValueError("no whole JPEG frame")
    component: int | None = None
    tables: set[int] = set()
    for marker, body, after in _segments(whole):
        if marker == SOF3 and component is None:
            component = _component(body, size)
        elif marker == DHT:
            tables |= _tables(body)
        elif marker == SOS and component is not None:
            _require_scan(body, component, tables)
            ending = OTHER_MARKER.search(whole, after)
            if ending is None or ending.end() != len(whole):
                raise ValueError("a marker inside the coded data")
            return
        elif not (marker in (DRI, COM) or 0xE0 <= marker <= 0xEF):
            raise ValueError("not a lossless JPEG frame")
    raise ValueError("no coded data")


def _segments(frame: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Each marker, its segment's content, and where it ends."""
    at = len(START)
    while at + 4 <= len(frame):
        length = int.from_bytes(frame[at + 2 : at + 4], "big")
        after = at + 2 + length
        if frame[at] != 0xFF or length < 2 or after > len(frame):
            raise ValueError("a damaged segment")
        yield frame[at + 1], frame[at + 4 : after], after
        at = after


def _component(body: bytes, size: tuple[int, int]) -> int:
    """The identifier of the only component, if the frame header fits."""
    if len(body) != 9 or not 2 <= body[0] <= 16 or body[5] != 1 or body[7] != 0x11:
        raise ValueError("a damaged frame header")
    if (int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")) != size:
        raise ValueError("a frame of another size than the header says")
    return body[6]


def _tables(body: bytes) -> set[int]:
    """The numbers of the Huffman tables defined, each a possible code."""
    found = set()
    while body:
        number, counts = body[0], body[1:17]
        total = sum(counts)
        values = body[17 : 17 + total]
        space = sum(count << (16 - length) for length, count in enumerate(counts, start=1))
        fits = number <= 3 and len(counts) == 16 and len(values) == total and space <= 1 << 16
        if not fits or not total or max(values) > 16:
            raise ValueError("a damaged Huffman table")
        found.add(number)
        body = body[17 + total :]
    return found


def _require_scan(body: bytes, component: int, tables: set[int]) -> None:
    fits = len(body) == 6 and body[0] == 1 and body[1] == component
    if not fits or body[2] & 0x0F or body[2] >> 4 not in tables:
        raise ValueError("a damaged scan header")
    if not 1 <= body[3] <= 7 or body[4] or body[5]:
        raise ValueError("a scan of another kind")
