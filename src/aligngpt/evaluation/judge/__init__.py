"""A language model as judge of free-form answers."""
