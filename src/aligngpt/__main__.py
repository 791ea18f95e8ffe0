"""`python -m aligngpt`."""

from aligngpt.cli import main

if __name__ == "__main__":
    main()
