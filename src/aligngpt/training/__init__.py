"""Training: configurations, datasets and the two stages."""
