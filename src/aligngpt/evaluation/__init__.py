"""Evaluation: answering benchmarks in batches, and the measures with their intervals."""
