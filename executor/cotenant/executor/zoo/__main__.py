"""Writes models to serve as a repository in Triton's layout.

Each model gets a folder with `config.pbtxt`, `1/model.onnx` or `1/model.pt2`, and `samples.npz` with requests to
send. What is there already and up to date is left alone.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cotenant.executor.zoo import FORMATS, MODELS, SIZES, write


def _list() -> str:
    return "models:\n" + "\n".join(
        f"  {name:15} {' and '.join(recipe.sizes):14} {', '.join(spec.name for spec in recipe.inputs)} "
        f"-> {recipe.output.name}"
        for name, recipe in MODELS.items()
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m cotenant.executor.zoo`."""
    parser = argparse.ArgumentParser(
        prog="python -m cotenant.executor.zoo",
        description=__doc__,
        epilog=_list(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--repository", type=Path, required=True, metavar="DIR", help="where to write them")
    parser.add_argument("--size", choices=SIZES, default="small", help="which set of models (default: small)")
    parser.add_argument("--models", metavar="A,B,...", help="these models, of either size, instead of a set")
    parser.add_argument(
        "--format", choices=FORMATS, default="onnx", help="with both, NAME is ONNX, NAME_torch torch (default: onnx)"
    )
    parser.add_argument(
        "--slo-scale", type=float, default=1.0, metavar="X", help="SLOs are X times the table's, e.g. 2 on a slow host"
    )
    arguments = parser.parse_args(argv)
    if arguments.models is None:
        names = [name for name, recipe in MODELS.items() if arguments.size in recipe.sizes]
    else:
        names = [name.strip() for name in arguments.models.split(",")]
    try:
        write(arguments.repository, names, form=arguments.format, slo_scale=arguments.slo_scale, tell=_tell)
    except (OSError, ValueError) as error:
        raise SystemExit(f"cotenant.executor.zoo: {error}") from error


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
