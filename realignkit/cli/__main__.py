"""``python -m realignkit.cli``: the command without an installed script."""

from realignkit.cli import main

main()
