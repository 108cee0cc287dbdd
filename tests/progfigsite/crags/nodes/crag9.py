"""The only node."""

from progfiguration.inventory.nodes import InventoryNode

node = InventoryNode(
    address="crag9.example.org",
    user="root",
    ssh_host_fingerprint="",
    roles={"motd": {"greeting": "Hello"}},
)
