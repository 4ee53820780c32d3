"""The same command as `nextbar train lstm`."""

import sys

from nextbar.cli.main import main

if __name__ == "__main__":
    main(["train", "lstm", *sys.argv[1:]])
