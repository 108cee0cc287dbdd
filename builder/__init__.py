"""Makes and publishes what runs on nodes: the machinery below the tasks of inv."""
