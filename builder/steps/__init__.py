"""A step, its key, the order of steps, and the pipeline itself."""
