"""The model: configuration, alignment, projector, processor, checkpoints and their conversion."""
