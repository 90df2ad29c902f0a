"""Packages that cannot live beside today's libraries: a plugin for each here, and a program for its environment there.

A program is started by :mod:`realignkit.isolation`, runs on Python 3.8 and the torch of its package, and imports
nothing of ours. Checkpoints that a package reads as pickles are read as tensors alone, whoever reads them.
"""

TORCH = ("torch==1.13.1", "torchvision==0.14.1")
"""The last ones that the packages of 2022 and 2023 were written for, and that read a pickle's tensors alone."""
PYTHON = "3.8"
