"""`mmonepeace distill` of this clone."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmonepeace.commands import run_command

if __name__ == "__main__":
    run_command("distill")
