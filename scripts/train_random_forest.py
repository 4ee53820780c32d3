"""The same command as `nextbar train rf`."""

import sys

from nextbar.cli.main import main

if __name__ == "__main__":
    main(["train", "rf", *sys.argv[1:]])
