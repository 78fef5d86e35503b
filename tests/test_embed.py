# SPDX-License-Identifier: Apache-2.0
"""The C++ API, built as its users build on it, does what the Python API does."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import action_models
import embedded
import rtfm_rt
from conftest import INSTALL
from models import random_pose, turn
from rtfm_rt.session import model_path

ROOT = Path(__file__).parents[1]
PREFIX = Path(rtfm_rt.__file__).parent / "_cpp"  # the installed package, in builds for tests
COMPILERS = [c for c in ("g++", "clang++") if shutil.which(c)]

pytestmark = [
    pytest.mark.skipif(not PREFIX.exists(), reason=f"no C++ package in this build: {INSTALL}"),
    pytest.mark.skipif(not shutil.which("cmake"), reason="not installed: cmake"),
]

Play = Callable[[list[str]], list[list[str]]]


def run(*command: object, given: str | None = None) -> str:
    done = subprocess.run(
        [*map(str, command)], input=given, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(source: Path, folder: Path) -> Path:
    run("cmake", "-S", source, "-B", folder, f"-DCMAKE_PREFIX_PATH={PREFIX}")
    run("cmake", "--build", folder)
    return folder


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Play:
    """tests/embedded.cc, against the installed package."""
    folder = tmp_path_factory.mktemp("embedded")
    (folder / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.22)\nproject(embedded LANGUAGES CXX)\n"
        "find_package(rtfm_rt 0.1 REQUIRED)\n"
        "add_compile_options(-Wall -Wextra -Wpedantic -Werror)\n"
        f"add_executable(embedded {ROOT}/tests/embedded.cc)\n"
        "target_link_libraries(embedded PRIVATE rtfm_rt::rtfm_rt)\n"
    )
    program = build(folder, folder / "build") / "embedded"

    def play(lines: list[str]) -> list[list[str]]:
        printed = run(program, given="".join(f"{line}\n" for line in lines))
        blocks = printed.split("done\n")
        assert len(blocks) == len(lines) + 1, printed[-1000:]
        return [block.splitlines() for block in blocks[:-1]]

    play.program = program
    return play


def same(play: Play, lines: list[str]) -> list[list[str]]:
    """Both APIs print the same, but for the words of errors; what they print."""
    ours, theirs = play(lines), embedded.play(lines)
    for line, a, b in zip(lines, ours, theirs, strict=True):
        words = [[re.sub(r"^(\w+Error): .*", r"\1", text) for text in block] for block in (a, b)]
        assert words[0] == words[1], (line[:80], a[-1][:200] if a else a, b[-1][:200] if b else b)
    return ours


@pytest.fixture
def raw(tmp_path: Path, picture: np.ndarray) -> str:
    """The picture's file."""
    (tmp_path / "picture").write_bytes(picture.tobytes())
    return str(tmp_path / "picture")


EYE = embedded.text(np.eye(4))
HERE, THERE, BACK = (embedded.text(turn(20 * i, 0.3 * i)) for i in (1, 2, 3))


def test_a_walk(play, model, raw, tmp_path):
    """Frames, receipts and memory to the bit: through steps, slots, branches, moves, files."""
    walk = [
        f"model {model[0]} cpu auto",
        "sum",
        "session seed 7 threads 2",
        f"observe {raw} {EYE}",
        *(f"step {embedded.text(turn(9 * i, 0.2 * i))}" for i in range(6)),
        f"slot {THERE}",
        f"zoom 0.9 0.7 {HERE}",
        f"imagine {BACK}",
        f"reproject {embedded.text(turn(5))}",
        "fork",
        f"step {BACK}",
        "back",
        f"memory {HERE}",
        "remembered 0",
        f"move 0 {THERE}",
        f"step {BACK}",
        f"steady {BACK}",  # allocates nothing
        f"memory {HERE}",
    ]
    printed = same(play, walk)
    assert len({block[2] for block in printed[4:10]}) == 6  # six different frames


