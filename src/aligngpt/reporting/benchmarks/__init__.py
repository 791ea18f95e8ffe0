"""The benchmark report and the comparison of two models."""
