"""The formulas of the operators in PyTorch: the reference modules call them, the exporter turns them into nodes."""
