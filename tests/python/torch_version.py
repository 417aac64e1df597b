"""Prints the version of torch; fails where there is none that thinwire works with."""

import sys

import torch

version = torch.__version__.split("+")[0]
print(version)
sys.exit(tuple(map(int, version.split(".")[:2])) < (2, 9))
