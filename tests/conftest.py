"""Shared fixtures."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples in every run, however slow the machine: a red check means a change.
settings.register_profile("brainmets", deadline=None, derandomize=True)
settings.load_profile("brainmets")


def _absent(reason: str) -> None:
    if os.environ.get("BRAINMETS_REQUIRE"):
        pytest.fail(f"{reason}, and BRAINMETS_REQUIRE forbids skipping")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real scans named by BRAINMETS_DATA."""
    folder = os.environ.get("BRAINMETS_DATA")
    if not folder or not Path(folder).is_dir():
        _absent("BRAINMETS_DATA names no folder of real scans")
    return Path(folder)
