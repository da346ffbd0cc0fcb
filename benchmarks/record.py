"""Writes a benchmark's result: what was run, on which commit and machine, and what came out."""

import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def write(name: str, value: Any) -> Path:
    """Write ``results/NAME.json`` and return its path."""
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    result = {**made(), "value": value}
    path.write_text(json.dumps(result, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    return path


def made() -> dict[str, Any]:
    """The command that runs, on which commit and machine."""
    return {
        "command": shlex.join(["python", *map(_relative, sys.argv)]),
        "commit": commit(),
        "machine": _machine(),
    }


def _relative(word: str) -> str:
    root = str(Path(__file__).parents[1]) + os.sep
    inside = word.removeprefix(root)
    return "PATH" if Path(inside).is_absolute() else inside


def commit() -> str:
    """Dirty if anything but results differs from the commit."""
    root = Path(__file__).parents[1]

    def git(*words: str) -> str:
        command = ["git", *words]
        return subprocess.run(
            command, cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()

    changed = git("status", "--porcelain", "-uno", "--", ".", ":!benchmarks/results")
    return git("describe", "--always", "--exclude=*") + ("-dirty" if changed else "")


def _machine() -> dict[str, Any]:
    return {
        "processor": _processor(),
        "instructions": _instructions(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "python": platform.python_version(),
    }


def _instructions() -> str:
    """The widest vector instructions that networks can use."""
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().split()) if info.is_file() else set()
    names = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 with bfloat16", "avx512f": "AVX-512",
             "avx2": "AVX2"}  # fmt: skip
    return next((name for flag, name in names.items() if flag in flags), "unknown")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
