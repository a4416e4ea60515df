"""`python -m torchtune.cli` is `tune`."""

from torchtune.cli import main

if __name__ == "__main__":
    main()
