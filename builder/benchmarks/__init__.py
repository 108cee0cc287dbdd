"""What inv bench measures."""
