# SPDX-License-Identifier: Apache-2.0
"""The command `rtfm-rt`: walk a world to a video, look into a model file, measure, convert."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import rtfm_rt
from rtfm_rt import Error, Intrinsics, options, walking
from rtfm_rt.extras import missing
from rtfm_rt.files import check_outputs, whole_file, writable
from rtfm_rt.session import model_path
from rtfm_rt.terminal import open_streams, printable, progress, show

_INTERRUPTED = 128 + signal.SIGINT
_ENDING = (signal.SIGTERM, signal.SIGHUP)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status: 2 for what was refused, 1 when there is
    not enough memory."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    args = _parser().parse_args(argv)
    try:
        args.run(args)
        sys.stdout.flush()
        return 0
    except KeyboardInterrupt:
        print("rtfm-rt: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:  # the reader has seen enough, as in `rtfm-rt info rooms | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except (Error, OSError) as error:
        print(f"rtfm-rt: {printable(str(error))}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "allocate memory" not in str(error):  # PyTorch's
            raise
        print(
            f"rtfm-rt: out of memory: {printable(str(error)) or 'the system gives no more'}; take "
            "a smaller model or --context, or end other programs",
            file=sys.stderr,
        )
        return 1


def run() -> NoReturn:
    """The command: `main`, and when a signal ended it the end of a process that such a signal ends.

    What it was writing is cleaned up first.
    """
    open_streams()
    for number in _ENDING:
        if signal.getsignal(number) == signal.SIG_DFL:  # else it is ignored, as after nohup
            signal.signal(number, _end)
    status: object = 0
    try:
        status = main()
    except SystemExit as exit_:  # of a signal, or of argparse
        status = exit_.code
    for number in (signal.SIGINT, *_ENDING):
        if status == 128 + number:  # a shell's loop around the command ends with it
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
    sys.exit(status)


def _end(number: int, _: object) -> NoReturn:
    signal.signal(number, signal.SIG_DFL)  # the second one does not wait
    raise SystemExit(128 + number)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="rtfm-rt", description="Give it a camera pose, get the frame.")
    parser.add_argument("--version", action="version", version=f"rtfm-rt {rtfm_rt.__version__}")
    parser.set_defaults(run=lambda _: parser.print_help())
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    machine = _Parser(add_help=False)
    options.add(machine)

    walk = commands.add_parser(
        "walk", parents=[machine], help="walk through the world of one picture, to a video"
    )
    walking.add(walk)
    walk.set_defaults(run=walking.run)

    play = commands.add_parser(
        "play", parents=[machine], help="walk in the browser, with sticks: FRAMEBOY"
    )
    play.add_argument("--image", metavar="FILE", help="a picture to start from, beside the bundled")
    play.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="(127.0.0.1)")
    play.add_argument("--port", type=int, default=8360, metavar="N", help="0: any (8360)")
    play.add_argument("--worlds", metavar="DIR", help="saved worlds (in the user's data folder)")
    play.add_argument("--no-browser", action="store_true", help="do not open the page")
    play.set_defaults(run=_play)

    info = commands.add_parser("info", help="what a model file holds")
    info.add_argument("model", metavar="MODEL", help="bundled name or model file")
    info.add_argument("--json", action="store_true", help="print the manifest as JSON")
    info.add_argument(
        "--check", action="store_true", help="make the frame that its converter made, and compare"
    )
    info.add_argument("--device", default="auto", help="for --check: auto, cpu, cuda, ... (auto)")
    info.add_argument("--precision", default="auto", help="for --check: float32, int8, ... (auto)")
    info.set_defaults(run=_info)

    bench = commands.add_parser("bench", parents=[machine], help="measure the latency of a step")
    bench.add_argument(
        "--frames", type=options.positive, default=300, metavar="N", help="count (300)"
    )
    bench.add_argument("--json", metavar="FILE", help="write all figures and receipts there")
    bench.set_defaults(run=_bench)

    convert = commands.add_parser("convert", help="make a model file from a checkpoint")
    convert.add_argument(
        "files", metavar="CHECKPOINT", nargs="*", help="published .safetensors, and last the OUT"
    )
    convert.add_argument("--list", action="store_true", help="which checkpoints it knows")
    convert.add_argument("--family", metavar="NAME", help="one of that list (by tensor names)")
    convert.add_argument("--name", help="what the model is called")
    convert.add_argument("--licence", help="of the weights, where the list does not know it")
    convert.add_argument("--dtype", choices=("bfloat16", "float32"), help="of large matrices")
    convert.add_argument(
        "--steps", type=options.positive, metavar="N", help="default denoising steps"
    )
    convert.add_argument("--fov", type=float, metavar="DEGREES", help="horizontal field of view")
    convert.add_argument("--aspect", type=float, metavar="A", help="width / height, with --fov (1)")
    convert.set_defaults(run=_convert)
    return parser


# play


def _play(args: argparse.Namespace) -> None:
    try:
        from rtfm_rt.play import pictures, server, worlds
    except ImportError as error:
        what = "play: expected Starlette, uvicorn, websockets and Pillow"
        raise missing(what, "play", error) from None
    with server.bind(args.host, args.port) as listener:
        session = options.session(args)  # refuses what does not fit before anybody is invited
        choices = pictures.collect(args.image, *session.image_size)
        chosen = {
            "threads": session.threads,
            "seed": args.seed,
            "steps": session.steps,
        }
        most = worlds.UPLOAD_BYTES
        if session.actions:  # whose files hold pages
            most = max(most, session.memory.budget)
        else:
            chosen["context"] = session.context
        folder = os.path.abspath(args.worlds or worlds.default_folder())
        arcade = server.Arcade(session.model, chosen, choices, folder, session.context, most)
        running, address = server.make_server(arcade, listener, args.host)
        show(options.headline(session), {"play": [address], "worlds": [folder], "stop": ["Ctrl-C"]})
        sys.stdout.flush()
        if not args.no_browser:  # it may come early: the listener keeps it waiting
            server.open_in_browser(address)
        with contextlib.suppress(KeyboardInterrupt):  # the way to stop
            running.run([listener])


# info and convert


def _info(args: argparse.Namespace) -> None:
    path = model_path(args.model)
    info = rtfm_rt.read_info(path)
    if args.check:
        from rtfm_rt.golden import check

        off = check(path, info["manifest"], device=args.device, precision=args.precision)
        show(info["manifest"]["name"], {"check": [f"its first frame is off by {off:.1f} of 255"]})
    elif args.json:
        print(json.dumps(info, indent=2))
    else:
        _show_info(path, info)


def _show_info(path: str, info: dict[str, Any]) -> None:
    m = info["manifest"]
    r, image, camera = m["retrieval"], m["image"], m["camera"]
    codec = m.get("codec", {"kind": "patch", "patch": m.get("patch")})
    across = Intrinsics(camera["fx"], camera["fy"]).horizontal_fov
    show(
        f"{m['name']} · {m['family']} · {m['licence']}",
        {
            "frames": [f"{image['width']}x{image['height']} pixels, {across:.0f}° across"],
            "network": [
                f"{m['layers']} blocks of width {m['width']}, {m['heads']} heads of "
                f"{m['head_dim']}, codec {codec['kind']} of {codec['patch']} pixels"
            ],
            "weights": [
                f"{info['parameters'] / 1e6:.1f} million in {info['tensors']} tensors, "
                f"{info['bytes'] / 1e6:.1f} MB"
            ],
            "steps": [f"{m['steps']} of the possible {', '.join(sorted(m['samplers'], key=int))}"],
            **(_by_actions(m) if "actions" in m else _by_poses(r)),
            "sight": [f"{r['near']:g} to {r['far']:g} m"],
            "made from": [f"{m['source']['file']}", f"sha256 {m['source']['sha256'][:16]}…"],
            "file": [path],
        },
    )


def _by_poses(r: dict[str, Any]) -> dict[str, list[str]]:
    by_view = r["context"] - r["sinks"] - r["recent"]
    return {
        "context": [
            f"{r['context']} frames: {r['sinks']} first, {r['recent']} latest, "
            f"{by_view} by what they have seen"
        ],
        "commits": [f"frames with a support below {r['commit_below']:.0%}"],
    }


def _by_actions(m: dict[str, Any]) -> dict[str, list[str]]:
    names = [action["name"] for action in m["actions"]]
    shown = ", ".join(names[:8]) + (f", ... ({len(names)})" if len(names) > 8 else "")
    return {"context": ["the frames before"], "actions": [shown]}


def _convert(args: argparse.Namespace) -> None:
    try:
        from rtfm_rt.convert import RECIPES, convert, convert_published
    except ImportError as error:
        raise missing("convert: expected PyTorch and safetensors", "convert", error) from None
    if args.list:
        _show_recipes(RECIPES)
        return
    if len(args.files) < 2:
        raise Error(f"convert: expected checkpoints and an OUT, got {len(args.files)} file(s)")
    *checkpoints, out = args.files
    if args.family != "frame_dit" and not (args.family is None and args.licence):
        _refuse_native_options(args)
        info = convert_published(
            checkpoints,
            out,
            recipe=args.family,
            name=args.name,
            dtype=args.dtype or "bfloat16",
        )
        _show_info(out, info)
        return
    if len(checkpoints) > 1 or not args.name or not args.licence:
        raise Error("convert: expected one checkpoint, --name and --licence for frame_dit")
    values: dict[str, Any] = {"dtype": args.dtype, "steps": args.steps}
    if args.fov is not None:
        aspect = 1.0 if args.aspect is None else args.aspect
        values["fx"], values["fy"] = Intrinsics.from_fov(args.fov, aspect)
    elif args.aspect is not None:
        raise Error("convert: expected --aspect with --fov, got it alone; give both, or none")
    given = {key: value for key, value in values.items() if value is not None}
    info = convert(checkpoints[0], out, name=args.name, licence=args.licence, **given)
    _show_info(out, info)


def _refuse_native_options(args: argparse.Namespace) -> None:
    """Published checkpoints come with a licence, steps and a camera of their own."""
    names = ("licence", "steps", "fov", "aspect")
    given = [f"--{name}" for name in names if getattr(args, name) is not None]
    if given:
        raise Error(
            f"convert: expected {', '.join(given)} with --family frame_dit only, got "
            f"{args.family or 'no family'}; leave out what is known of a published checkpoint"
        )


def _show_recipes(recipes: dict[str, Any]) -> None:
    for recipe in recipes.values():
        show(
            f"{recipe.name} · {recipe.family} · {recipe.licence}",
            {
                "files": [recipe.files],
                "from": recipe.source.split(", "),
                "parameters": [recipe.parameters],
            },
        )
    show(
        "frame_dit",
        {"files": ["weights.safetensors of tools/rooms, with --name and --licence"]},
    )


# bench


def _bench(args: argparse.Namespace) -> None:
    from rtfm_rt.bench import measure

    if args.json:
        check_outputs([args.json], [model_path(args.model)])
    session = options.session(args)
    with progress(args.frames, "steps") as advance:
        figures = measure(session, args.frames, advance)
    if args.json:
        figures["command"] = " ".join(["rtfm-rt", *sys.argv[1:]])
        with whole_file(args.json) as part, writable(args.json), open(part, "w") as file:
            json.dump(figures, file, indent=1)
            file.write("\n")
    p50, p95, p99, worst = figures["latency_ms"].values()
    show(
        options.headline(session),
        {
            "latency": [f"p50 {p50:.2f}   p95 {p95:.2f}   p99 {p99:.2f}   max {worst:.2f} ms"],
            "throughput": [
                f"{figures['frames_per_second']:.1f} frames/s, "
                f"{args.frames} frames one after another"
            ],
            "threads": [f"{session.threads}"],
            "committed": [
                f"{figures['committed']} of the frames, whose time includes the read pass"
            ],
            "not counted": figures["not_counted"].split(", "),
            "wrote": [args.json] if args.json else [],
        },
    )
