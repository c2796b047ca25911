"""The command `mmonepeace`: its first argument names one of the commands."""

import difflib
import sys
from typing import NoReturn

from mmonepeace import __version__
from mmonepeace.commands import COMMANDS, GROUPS, run_command


def main() -> NoReturn:
    """Run the named command; without one, print the help."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in COMMANDS:
        sys.argv = [f"mmonepeace {name}", *sys.argv[2:]]
        run_command(name)
    if name in ("-h", "--help"):
        print(help_text())
        sys.exit(0)
    if name == "--version":
        print(f"mmonepeace {__version__}")
        sys.exit(0)
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"Did you mean {near[0]}?" if near else "mmonepeace --help lists them."
    print(f"error: there is no command {name!r}. {hint}", file=sys.stderr)
    sys.exit(2)


def help_text() -> str:
    """The commands in their groups."""
    width = max(map(len, COMMANDS)) + 2
    lines = [
        "usage: mmonepeace COMMAND ...",
        "",
        "ONE-PEACE: one Transformer for images, audio and text.",
    ]
    for title, commands in GROUPS.items():
        lines += ["", f"{title}:"]
        lines += [f"  {name:{width}}{text}" for name, text in commands.items()]
    return "\n".join([*lines, "", "mmonepeace COMMAND --help says how to use one."])


if __name__ == "__main__":
    main()
