"""The same command as `nextbar train xgb`."""

import sys

from nextbar.cli.main import main

if __name__ == "__main__":
    main(["train", "xgb", *sys.argv[1:]])
