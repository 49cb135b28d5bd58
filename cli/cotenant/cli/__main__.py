"""The `cotenant` command: finds the subcommand and hands over. Each is imported only when it is called."""

import sys
from importlib import import_module
from importlib.metadata import version

COMMANDS = {
    "serve": "run the whole stack on this host until Ctrl-C",
    "load": "send an open-loop load and tell who was answered in time",
    "report": "a page that tells of a recorded run who ran beside whom",
    "top": "live view: who runs beside whom, queues, attainment, prediction error",
    "demo": "the stack, a load and a report, in one command",
    "profile": "how models run alone: latency over batch sizes, throughput, memory, load time",
    "explain": "why a request of a recorded run ran when it did, or was refused, and beside whom",
    "evaluate": "judge predictors of latency on recorded logs, in one table",
    "simulate": "policies in a world of models, load and devices, in virtual time",
    "plan": "how many devices a world needs, and what it would be with each other policy",
    "replay": "feed a recorded log to a fresh core and compare",
}

_HELP = "usage: cotenant COMMAND [--help]\n\n" + "\n".join(f"  {name:8} {text}" for name, text in COMMANDS.items())


def main() -> int:
    """Entry point of the `cotenant` command."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(_HELP)
        return 0
    if sys.argv[1] == "--version":
        print(version("cotenant"))
        return 0
    if sys.argv[1] not in COMMANDS:
        print(f"cotenant: there is no command '{sys.argv[1]}'\n\n{_HELP}", file=sys.stderr)
        return 2
    status: int = import_module(f"cotenant.cli.{sys.argv[1]}").main(sys.argv[2:])
    return status


if __name__ == "__main__":
    sys.exit(main())
