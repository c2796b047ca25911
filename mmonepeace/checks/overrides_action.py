"""The command-line option of overrides, without what reads a config: help and errors come at once."""

import argparse
from collections.abc import Sequence
from typing import Any


class OverridesAction(argparse.Action):
    """`KEY=VALUE ...` of a command line; what is not of this form is an error of the parser."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Add the values to the dict of the option."""
        for text in values or ():
            if not text.partition("=")[0] or "=" not in text:
                parser.error(
                    f"{option_string} {text}: expected KEY=VALUE, without spaces around =."
                )
        from mmengine.config import DictAction

        add = DictAction(self.option_strings, self.dest)
        for text in values or ():
            try:
                add(parser, namespace, [text], option_string)
            except AssertionError:  # brackets
                parser.error(
                    f"{option_string} {text}: a bracket is not closed. Quote such values: 'KEY=[1,2]'."
                )
