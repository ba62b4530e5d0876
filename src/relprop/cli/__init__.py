"""The command line.

What may live here: options, their help, printing, exit codes. What is done lives in `jobs`.
"""

import sys

# What `relprop[cli]` installs. Any other ImportError is a fault of ours, or of torch, and is shown as it is.
NEEDED = ("typer", "click", "rich", "PIL", "matplotlib", "safetensors")


def main() -> None:
    """Run the command line; without its packages, say in one line how to install them, and exit with 2."""
    try:
        from relprop.cli.app import app
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in NEEDED:
            raise
        print(f"relprop: the command line needs {error.name}: pip install 'relprop[cli]'", file=sys.stderr)
        raise SystemExit(2) from error
    app()
