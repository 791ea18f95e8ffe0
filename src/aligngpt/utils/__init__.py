"""Files, folders, progress and text: what every package uses."""
