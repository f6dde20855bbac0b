"""`python -m sbv2bench` is `sbv2bench`; so is `torchrun -m sbv2bench`."""

from sbv2bench.cli import main

main()
