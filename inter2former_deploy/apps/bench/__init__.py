"""Measurements: operators, clicks and encoding, against PyTorch, the library-free graph and the machine.

Every variant runs in a process of its own (`workers.py`), in turn with the others, so that ratios hold on a noisy
machine and each variant has the environment that suits it best.
"""
