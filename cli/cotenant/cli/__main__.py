"""The `cotenant` command: finds the subcommand and hands over. Each is imported only when it is called."""

import sys
from importlib import import_module
from importlib.metadata import version

from cotenant.cli import identity

COMMANDS = {
    "serve": "run the whole stack on this host until Ctrl-C",
    "load": "send an open-loop load and tell who was answered in time",
    "report": "a page that tells of a recorded run who ran beside whom",
    "top": "live view: who runs beside whom, queues, attainment, prediction error",
    "settings": "what can be changed of a running scheduler, as it is",
    "set": "change it: SLOs, priorities, the policy, tenants' weights and quotas",
    "demo": "the stack, a load and a report, in one command",
    "profile": "how models run alone: latency over batch sizes, throughput, memory, load time",
    "explain": "why a request ran when it did or was refused, and beside whom: recorded, or just now",
    "evaluate": "judge predictors of latency on recorded logs, in one table",
    "simulate": "policies in a world of models, load and devices, in virtual time",
    "plan": "how many devices a world needs, and what it would be with each other policy",
    "replay": "feed a recorded log to a fresh core and compare",
    "certificates": "certificates for a stack with TLS, for trials and tests",
}

_HELP = (
    "usage: cotenant [--tls FOLDER/NAME] [--token-file FILE] COMMAND [--help]\n\n"
    + "\n".join(f"  {name:12} {text}" for name, text in COMMANDS.items())
    + "\n\n--tls shows the certificate NAME.pem of a folder, --token-file a bearer token; so do the variables\n"
    "COTENANT_TLS and COTENANT_TOKEN_FILE (docs/security.md)."
)


def main() -> int:
    """Entry point of the `cotenant` command."""
    try:
        arguments = identity.take(sys.argv[1:])
    except (OSError, ValueError) as error:
        print(f"cotenant: {error}", file=sys.stderr)
        return 2
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_HELP)
        return 0
    if arguments[0] == "--version":
        print(version("cotenant"))
        return 0
    if arguments[0] not in COMMANDS:
        print(f"cotenant: there is no command '{arguments[0]}'\n\n{_HELP}", file=sys.stderr)
        return 2
    status: int = import_module(f"cotenant.cli.{arguments[0]}").main(arguments[1:])
    return status


if __name__ == "__main__":
    sys.exit(main())