@pytest.mark.parametrize("kind", ["keep", "causal"])
def test_a_walk_by_actions(play, tmp_path, rng, kind):
    path = tmp_path / "model.safetensors"
    action_models.write(path, kind)
    session = rtfm_rt.Session(path)
    (tmp_path / "picture").write_bytes(
        rng.integers(0, 256, (*session.image_size, 3), np.uint8).tobytes()
    )
    name, (least, most) = next(iter(session.actions.items()))
    same(
        play,
        [
            f"model {path} cpu:portable float32",
            "session seed 3 threads 1",
            f"observe_act {tmp_path / 'picture'}",
            f"act {name} {most}",
            f"act {name} {least}",
            f"imagine_act {name} {most}",
            f"observe_act {tmp_path / 'picture'} {name} {most}",
            "fork",
            "act",
            "back",
            f"act {name} {most}",
            f"memory {EYE}",
            f"act {name} {most + 100}",  # refused, and so are these
            "act nothing 1",
            f"step {EYE}",
            f"observe {tmp_path / 'picture'} {EYE}",
            f"zoom 1 1 {EYE}",
            f"act {name} {most}",
        ],
    )


@pytest.mark.parametrize("kind", ["poses", "keep", "recompute", "causal"])
def test_worlds_go_from_one_to_the_other(play, model, raw, tmp_path, rng, kind):
    """What C++ saves Python loads, and the other way, and both go on to the bit."""
    if kind == "poses":
        begin = [
            f"model {model[0]} cpu auto",
            "session seed 7 threads 2 memory_budget 3000000",
            f"observe {raw} {EYE}",
            f"step {HERE}",
            f"step {THERE}",
        ]
        after = [f"step {BACK}", f"step {EYE}"]
    else:
        path = action_models.write(tmp_path / "model.safetensors", kind)
        session = rtfm_rt.Session(path)
        (tmp_path / "image").write_bytes(rng.bytes(3 * np.prod(session.image_size)))
        move, more = (f"{name} {most}" for name, (_, most) in list(session.actions.items())[:2])
        begin = [
            f"model {path} cpu float32",
            "session seed 7 threads 2",
            f"observe_act {tmp_path / 'image'}",
            f"act {move}",
            f"act {more}",
        ]
        after = [f"act {move}", f"act {more}"]
    after += [f"memory {EYE}"]
    ours, theirs = tmp_path / "cpp.world", tmp_path / "python.world"
    assert play([*begin, f"save {ours}"])[-1] == embedded.play([*begin, f"save {theirs}"])[-1] == []
    *frames, memory = embedded.play([*begin, *after])[len(begin) :]
    for file in (ours, theirs):
        go_on = [begin[0], f"load {file} threads 2", *after]
        for player in (play, embedded.play):
            *again, same_memory = player(go_on)[2:]
            assert again == frames
            assert same_memory[:3] == memory[:3]
    for player, file in ((play, theirs), (embedded.play, ours)):  # and save what they loaded
        assert player([begin[0], f"load {file}", after[0], f"save {file}"])[-1] == []
        other = player([*begin, *after, f"save {file}"])  # another world than the one in the file
        assert other[-1][0].startswith("WorldError: ")
        assert player([begin[0], f"load {file} threads 2", after[1]])[-1] == frames[1]


def test_what_is_refused(play, model, raw, tmp_path):
    """Each is of the class that Python raises, and the session goes on."""
    short = tmp_path / "short"
    short.write_bytes(b"123")
    mirror, scaled, far = np.diag([1, 1, -1, 1]), np.diag([2, 2, 2, 1]), np.eye(4)
    far[0, 3] = 2e6
    printed = same(
        play,
        [
            f"model {model[0]} cpu auto",
            "session seed 1 threads 2",
            f"step {EYE}",
            f"observe {short} {EYE}",
            *(f"observe {raw} {embedded.text(bad)}" for bad in (mirror, scaled, far, EYE[:0])[:3]),
            f"zoom 640 640 {EYE}",
            f"observe {raw} {EYE}",
            f"zoom 640 640 {EYE}",
            "act forward 1",
            "observe_act " + raw,
            "remembered 77",
            f"move 77 {EYE}",
            "session threads 0",
            "session threads 10000",
            "session steps 3",
            "session context 99",
            "session commit_below 7",
            "session deadline -1",
            "session memory_budget 5",
            f"save {tmp_path}/nowhere/a.world",
            f"load {tmp_path}/no.world",
            f"model {tmp_path}/none.safetensors cpu auto",
            f"model {short} cpu auto",
            f"model {model[0]} tpu auto",
            f"model {model[0]} cuda:7 auto",
            f"model {model[0]} cpu float7",
        ],
    )
    refused = [block[0].split(":")[0] for block in printed if block and "Error: " in block[0]]
    assert len(refused) == 25
    assert play(["model x cpu auto"])[0][0].startswith("ModelError: ")
    moved = [f"model {model[0]} cpu auto", "session seed 1", "fork", "moved"]
    assert play(moved)[-1] == []


