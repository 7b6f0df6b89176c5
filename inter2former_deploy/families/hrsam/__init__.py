"""HRSAM and HRSAM++ (arXiv 2407.02109): an encoder with windows and state-space modules, SAM's prompts and decoder."""
