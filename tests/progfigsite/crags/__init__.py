"""A site for progfiguration."""

site_name = "crags"
site_description = "One node with one role"


def get_version() -> str:
    return "1.0.0"
