"""Keys, releases, and where they are kept and published."""
