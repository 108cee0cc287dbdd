"""Read by progfiguration."""
