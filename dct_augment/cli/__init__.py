"""The command line: the only package that prints."""

from dct_augment import stopping


def main() -> None:
    """Run the command line; what goes wrong is one message and an exit code, never a traceback."""
    stopping.run(_main)


def _main() -> None:
    from dct_augment.cli.commands import main  # takes a second, in which Ctrl-C is answered already

    main()
