"""From files of image-text pairs to scores, alignment levels and batches."""
