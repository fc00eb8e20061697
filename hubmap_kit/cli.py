"""The command line: ``hubmap-kit COMMAND``. The commands are in `hubmap_kit.commands`."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from collections.abc import Sequence

from . import __version__
from .commands import COMMANDS, STAGES

OK, WRONG_USAGE, INTERRUPTED = 0, 2, 130
FIRST_STEPS = """\
first steps, on a small competition that is drawn for it (5 minutes on two cores):
  hubmap-kit demo demo
  hubmap-kit prepare demo patches --input-size 96
  hubmap-kit train patches run --recipe fast
  hubmap-kit predict demo run --out submission.csv
  hubmap-kit score submission.csv --truth demo/test_truth.csv
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Arguments without the program's name; those of the process by default.

    Returns:
        0 done, 1 bad input, 130 stopped by Ctrl-C or SIGTERM. Wrong usage exits with 2.
    """
    name, *rest = argv = list(sys.argv[1:] if argv is None else argv) or ["help"]
    if name in ("help", "-h", "--help"):
        return _help(rest)
    if name in ("-V", "--version"):
        print(f"hubmap-kit {__version__}")
        return OK
    _check_command(name)
    from .running import run  # here, because the list of commands and the version do without it

    return run(name, rest)


def entry() -> None:
    """The ``hubmap-kit`` script. SIGTERM, which batch systems and containers send, stops it as Ctrl-C does."""
    from .console import lost_result, open_streams

    stop_on_signals()
    stdout = open_streams()
    try:
        status = main()
    except KeyboardInterrupt:  # before the command began
        status = INTERRUPTED
    if lost := lost_result(stdout):
        print(f"error: {lost}", file=sys.stderr)
    sys.exit(status or int(bool(lost)))


def stop_on_signals() -> None:
    """Make SIGTERM stop this process as Ctrl-C does, wherever in the code either arrives.

    Python drops an exception in a destructor, and a signal that arrives during a training step is often handled in
    one. So a stop that was dropped is sent again a moment later.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    report = sys.unraisablehook

    def again(dropped: sys.UnraisableHookArgs) -> None:
        if dropped.exc_type is KeyboardInterrupt:
            threading.Timer(0.1, _send_sigterm).start()
        else:
            report(dropped)

    sys.unraisablehook = again


def _send_sigterm() -> None:
    """Send SIGTERM to the main thread; outside Windows it also ends a call that waits."""
    if sys.platform == "win32":
        _thread.interrupt_main(signal.SIGTERM)
    else:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)


def _help(names: Sequence[str]) -> int:
    """Print the help of a command, or the list of all commands."""
    for name in names[:1]:
        _check_command(name)
        from .commands import parser_of

        parser_of(name, names[1:]).print_help()
        return OK
    width = max(map(len, COMMANDS))
    lines = ["hubmap-kit: a submission kit for HuBMAP + HPA - Hacking the Human Body", ""]
    lines += ["usage: hubmap-kit COMMAND [flags]", "", FIRST_STEPS]
    for stage, commands in STAGES.items():
        lines += [stage, *(f"  {name:<{width}}  {about}" for name, about in commands.items())]
    lines += ["", "hubmap-kit help COMMAND explains a command; -V prints the version"]
    print("\n".join(lines))
    return OK


def _check_command(name: str) -> None:
    """Exit with status 2 if there is no such command."""
    if name in COMMANDS:
        return
    from .terminal import show_error
    from .words import did_you_mean

    print("usage: hubmap-kit COMMAND [flags]", file=sys.stderr)
    if name.startswith("-"):
        show_error(f"there is no flag {name} before the command; write the flags after it: hubmap-kit COMMAND {name}")
    else:
        show_error(f"there is no command {name}{did_you_mean(name, COMMANDS)}")
        print("help: hubmap-kit help lists the commands", file=sys.stderr)
    raise SystemExit(WRONG_USAGE)
