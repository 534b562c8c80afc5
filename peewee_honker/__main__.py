"""`python -m peewee_honker` is the `peewee-honker` command."""

import sys

from peewee_honker.cli import main

if __name__ == "__main__":
    sys.exit(main())
