"""Official AlignGPT checkpoints, converted in both directions."""
