"""Runs `python -m mirnet_edge`: the program `mirnet` where its script is not on the path."""

from mirnet_edge.cli.main import main

main()
