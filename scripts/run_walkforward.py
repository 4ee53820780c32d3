"""The same command as `nextbar walkforward`."""

import sys

from nextbar.cli.main import main

if __name__ == "__main__":
    main(["walkforward", *sys.argv[1:]])
