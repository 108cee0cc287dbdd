"""What all nodes have: nothing."""

group: dict[str, dict[str, object]] = {"roles": {}}
