"""What `python -m minibert` runs."""

import sys

from minibert.command import command

if __name__ == "__main__":
    sys.exit(command())
