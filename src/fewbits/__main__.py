"""`python -m fewbits`: the same as the console script."""

from fewbits.cli.app import main

main()
