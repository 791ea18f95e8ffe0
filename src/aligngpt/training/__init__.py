"""Training: what each stage trains, the recipes, the trainer and the stage-1 checkpoints."""
