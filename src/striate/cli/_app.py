"""What all commands share: the group, errors as one line, the options --json and --debug."""

from __future__ import annotations

import difflib
import errno
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn, TypeVar

import click

from striate.errors import InterruptedTraining, StriateError

F = TypeVar("F", bound=Callable[..., Any])


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the known name that is most like `name`, or nothing."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {found[0]}?" if found else ""


class Name(click.Choice):  # type: ignore[type-arg]  # generic only from click 8.2 on
    """One of a few names; a misspelt one is answered with the nearest."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name itself; raises a usage error for any other."""
        names = [str(choice) for choice in self.choices]
        if value not in names:
            hint = nearest(str(value), names)
            self.fail(f"{value!r} is none of {', '.join(names)}{hint}", param, ctx)
        return str(value)


class Group(click.Group):
    """The group of commands; a misspelt command is answered with the nearest."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As in click, with our words for a command that does not exist."""
        if args[0] not in self.commands and not args[0].startswith("-"):
            known = sorted(self.commands)
            hint = nearest(args[0], known) or f"; commands: {', '.join(known)}"
            raise click.UsageError(f"no such command {args[0]}{hint}", ctx)
        return super().resolve_command(ctx, args)


def _remember_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        ctx.find_root().obj["debug"] = True


debug_option = click.option(
    "--debug",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_remember_debug,
    help="Show the traceback of an error.",
)


def common(command: F) -> F:
    """The options that every command has."""
    json_option = click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON object on standard output."
    )
    return json_option(debug_option(command))


def run(app: click.Group, arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; errors become one line on standard error."""
    args = list(sys.argv[1:] if arguments is None else arguments)
    settings: dict[str, Any] = {"debug": False}
    try:
        with app.make_context("striate", args, obj=settings) as ctx:
            app.invoke(ctx)
            sys.stdout.flush()
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.exceptions.NoArgsIsHelpError as help_wanted:
        click.echo(help_wanted.ctx.get_help(), err=True)
        return 2
    except click.ClickException as error:
        return _report(error, settings, _usage_message(error), error.exit_code)
    except InterruptedTraining as stop:
        return _report(stop, settings, str(stop), 128 + signal.SIGINT)
    except KeyboardInterrupt as stop:
        return _report(stop, settings, "stopped by Ctrl-C", 128 + signal.SIGINT)
    except OSError as error:
        if error.errno == errno.EPIPE:  # the reader of our output has gone, as in `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        named = error.filename is not None and not isinstance(error, StriateError)
        message = f"{error.filename}: {error.strerror}" if named else str(error)
        return _report(error, settings, message, 1)
    except (StriateError, ImportError, MemoryError) as error:
        return _report(error, settings, str(error) or type(error).__name__, 1)
    except Exception as error:  # noqa: BLE001 - a defect of ours; still one line and a way on
        message = f"{type(error).__name__}: {error}: a defect in Striate; --debug shows where"
        return _report(error, settings, message, 1)
    return 0


def _report(error: BaseException, settings: dict[str, Any], message: str, code: int) -> int:
    if settings["debug"]:
        import traceback

        traceback.print_exception(error)
    click.echo(f"striate: error: {' '.join(message.split())}", err=True)
    return code


def _usage_message(error: click.ClickException) -> str:
    """Click's errors in one line, with the nearest option and the way to the help."""
    ctx = error.ctx if isinstance(error, click.UsageError) else None
    if isinstance(error, click.NoSuchOption) and ctx is not None:
        known = [name for param in ctx.command.get_params(ctx) for name in param.opts]
        message = f"no such option {error.option_name}{nearest(error.option_name, known)}"
    else:
        message = error.format_message().rstrip(".")
        message = message[:1].lower() + message[1:]
    return f"{message} (see {ctx.command_path} --help)" if ctx is not None else message


def leave(code: int) -> NoReturn:
    """End the command with an exit code, all output having been written."""
    raise click.exceptions.Exit(code)
