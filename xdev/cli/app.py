"""The commands, their options and exit codes.

Requirements: a command imports what it needs when it runs, so that `xdev --help` loads no framework; an error of
xdev's is one block of text without a traceback; with --json standard output holds one object and nothing else.
"""

from __future__ import annotations

import enum
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .. import __version__
from ..errors import ConfigurationError, DeviceError, DeviceMismatchError, FileError, UnknownBackendError, XdevError

__all__ = ["app", "main"]

FAILED, MISUSED, INTERRUPTED = 1, 2, 130
"""Exit codes: something went wrong; the command line asks for what there is not; control-C."""


class Commands(TyperGroup):
    """The group of all commands, which turns errors into messages and exit codes."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except XdevError as error:
            _complain(f"error: {error}")
            raise typer.Exit(exit_code(error)) from None
        except KeyboardInterrupt:
            _complain("interrupted")
            raise typer.Exit(INTERRUPTED) from None


def exit_code(error: XdevError) -> int:
    """Return the exit code for an error."""
    misused = isinstance(error, ConfigurationError | FileError | DeviceError | UnknownBackendError)
    return MISUSED if misused and not isinstance(error, DeviceMismatchError) else FAILED


def _complain(text: str) -> None:
    from .output import console

    sys.stdout.flush()
    console(error=True).print(text, style="red")


app = typer.Typer(
    cls=Commands,
    help="Array and training code that runs unchanged on NumPy, torch, JAX and CuPy.",
    epilog="XDEV_DEVICE names the default device, XDEV_BACKENDS the backends to use and their order.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
train_app = typer.Typer(help="Train an example, on one device or on all.", no_args_is_help=True)
app.add_typer(train_app, name="train")
bench_app = typer.Typer(help="Time work on every device here, and say where it belongs.", no_args_is_help=True)
app.add_typer(bench_app, name="bench")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on standard output.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"xdev {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Array and training code that runs unchanged on NumPy, torch, JAX and CuPy."""


@app.command()
def devices(json: Json = False) -> None:
    """List the devices of this machine, best first, and say which is the default and why."""
    from . import reports

    reports.devices(as_json=json)


