"""``python -m ruvattn`` is the command ``ruvattn``."""

from ruvattn.cli import main

if __name__ == "__main__":
    main()
