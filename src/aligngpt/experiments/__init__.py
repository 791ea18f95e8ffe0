"""End-to-end pipelines: the demo and its summary."""
