"""Constants that the data on disk and the model share."""

from __future__ import annotations

IMAGE_TOKEN = "<image>"
ALIGN_TOKEN = "<align>"

# Unicode noncharacters that mark spans in rendered templates: start and end of an instruction, start and end of an
# answer, and literal text that spells a special token. Input text must not contain them.
RESERVED_CHARACTERS = "\ufdd0\ufdd1\ufdd2\ufdd3\ufdd4"

MIN_LEVELS, DEFAULT_LEVELS, MAX_LEVELS = 2, 8, 64
