"""Lesions of one scan by nnU-Net's predictor, from NIfTI to mask, in one process.

The plan is what nnU-Net v2 makes of T1c scans at 0.833 mm with patches of 128³: `3d_fullres`, a
plain U-Net of six stages, random weights. Its outline means nothing; its time is that of any
trained one. ``--network`` puts another network in its place, a TorchScript file that gives one
log odds, computed in bfloat16 and with tiles that overlap by ``--overlap``.

    python benchmarks/peers/predict_with_nnunet.py SCAN OUT [--mirror] [--network FILE]
"""

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

for place in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
    os.environ.setdefault(place, os.devnull)  # else it warns of each

import torch  # noqa: E402
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor  # noqa: E402
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans  # noqa: E402
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager  # noqa: E402

SPACING = [0.833] * 3
SIDE = 128
STAGES = 6
ARCHITECTURES = "dynamic_network_architectures.architectures"
RESAMPLING = "resample_data_or_seg_to_shape"
DATASET = {
    "channel_names": {"0": "T1c"},
    "labels": {"background": 0, "metastasis": 1},
    "file_ending": ".nii.gz",
    "numTraining": 1,
}


def _resampling(order: int, is_seg: bool) -> dict[str, Any]:
    return {"is_seg": is_seg, "order": order, "order_z": 0, "force_separate_z": None}


PLANS = {
    "dataset_name": "Dataset001_metastases",
    "plans_name": "nnUNetPlans",
    "original_median_spacing_after_transp": SPACING,
    "original_median_shape_after_transp": [240, 240, 186],
    "image_reader_writer": "SimpleITKIO",
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "experiment_planner_used": "ExperimentPlanner",
    "label_manager": "LabelManager",
    "foreground_intensity_properties_per_channel": {"0": {}},
    "configurations": {
        "3d_fullres": {
            "data_identifier": "nnUNetPlans_3d_fullres",
            "preprocessor_name": "DefaultPreprocessor",
            "batch_size": 2,
            "patch_size": [SIDE] * 3,
            "median_image_size_in_voxels": [240, 240, 186],
            "spacing": SPACING,
            "normalization_schemes": ["ZScoreNormalization"],
            "use_mask_for_norm": [True],
            "resampling_fn_data": RESAMPLING,
            "resampling_fn_data_kwargs": _resampling(3, False),
            "resampling_fn_seg": RESAMPLING,
            "resampling_fn_seg_kwargs": _resampling(1, True),
            "resampling_fn_probabilities": RESAMPLING,
            "resampling_fn_probabilities_kwargs": _resampling(1, False),
            "batch_dice": False,
            "architecture": {
                "network_class_name": f"{ARCHITECTURES}.unet.PlainConvUNet",
                "arch_kwargs": {
                    "n_stages": STAGES,
                    "features_per_stage": [min(32 * 2**stage, 320) for stage in range(STAGES)],
                    "conv_op": "torch.nn.modules.conv.Conv3d",
                    "kernel_sizes": [[3] * 3] * STAGES,
                    "strides": [[1] * 3] + [[2] * 3] * (STAGES - 1),
                    "n_conv_per_stage": [2] * STAGES,
                    "n_conv_per_stage_decoder": [2] * (STAGES - 1),
                    "conv_bias": True,
                    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                    "dropout_op": None,
                    "dropout_op_kwargs": None,
                    "nonlin": "torch.nn.LeakyReLU",
                    "nonlin_kwargs": {"inplace": True},
                },
                "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
            },
        }
    },
}


class Same(torch.nn.Module):
    """Another network under nnU-Net's roof."""

    def __init__(self, file: Path) -> None:
        """From a TorchScript file; the network gives log odds (1, 1, X, Y, Z)."""
        super().__init__()
        self.inner = torch.jit.load(file)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits of background and lesion."""
        with torch.autocast("cpu", torch.bfloat16):
            odds = self.inner(image).float()
        return torch.cat([-odds / 2, odds / 2], 1)


def main() -> None:
    """Predict one scan."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scan", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--mirror", action="store_true", help="as is nnU-Net's default")
    parser.add_argument("--network", type=Path)
    parser.add_argument("--overlap", type=float, default=0.5, help="of tiles; 0.5 is the default")
    given = parser.parse_args()

    torch.manual_seed(0)
    plans = PlansManager(PLANS)
    configuration = plans.get_configuration("3d_fullres")
    network = Same(given.network) if given.network else get_network_from_plans(
        configuration.network_arch_class_name, configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import, 1, 2, deep_supervision=False,
    )  # fmt: skip
    predictor = nnUNetPredictor(
        tile_step_size=1 - given.overlap, use_mirroring=given.mirror,
        perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False,
    )  # fmt: skip
    predictor.manual_initialization(
        network.eval(), plans, configuration, [network.state_dict()], DATASET, "nnUNetTrainer",
        (0, 1, 2),
    )  # fmt: skip
    given.out.mkdir(parents=True, exist_ok=True)
    channel = given.out / "scan_0000.nii.gz"
    shutil.copyfile(given.scan, channel)
    predictor.predict_from_files_sequential([[str(channel)]], [str(given.out / "mask")])
    channel.unlink()


if __name__ == "__main__":
    main()
