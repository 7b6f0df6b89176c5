"""Reference modules in PyTorch, one file per box of the paper's figure."""
