"""A folder for nuclio: `function.yaml` and the handler."""
