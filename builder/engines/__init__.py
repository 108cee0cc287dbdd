"""How a job runs in the container: the interface, bubblewrap, docker."""
