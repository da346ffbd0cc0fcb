"""The choices of a run, one small frozen dataclass per stage.

Every one is stored in the model bundle and in each report, and read back by
:func:`from_mapping`, to which an unknown key is an error.
"""

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from brainmets.errors import ConfigError


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True)
class Recipe:
    """The preprocessing contract: how a scan becomes the network's input.

    Attributes:
        spacing_mm: isotropic voxel size the network sees (Shi et al. 2025: 0.833).
        extractor_contract: what the brain mask holds; any extractor that keeps this
            contract may serve, and the one used goes into the report.
        brain_margin_mm: the mask is grown by this much, so that no lesion at the
            surface is cut away.
        clip_z: Z-scores are limited to ± this value (0: no limit).
    """

    spacing_mm: float = 0.833
    extractor_contract: str = "brain+csf v1"
    brain_margin_mm: float = 2.0
    clip_z: float = 10.0

    def __post_init__(self) -> None:
        """Check ranges."""
        _require(0.2 <= self.spacing_mm <= 5, f"spacing_mm is {self.spacing_mm}, not 0.2 to 5")
        _require(0 <= self.brain_margin_mm <= 10, "brain_margin_mm lies outside 0 to 10")
        _require(self.clip_z >= 0, f"clip_z is {self.clip_z}, expected 0 or more")


@dataclass(frozen=True)
class Architecture:
    """The network's shape: a 3D U-Net with a ResNet-34 encoder.

    Attributes:
        width: channels of the first stage; 64 is the paper's, 16 to 32 the light model.
        full_resolution_channels: channels of the extra full-resolution path for small
            lesions; 0 leaves it out, as in the paper.
        in_channels: images per case (1: T1c).
    """

    width: int = 64
    full_resolution_channels: int = 0
    in_channels: int = 1

    def __post_init__(self) -> None:
        """Check ranges."""
        _require(self.width >= 4 and self.width % 4 == 0, "width is not a multiple of 4")
        _require(self.full_resolution_channels >= 0, "full_resolution_channels is negative")
        _require(self.in_channels >= 1, "in_channels is below 1")


@dataclass(frozen=True)
class Tiling:
    """How a volume is cut for the network.

    Attributes:
        tile_vox: side of the cubic tile; a multiple of 32, the network's stride.
        overlap: smallest share of a tile that neighbours have in common, [0, 0.9].
    """

    tile_vox: int = 128
    overlap: float = 0.25

    def __post_init__(self) -> None:
        """Check ranges."""
        _require(
            self.tile_vox >= 32 and self.tile_vox % 32 == 0,
            f"tile_vox is {self.tile_vox}, expected a multiple of 32",
        )
        _require(0 <= self.overlap <= 0.9, f"overlap is {self.overlap}, expected 0 to 0.9")


@dataclass(frozen=True)
class DecisionRule:
    """How probabilities become lesions.

    A 26-connected component of voxels with probability ≥ ``low`` is a lesion if it
    holds a voxel ≥ ``high`` and its volume is ≥ ``smallest_mm3``.
    """

    low: float = 0.3
    high: float = 0.6
    smallest_mm3: float = 10.0

    def __post_init__(self) -> None:
        """Check ranges."""
        _require(0 < self.low <= self.high <= 1, f"0 < low ({self.low}) ≤ high ({self.high}) ≤ 1")
        _require(self.smallest_mm3 >= 0, f"smallest_mm3 is {self.smallest_mm3}, below 0")

    def told(self, temperature: float) -> "DecisionRule":
        """The same rule for probabilities whose log odds were divided by a temperature.

        Reports and ``probability.nii.gz`` hold such; the rule is for the network's own.
        """
        low, high = (1 / (1 + (1 / t - 1) ** (1 / temperature)) for t in (self.low, self.high))
        return dataclasses.replace(self, low=low, high=high)


LOSSES = ("dice+ce", "dice+hard", "dice+ce+cc", "dice+ce+blob", "focal-tversky+ce")
SCHEDULES = ("cosine", "polynomial")


