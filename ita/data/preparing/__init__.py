"""Preparation: from downloaded data sets to the folders that training and evaluation read.

One module per data set describes its outputs in a function ``plan`` and, in its docstring, the
files that it reads and writes; ``jobs`` makes them. The command is ``ita datasets prepare``.
"""
