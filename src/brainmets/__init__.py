"""Find, outline and measure every brain metastasis in a contrast-enhanced T1 MRI.

Research software, not a medical device.

>>> import brainmets
>>> report = brainmets.analyse("scan.nii.gz")  # doctest: +SKIP
>>> len(report.lesions)  # doctest: +SKIP
2
"""

from importlib.metadata import version
from typing import Any

__version__ = version("brainmets")
__all__ = ["__version__", "analyse"]


def __getattr__(name: str) -> Any:
    """Import ``analyse`` on first use, so that ``import brainmets`` stays light."""
    if name == "analyse":
        from brainmets.pipeline import analyse

        return analyse
    raise AttributeError(f"module 'brainmets' has no attribute {name!r}")
