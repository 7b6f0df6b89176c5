"""Model families, a folder each: configuration, reference modules, checkpoints."""