@app.command()
def doctor(
    modules: Annotated[
        list[str] | None,
        typer.Option(
            "--import",
            metavar="<module>",
            help="Import this module of yours first, to see what it changes; may be given several times.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Say of each known backend whether it works here, and if not, why and what to do.

    Then what bites where frameworks share this machine: reserved memory, changed defaults, precision, threads.
    """
    from . import reports

    try:
        reports.import_modules(modules or ())
    except ConfigurationError as error:
        raise typer.BadParameter(str(error), param_hint="--import") from error
    reports.doctor(as_json=json)


@app.command("test-backend")
def conformance(
    name: Annotated[str, typer.Argument(help="A backend's name, such as numpy, or that of your own plug-in.")],
    json: Json = False,
) -> None:
    """Check that a backend keeps the contract, on each of its devices; exit code 1 if it does not."""
    from . import reports

    if not reports.conformance(name, as_json=json):
        raise typer.Exit(FAILED)


class Precision(enum.StrEnum):
    """The float dtypes of `xdev train`."""

    FLOAT32 = "float32"
    FLOAT64 = "float64"


@train_app.callback()
def train() -> None:
    """Train an example, on one device or on all."""


@train_app.command()
def digits(
    device: Annotated[
        list[str] | None,
        typer.Option(
            metavar="<str>",
            help='"all", or devices separated by commas, such as numpy,torch:cuda:0,gpu; may be given several times. '
            "By default the one that XDEV_DEVICE names, else all.",
            show_default=False,
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Times through the training set.")] = 40,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows of a batch.")] = 128,
    lr: Annotated[float, typer.Option(min=0.0, help="Learning rate of AdamW.")] = 3e-3,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the initial weights and of the order of the rows.")] = 0,
    dtype: Annotated[Precision, typer.Option(help="Dtype of model and data.")] = Precision.FLOAT32,
    out: Annotated[Path, typer.Option(help="Folder of all runs.")] = Path("runs"),
    name: Annotated[str, typer.Option(help="Name of this run's folder; by default digits and the time.")] = "",
    json: Json = False,
) -> None:
    """Train one small network on scanned digits, with the same loop on every device.

    A table compares the devices. The run's folder gets metrics.jsonl, curves.png and the trained model of each device.
    """
    from .train import Options, train_digits

    options = Options(
        devices=None if device is None else tuple(device),
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        dtype=dtype.value,
        out=out,
        name=name,
    )
    if not train_digits(options, as_json=json):
        raise typer.Exit(FAILED)


class Work(enum.StrEnum):
    """The kinds of work of `xdev bench crossover`."""

    MATMUL = "matmul"
    ELEMENTWISE = "elementwise"
    REDUCTION = "reduction"
    TRAIN = "train"


Timed = Annotated[
    list[str] | None,
    typer.Option(
        "--device",
        metavar="<str>",
        help='"all", or devices separated by commas, such as numpy,torch:cuda:0,gpu; may be given several times. '
        "By default all, apart from emulated ones and those that only check code.",
        show_default=False,
    ),
]


@bench_app.callback()
def bench() -> None:
    """Time work on every device here, and say where it belongs."""


@bench_app.command()
def crossover(
    device: Timed = None,
    work: Annotated[
        list[Work] | None,
        typer.Option(
            metavar="<kind>",
            help=f"{', '.join(Work)}; may be given several times. By default all.",
            show_default=False,
        ),
    ] = None,
    sizes: Annotated[
        str | None,
        typer.Option(
            metavar="<str>", help="Sizes separated by commas, such as 64,256,4k, for one --work.", show_default=False
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Every second size, and less time for each.")] = False,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            metavar="<float>",
            help="Seconds of timing for each device at each size. By default 0.2, with --quick 0.05.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The picture, written over if it is there. By default a new one in runs/.", show_default=False
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Say from which size on each device wins: with its data there, and with data that moves there and back.

    A product of matrices, elementwise work, a sum and a training step are
    timed on all devices in turns. Moving data is timed apart. There is a table
    for each kind of work, and a picture with the crossovers marked.
    """
    from .bench.crossover import Options
    from .bench.crossover import crossover as run

    options = Options(
        devices=tuple(device or ()),
        work=tuple(work or ()),
        sizes=sizes,
        quick=quick,
        seconds=seconds,
        out=out,
    )
    run(options, as_json=json)


@bench_app.command()
def mine(
    target: Annotated[
        str, typer.Argument(metavar="FILE.py:FUNCTION", help="Your function, and the file that it is in.")
    ],
    device: Timed = None,
    inputs: Annotated[
        str | None,
        typer.Option(
            metavar="<function>",
            help="The function in the same file that returns the arguments, as a tuple of NumPy arrays or trees of "
            "them. By default inputs.",
            show_default=False,
        ),
    ] = None,
    dtype: Annotated[
        Precision | None,
        typer.Option(help="Floating dtype of the arguments. By default their own.", show_default=False),
    ] = None,
    jit: Annotated[bool, typer.Option("--jit", help="Compile it with xdev.jit where the backend compiles.")] = False,
    seconds: Annotated[
        float, typer.Option(min=0.0, metavar="<float>", help="Seconds of timing for each device.")
    ] = 1.0,
    json: Json = False,
) -> None:
    """Time a function of yours on every device, and recommend one.

    It is called with what inputs() in the same file returns, or with the device
    if `device` is its only argument, or with nothing. Moving the arguments
    there and the result back is timed apart.
    """
    from .bench.mine import Options
    from .bench.mine import mine as run

    options = Options(
        target=target,
        devices=tuple(device or ()),
        inputs=inputs,
        dtype=None if dtype is None else dtype.value,
        jit=jit,
        seconds=seconds,
    )
    if not run(options, as_json=json):
        raise typer.Exit(FAILED)


def main() -> None:
    """Run the command line; the entry point of `xdev`."""
    try:
        app(prog_name="xdev")
    except KeyboardInterrupt:  # before a command runs
        sys.exit(INTERRUPTED)
