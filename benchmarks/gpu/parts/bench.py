"""Runs `vtp bench` of both operators and the joint step on the device."""

from __future__ import annotations

from pathlib import Path

from benchmarks.gpu.context import Context, PartFailed

SUMMARY = "vtp bench of both operators, and the joint step against three plain training steps"
LIMIT = 75.0
KEPT = 45.0

SEARCH = "65536x8192x8,65536x16384x64,65536x16384x256"
DENSE = "forward:64x6x257x64,both+norm+rope:64x6x257x64"
PACKED = "both:6x64:64x257+256x50"
RUNGS = "joint;joint, own attention;joint, own attention, shared encode"


def run(context: Context) -> list[str]:
    """The tables of four benchmarks; one that fails costs the others nothing.

    Raises:
        PartFailed: One of them failed.
    """
    common = ("--device", context.device, "--rounds", "2" if context.small else "5")
    small = context.small
    commands = {
        "nearest_code": (
            "bench", "nearest_code", *common,
            "--shapes", "64x32x8" if small else SEARCH, "--only", "vtp,addmm",
        ),
        "attention": (
            "bench", "attention", *common, "--precision", "bfloat16",
            "--shapes", "forward:2x2x16x32" if small else DENSE, "--only", "vtp,SDPA",
        ),
        "attention, packed": (
            "bench", "attention", *common, "--precision", "bfloat16",
            "--shapes", "both:2x32:2x16+2x8" if small else PACKED, "--only", "vtp,one call a length",
        ),
    }  # fmt: skip
    lines: list[str] = []
    failures: list[str] = []
    for name, command in commands.items():
        file = context.folder / f"{name.replace(', ', '_')}.md"
        try:
            context.vtp(*command, "--report", str(file))
        except PartFailed as error:
            failures.append(str(error))
            lines += [f"### {name}", "", f"**failed**: {error}", ""]
        else:
            lines += [f"### {name}", "", *_body(file)]
    try:
        lines += ["### joint step", "", *_joint_step(context)]
    except PartFailed as error:
        failures.append(str(error))
        lines += [f"**failed**: {error}", ""]
    if failures:
        raise PartFailed(f"{len(failures)} of {len(commands) + 1} failed, the first: {failures[0]}", lines)
    return lines


def _joint_step(context: Context) -> list[str]:
    folder = context.folder / "joint_step"
    for old in folder.glob("*.md"):
        old.unlink()
    size = ["--tiny"] if context.small else ["--rows", "256", "--rungs", RUNGS]
    context.python(
        "-m", "benchmarks.joint_step", "--device", context.device, *size,
        "--rounds", "2" if context.small else "5", "--no-memory", "--reports", str(folder),
    )  # fmt: skip
    return _body(next(folder.glob("*.md")))


def _body(file: Path) -> list[str]:
    """A report without its title, its headings two levels down."""
    lines = file.read_text(encoding="utf-8").splitlines()[2:]
    return [f"##{line}" if line.startswith("#") else line for line in lines] + [""]
