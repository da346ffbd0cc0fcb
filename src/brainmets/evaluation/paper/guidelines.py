"""What reporting guidelines ask for: items by number, topics in words."""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class Checklist:
    """One guideline.

    Attributes:
        name: of the guideline.
        source: where it was published.
        items: number and topic, in its order.
    """

    name: str
    source: str
    items: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Guidelines:
    """All of them.

    Attributes:
        checklists: in the order of the report.
        topics: what each topic asks for, by key.
    """

    checklists: tuple[Checklist, ...]
    topics: dict[str, str]


@cache
def guidelines() -> Guidelines:
    """CLAIM 2024, TRIPOD+AI and STARD-AI."""
    text = files(__package__).joinpath("checklists.toml").read_text(encoding="utf-8")
    stored = tomllib.loads(text)
    lists = (
        Checklist(one["name"], one["source"], tuple((n, t) for n, t in one["items"]))
        for one in stored["checklist"]
    )
    return Guidelines(tuple(lists), stored["topics"])
