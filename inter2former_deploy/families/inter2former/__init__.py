"""Inter2Former (ICCV 2025): configuration, reference modules, checkpoints."""
