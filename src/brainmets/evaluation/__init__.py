"""How good is a mask: voxel and lesion scores."""
