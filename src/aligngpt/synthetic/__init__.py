"""The synthetic dataset with ground truth, its backbones and mock benchmark files."""
