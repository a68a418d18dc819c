"""`python -m striate.cli`, for where the program `striate` is not on the path."""

from striate.cli import main

main()
