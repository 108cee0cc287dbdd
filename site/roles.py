"""The roles that nodes can have. A role is a function; inventory.toml says which node has which."""

from __future__ import annotations

from inventory import Node
from toolbox import Toolbox


def common(node: Node, tools: Toolbox) -> None:
    """What all nodes have."""
    tools.file("/etc/motd", f"This is {node.name}: {', '.join(node.roles) or 'no role'}.\n")


def web(node: Node, tools: Toolbox) -> None:
    """A small web server on port 8080, which says who it is."""
    values = {"name": node.name, "greeting": node.values.get("greeting", "Hello")}
    tools.template("/srv/www/index.html", "index.html", values)
    tools.user("web", home="/srv/www")
    changed = tools.template("/etc/init.d/web", "web.initd", {}, mode=0o755)
    tools.service("web", restart=changed)
