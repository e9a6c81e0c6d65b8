"""The ``ownup`` command: what its groups are. What they do is in modules of their own."""

import click

from app.cli_audit import audit_group
from app.cli_keys import keys_group


@click.group()
def main() -> None:
    """Look after an OwnUp installation."""


main.add_command(keys_group)
main.add_command(audit_group)
