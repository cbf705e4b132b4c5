"""`python -m manyview.cli` is `manyview`."""

from manyview.cli import main

if __name__ == "__main__":
    main()
