"""Shared fixtures."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples in every run, however slow the machine: a red check means a change.
settings.register_profile("brainmets", deadline=None, derandomize=True)
settings.load_profile("brainmets")


@pytest.fixture(autouse=True, scope="session")
def _compiled_models_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests leave nothing in the user's cache of compiled models."""
    from brainmets.network import openvino_engine

    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openvino_engine, "cache_folder", lambda: folder)
        yield


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