@dataclass(frozen=True)
class Training:
    """How a network is trained.

    Attributes:
        steps: optimiser steps in all.
        batch: patches per step, each from a case of its own.
        patch_vox: side of the cubic patches; a multiple of 32 (the paper: 128).
        learning_rate: AdamW's peak, reached after ``warmup_steps``, then down by ``schedule``.
        warmup_steps: steps of linear warm-up.
        weight_decay: AdamW's.
        lesion_share: share of patches that are centred near a lesion, every lesion of a
            case being as likely as any other.
        deform_share: share of patches that are turned, scaled and, half of them, smoothly deformed.
        paste_share: share of patches into whose brain one to three simulated metastases are
            painted; for cohorts that are small or have few lesions.
        average: decay of the running mean of weights that becomes the model.
        validate_every: steps between looks at validation cases: the loss on patches, and the
            lesions found in whole cases.
        validation_cases: whole cases to look at, evenly from all of them; 0: none.
        keep: ``"best"``: the averaged weights that found most in whole validation cases (lesion
            F1) become the model; ``"last"``: those of the last step.
        checkpoint_every: steps between checkpoints.
        precision: arithmetic in the network: ``"bf16"``, ``"f32"``, or ``"auto"``: bf16 where
            the processor has units for it; without them it is many times slower than f32.
        seed: of weights and patches.
        loss: ``"dice+ce"``: soft Dice and cross-entropy; ``"dice+hard"``: soft Dice and the
            cross-entropy of the hardest hundredth of voxels; ``"dice+ce+cc"``: and Dice within the
            surroundings of each lesion, so that small ones count as large ones do;
            ``"dice+ce+blob"``: and Dice of each lesion with the others left out;
            ``"focal-tversky+ce"``: focal Tversky, which weighs misses more, and cross-entropy.
        pool: ``"batch"``: the loss is taken over all patches of a batch together; ``"patch"``: of
            each by itself, and averaged.
        deep_supervision: how many of the decoder's coarser stages answer too while the network
            learns, each with half the weight of the next finer one; 0 to 4.
        freeze_statistics: normalise with the statistics that the network started with, instead of
            those of each batch; for training on from a model with small batches.
        accumulate: batches whose gradients are averaged before a step, in the memory of one.
        schedule: ``"cosine"``: half a cosine; ``"polynomial"``: (1 − share of steps)^0.9, as
            nnU-Net has it; either ends at a hundredth of the peak.
        recompute: compute what lies between the blocks again for the gradient instead of keeping
            it: less memory, more time, the same weights.
    """

    steps: int = 2000
    batch: int = 2
    patch_vox: int = 96
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    weight_decay: float = 1e-2
    lesion_share: float = 0.67
    deform_share: float = 0.3
    paste_share: float = 0.0
    average: float = 0.995
    validate_every: int = 200
    validation_cases: int = 8
    keep: str = "best"
    checkpoint_every: int = 200
    precision: str = "auto"
    seed: int = 0
    loss: str = "dice+ce"
    pool: str = "batch"
    deep_supervision: int = 0
    freeze_statistics: bool = False
    accumulate: int = 1
    schedule: str = "cosine"
    recompute: bool = False

    def __post_init__(self) -> None:
        """Check ranges."""
        _require(self.steps >= 1 and self.batch >= 1, "steps and batch must be 1 or more")
        _require(
            self.patch_vox >= 32 and self.patch_vox % 32 == 0,
            f"patch_vox is {self.patch_vox}, expected a multiple of 32",
        )
        _require(
            self.batch * (self.patch_vox // 32) ** 3 > 1,
            "one patch of 32 leaves normalisation a single value; raise batch or patch_vox",
        )
        _require(self.learning_rate > 0, f"learning_rate is {self.learning_rate}, expected above 0")
        _require(0 <= self.lesion_share <= 1, "lesion_share lies outside 0 to 1")
        _require(0 <= self.deform_share <= 1, "deform_share lies outside 0 to 1")
        _require(0 <= self.paste_share <= 1, "paste_share lies outside 0 to 1")
        _require(0 <= self.average < 1, "average lies outside [0, 1)")
        _require(self.checkpoint_every >= 1, "checkpoint_every is below 1")
        _require(self.validate_every >= 1, "validate_every is below 1")
        _require(self.validation_cases >= 0, "validation_cases is negative")
        _require(self.keep in ("best", "last"), f"keep is {self.keep!r}, expected 'best' or 'last'")
        _require(self.accumulate >= 1, "accumulate is below 1")
        _require(
            0 <= self.deep_supervision <= 4,
            f"deep_supervision is {self.deep_supervision}, expected 0 to 4",
        )
        _require(
            self.pool in ("batch", "patch"), f"pool is {self.pool!r}, expected 'batch' or 'patch'"
        )
        _require(
            self.schedule in SCHEDULES,
            f"schedule is {self.schedule!r}, expected one of {', '.join(SCHEDULES)}",
        )
        _require(self.loss in LOSSES, f"loss is {self.loss!r}, expected one of {', '.join(LOSSES)}")
        _require(
            self.precision in ("auto", "bf16", "f32"),
            f"precision is {self.precision!r}, expected 'auto', 'bf16' or 'f32'",
        )


Configuration = TypeVar("Configuration")


def from_mapping(kind: type[Configuration], values: Mapping[str, Any]) -> Configuration:
    """Build a configuration from a mapping, as read from JSON.

    Raises:
        ConfigError: a key that ``kind`` does not have (the nearest known one is
            named), or a value of another type or outside its range.
    """
    hints = get_type_hints(kind)
    known = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise ConfigError(f"{kind.__name__} has no {key!r}; {hint}")
    return kind(**{key: _convert(kind, key, hints[key], value) for key, value in values.items()})


def _convert(kind: type, key: str, hint: Any, value: Any) -> Any:
    """``value`` as ``hint`` says; JSON turns tuples into lists and 1.0 into 1."""
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{kind.__name__}.{key} is {value!r}, expected a list")
        return tuple(_convert(kind, key, get_args(hint)[0], item) for item in value)
    if get_origin(hint) is None and (
        not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool)
    ):
        raise ConfigError(
            f"{kind.__name__}.{key} is {value!r}, expected a value of type {hint.__name__}"
        )
    return value


def to_mapping(configuration: Any) -> dict[str, Any]:
    """The inverse of :func:`from_mapping`: plain values, ready for JSON."""
    return dict(dataclasses.asdict(configuration))
