"""`python -m relprop.cli`, the same as `relprop`."""

from relprop.cli import main

main()
