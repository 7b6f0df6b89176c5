"""Files for tools that load code of their own: CVAT's function and agent, nuclio."""
