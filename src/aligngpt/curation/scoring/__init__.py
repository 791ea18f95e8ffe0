"""Scoring of image-text pairs: scorers, batches, backends, score store."""
