"""`python -m nextbar` is the `nextbar` command."""

from nextbar.cli.main import main

if __name__ == "__main__":
    main()
