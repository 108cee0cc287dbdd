"""The sample mirror."""
