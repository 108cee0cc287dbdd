"""Which node has which roles."""

from progfiguration.sitehelpers.memhosts import MemoryHostStore

hoststore = MemoryHostStore(
    groups={}, node_function_map={"crag9": "greeter"}, function_role_map={"greeter": ["motd"]}
)


class NoSecrets:
    """This site has none."""

    def apply_cli_arguments(self, args: dict[str, str]) -> None:
        pass


secretstore = NoSecrets()


def mint_version() -> str:
    return "1.0.0"
