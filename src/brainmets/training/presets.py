"""Named recipes of training: a network's shape, settings, and where they come from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from brainmets.config import Architecture


@dataclass(frozen=True)
class Preset:
    """A recipe.

    Attributes:
        architecture: shape of the network.
        options: values of :class:`brainmets.config.Training` other than the defaults.
        stated: what is taken from a publication: subject → choice.
        chosen: what it does not settle, and what is done here: subject → choice.
        source: the publication.
        start: model whose weights training begins with unless told otherwise; None: random ones.
    """

    architecture: Architecture
    options: Mapping[str, Any] = field(default_factory=dict)
    stated: Mapping[str, str] = field(default_factory=dict)
    chosen: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    start: str | None = None


TRAINING_ON = {"learning_rate": 3e-4}
"""Options other than the defaults where training begins with a model's weights."""


PRESETS = {
    "light": Preset(Architecture(width=16, full_resolution_channels=8), start="starter"),
    "paper": Preset(
        Architecture(width=64),
        {"patch_vox": 128},
        source="Shi et al. 2025, Front Oncol 15:1657604; their code and weights are not public",
        stated={
            "voxels": "0.833 mm, isotropic",
            "brain": "SynthStrip (here the built-in extractor, until SynthStrip's weights are put "
            "in place: --brain-extractor in predict, a column brain_mask in training)",
            "intensities": "Z-scores",
            "network": "3D U-Net with a ResNet-34 encoder",
            "patches": "128³ voxels",
            "encoder's start": "ImageNet weights (--encoder imagenet; random without it)",
            "split": "systematic sampling (cohort split --sizes 379,91)",
        },
        chosen={
            "from two axes to three": "each kernel repeated and divided by its size (--inflate)",
            "decoder": "nearest upsampling, two convolutions a stage, 256-128-64-32-16 channels",
            "Z-scores": "of brain and CSF, cut off at ± 10",
            "loss": "soft Dice and cross-entropy, lesions weighed by size (--loss)",
            "optimiser": "AdamW, peak 0.001, warm-up of 100 steps, half a cosine",
            "batch and length": "2 patches, 2,000 steps (--batch, --steps)",
            "sampling": "two patches of three near a lesion, every lesion alike",
            "augmentation": "see the reference, configuration",
            "from probability to lesion": "hysteresis, thresholds chosen on validation cases",
        },
    ),
}
