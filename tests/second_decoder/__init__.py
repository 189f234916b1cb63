"""A second decoder, written dumbly from docs/wire-format.md alone: nothing here imports fewbits."""
