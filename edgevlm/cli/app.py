"""The verbs, and what becomes of an error.

Exit codes: 0 done, 1 a defect of ours, 2 usage, and one for each class in `edgevlm.errors`.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import typer
from rich.logging import RichHandler
from typer.core import TyperGroup

from edgevlm.cli import calibrate, export, inspect, limits, migrate, profile, replay, robot, run, verify
from edgevlm.cli.output import Terminal, write_error
from edgevlm.errors import EdgevlmError

WORDS = "edgevlm.words"


class Verbs(TyperGroup):
    """The verbs; what ends one early is written as JSON, too, where its --json says."""

    def make_context(self, info_name: str | None, args: list[str], *more: Any, **extra: Any) -> Any:
        """A context that keeps the words of the command line: parsing uses them up."""
        words = list(args)
        context = super().make_context(info_name, args, *more, **extra)
        context.meta[WORDS] = words
        return context

    def invoke(self, ctx: Any) -> Any:
        """Run the verb that the command line names."""
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort):
            raise
        except BaseException as error:  # a defect of ours, too: who reads JSON gets JSON
            write_error(ctx.meta[WORDS], ctx.invoked_subcommand, error)
            raise


app = typer.Typer(
    name="edgevlm",
    cls=Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help=("Export vision-language(-action) models to INT8 bundles, prove them, run them on a robot and profile them."),
)
app.command("robot")(robot.command)
app.command("export")(export.command)
app.command("calibrate")(calibrate.command)
app.command("inspect")(inspect.command)
app.command("verify")(verify.command)
app.command("limits")(limits.command)
app.command("run")(run.command)
app.command("profile")(profile.command)
app.command("replay")(replay.command)
app.command("migrate")(migrate.command)


@app.callback()
def _options(verbose: bool = typer.Option(False, "--verbose", "-v", help="Say more on standard error.")) -> None:
    level = logging.INFO if verbose else logging.WARNING
    handler = RichHandler(console=Terminal(stderr=True), show_time=False, show_path=False)
    logging.basicConfig(level=level, format="%(message)s", handlers=[handler], force=True)


def main() -> None:
    """Entry point of `edgevlm`."""
    try:
        app()
    except EdgevlmError as error:
        Terminal(stderr=True, soft_wrap=True).print(f"{type(error).__name__}: ", style="bold red", end="")
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted: nothing was left half-written", file=sys.stderr)
        sys.exit(130)