def test_a_model_file_that_changes(play, model, raw, tmp_path):
    """No world is saved under the sum of another file than the one that was loaded."""
    path = tmp_path / "model.safetensors"
    shutil.copy(model[0], path)
    lines = [f"model {path} cpu auto", "session seed 1", f"observe {raw} {EYE}"]
    with subprocess.Popen(
        [play.program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        running.stdin.write("".join(f"{line}\n" for line in lines))
        running.stdin.flush()
        while running.stdout.readline() != "0\n":  # the id of what it observed
            pass
        path.write_bytes(path.read_bytes())
        printed, _ = running.communicate(f"save {tmp_path}/a.world\n", timeout=60)
    assert "WorldError" in printed and "changed" in printed


def test_poses(play, rng):
    """Every convention, and back."""
    lines, wanted = [], []
    eye = np.eye(4)
    for _ in range(5):
        a, b = random_pose(rng), random_pose(rng)
        ours = rtfm_rt.Pose(a)
        for name in ("opencv", "opengl", "openxr", "ros_optical", "ros_body", "unity"):
            for way in ("camera_to_world", "world_to_camera"):
                lines += [f"{f}_matrix {name} {way} {embedded.text(a)}" for f in ("from", "to")]
                wanted += [rtfm_rt.Pose.from_matrix(a, name, way), ours.to_matrix(name, way)]
        q, t = ours.quaternion, ours.position
        for name in ("from_openxr", "from_ros", "from_quaternion"):
            lines.append(f"{name} {embedded.text([*t, *q])}")
            wanted.append(getattr(rtfm_rt.Pose, name)(t, q))
        lines += [
            f"from_ros_body {embedded.text([*t, *q])}",
            f"from_colmap {embedded.text([*q, *t])}",
            f"inverse {embedded.text(a)}",
            f"product {embedded.text(a)} {embedded.text(b)}",
            f"look_at {embedded.text([*t, *b[:3, 3], 0, 0, 1])}",
        ]
        wanted += [
            rtfm_rt.Pose.from_ros(t, q, optical=False),
            rtfm_rt.Pose.from_colmap(q, t),
            ours.inverse(),
            ours @ rtfm_rt.Pose(b),
            rtfm_rt.Pose.look_at(t, b[:3, 3], (0, 0, 1)),
        ]
    for line, printed, want in zip(
        lines, play([f"pose {line}" for line in lines]), wanted, strict=True
    ):
        np.testing.assert_allclose(
            np.array(printed[0].split(), float), np.asarray(want).ravel(), atol=1e-12, err_msg=line
        )
    fov, pixels, *bad = play(
        [
            "pose from_fov 75 1.5",
            "pose from_pixels 320 330 640 480",
            "pose from_fov 180 1",
            "pose from_pixels 0 1 2 3",
            f"pose from_matrix nobody camera_to_world {embedded.text(eye)}",
            "pose from_openxr 0 0 0 0 0 0 2",
            "pose from_openxr nan 0 0 0 0 0 1",
            "pose look_at 0 0 0 0 0 0 0 1 0",
            "pose look_at 0 0 0 0 1 0 0 1 0",
        ]
    )
    assert fov[0] == embedded.text(rtfm_rt.Intrinsics.from_fov(75, 1.5))
    assert pixels[0] == embedded.text(rtfm_rt.Intrinsics.from_pixels(320, 330, 640, 480))
    kinds = [block[0].split(":")[0] for block in bad]
    assert kinds == ["ArgumentError"] * 2 + ["PoseError"] * 5


def test_the_example(tmp_path):
    """examples/embed as its README builds it: comes home to where it began."""
    program = build(ROOT / "examples/embed", tmp_path / "build") / "embed"
    room = ROOT / "examples/embed/room.ppm"
    model = model_path("rooms")
    printed = run(program, model, room, f"{tmp_path}/")
    assert re.search(r"p50 [\d.]+ ms, p99 [\d.]+ ms, \d+ of 60 late", printed), printed
    images = {
        name: np.frombuffer(path.read_bytes()[-64 * 64 * 3 :], np.uint8).astype(float)
        for name, path in (
            ("start", room),
            ("turn", tmp_path / "turn.ppm"),
            ("return", tmp_path / "return.ppm"),
        )
    }
    error = {name: np.mean((image - images["start"]) ** 2) for name, image in images.items()}
    assert error["return"] < error["turn"] / 2, error
    done = subprocess.run([program, room, room], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("embed: "), done.stderr


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("standard", ["c++20", "c++2b"])
def test_the_header_stands_alone(compiler, standard, tmp_path):
    """It includes the standard library only, and any warning is an error."""
    header = PREFIX / "include/rtfm_rt.h"
    includes = re.findall(r"#\s*include\s*(\S+)", header.read_text())
    assert includes and all(re.fullmatch(r"<\w+>", name) for name in includes)
    source = tmp_path / "alone.cc"
    source.write_text(
        "#include <rtfm_rt.h>\n#include <rtfm_rt.h>\n"
        "int main() { return rtfm_rt::Options{.seed = 1}.steps.has_value(); }\n"
    )
    strict = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror"]
    run(compiler, f"-std={standard}", *strict, "-fsyntax-only", f"-I{header.parent}", source)


def test_nothing_else_is_exported():
    """Names of ours alone: no symbol can meet one of the program that embeds it."""
    (library,) = {path.resolve() for path in PREFIX.glob("lib*/librtfm_rt.so")}
    symbols = run("nm", "-DC", "--defined-only", library).splitlines()
    names = [line.split(maxsplit=2)[2] for line in symbols if " A " not in line]
    ours = re.compile(r"(typeinfo for |typeinfo name for |vtable for )?rtfm_rt::|rtfm_")
    assert names and all(ours.match(name) for name in names), names
    needed = run("readelf", "-d", library)
    assert not re.search(r"NEEDED.*(python|sqlite|cuda)", needed), needed


def test_as_a_part_of_another_project(tmp_path):
    """add_subdirectory, as FetchContent does it: configures, without Python, and has the target."""
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.22)\nproject(robot LANGUAGES CXX)\n"
        "set(RTFM_CUDA OFF)\n"
        f"add_subdirectory({ROOT} rtfm_rt)\nadd_executable(robot robot.cc)\n"
        "target_link_libraries(robot PRIVATE rtfm_rt::rtfm_rt)\n"
    )
    (tmp_path / "robot.cc").write_text("#include <rtfm_rt.h>\nint main() {}\n")
    run("cmake", "-S", tmp_path, "-B", tmp_path / "build")
    targets = run("cmake", "--build", tmp_path / "build", "--target", "help")
    assert re.search(r"\brobot\b", targets) and not re.search(r"\b_core\b", targets), targets


@pytest.mark.parametrize("page", ["docs/cpp.md", "README.md"])
def test_what_the_pages_show_compiles(page, tmp_path):
    """Every block of C++ and C, in a function that has what it takes for granted."""
    blocks = re.findall(r"```(cpp|c)\n(.*?)```", (ROOT / page).read_text(), re.S)
    assert {kind for kind, _ in blocks} == ({"cpp", "c"} if page == "docs/cpp.md" else {"cpp"})
    for kind, block in blocks:
        source = tmp_path / f"block.{kind}"
        header, compiler, given = {
            "cpp": (
                "rtfm_rt.h",
                ["g++", "-std=c++20"],
                "void block(std::span<const std::uint8_t> image, rtfm_rt::Pose pose, "
                "rtfm_rt::Pose other)",
            ),
            "c": (
                "rtfm_rt_c.h",
                ["gcc", "-std=c99"],
                "int fail(const char*);\n"
                "int block(const uint8_t* image, const double* position, const double* xyzw, "
                "double* pose, uint8_t* frame)",
            ),
        }[kind]
        body = re.sub(r"#include.*\n", "", block)
        end = "return 0;" if kind == "c" else "(void)other;"
        source.write_text(f"#include <{header}>\n{given} {{\n{body}\n{end}\n}}\n")
        run(*compiler, "-fsyntax-only", f"-I{PREFIX / 'include'}", source)
