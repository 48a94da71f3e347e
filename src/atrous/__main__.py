"""Run the command line by `python -m atrous`."""

from atrous.cli.main import main

if __name__ == "__main__":
    main()
