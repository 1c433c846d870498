"""`python -m clearline`: the same as the `clearline` command."""

from clearline.cli import main

if __name__ == "__main__":
    main()
