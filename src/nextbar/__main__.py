"""`python -m nextbar` is the `nextbar` command."""

from nextbar.search_path import drop_working_folder

if __name__ == "__main__":
    drop_working_folder()
    from nextbar.cli.main import main

    main()
