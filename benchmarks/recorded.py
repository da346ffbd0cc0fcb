"""Recorded results as Markdown: tables, and where each was measured."""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def load(name: str) -> dict[str, Any]:
    """What a benchmark wrote."""
    loaded: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return loaded


def table(header: list[str], rows: list[list[Any]]) -> str:
    """A table; what is None becomes a dash."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join("–" if c is None else str(c) for c in r) + " |" for r in lines
    )


def where(result: dict[str, Any]) -> str:
    """The command, the commit and the machine."""
    machine = result["machine"]
    return (
        f"`{result['command']}` at commit {result['commit']}, on {machine['cores']} cores of "
        f"{machine['processor']}{instructions(machine)} with {machine['memory_gib']} GiB."
    )


def instructions(machine: dict[str, Any]) -> str:
    """The widest vector instructions, in brackets, where they were noted."""
    return f" ({machine['instructions']})" if "instructions" in machine else ""


def spread(score: dict[str, Any]) -> str:
    """A value with its 95 % interval, if there is one."""
    if score["value"] is None:
        return "–"
    value = f"{score['value']:.2f}"
    return value if score["low"] is None else f"{value} ({score['low']:.2f}–{score['high']:.2f})"


def between(bounds: dict[str, float]) -> str:
    """A value with its 95 % interval, in words, for values that may be negative."""
    return f"{bounds['value']:.2f} ({bounds['low']:.2f} to {bounds['high']:.2f})"
