"""Decisions about image-text pairs: scores, levels, duplicates, filters."""
