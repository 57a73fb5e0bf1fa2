"""Make a wheel one that runs elsewhere: bring along what its modules are linked with, and say in its name where it runs.

    python scripts/repair_wheel.py WHEEL FOLDER

    Linux     auditwheel   copies libgomp into the wheel under a name made of its content; the name says how old a glibc may be
    macOS     delocate     copies libomp into the core's wheel; a plugin's modules are pointed at the core's copy
    Windows   delvewheel   copies libomp.dll into the wheel under a name made of its content
    any       a wheel without compiled modules (…-none-any.whl) is copied as it is

Core and plugins have to share one OpenMP runtime: a second one is a second team of threads, and LLVM's ends the process when it meets itself.
Under one name, the loaders of Linux and Windows load a library once, so that equal copies are one. macOS goes by the path.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# Where a plugin's modules look for libomp on macOS: in the core's wheel, or where a core that was built from source has its own from.
RPATHS = ("@loader_path/{up}ruvattn/.dylibs", "/opt/homebrew/opt/libomp/lib", "/usr/local/opt/libomp/lib")


def run(*command: str) -> str:
    """Run a tool of this environment, or of PATH; show what it says only where it fails."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    program = shutil.which(command[0], path=path)
    if program is None:
        sys.exit(f"{command[0]} is missing: pip install 'ruvattn[wheels]', or what docs/maintainers/wheels.md says for this system")
    result = subprocess.run(
        [program, *command[1:]],
        check=False,
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",  # a name that is no text must not end a build
    )
    if result.returncode:
        sys.exit(f"{result.stdout}\n{' '.join(command)} failed with exit code {result.returncode}")
    return result.stdout


def is_pure(wheel: Path) -> bool:
    """Whether a wheel runs anywhere as it is."""
    return wheel.name.endswith("-none-any.whl")


def on_linux(wheel: Path, folder: Path) -> None:
    """Graft libgomp with auditwheel, and see that the name is one that an index takes."""
    run("auditwheel", "repair", "--wheel-dir", str(folder), str(wheel))
    tags = re.findall(r'"((?:many|musl)?linux_\w+)"', " ".join(run("auditwheel", "show", str(made(wheel, folder))).split()))
    if not tags or not tags[0].startswith(("manylinux", "musllinux")):
        sys.exit(f"{wheel.name}: auditwheel finds it consistent with {tags[0] if tags else 'no tag'} only")
    print(f"{made(wheel, folder).name}: consistent with {tags[0]}")


def on_macos(wheel: Path, folder: Path) -> None:
    """Copy libomp into the core's wheel with delocate; have a plugin's modules use that copy."""
    if wheel.name.startswith("ruvattn-"):
        run("delocate-wheel", "-w", str(folder), str(wheel))
        return
    run("delocate-wheel", "--exclude", "libomp", "-w", str(folder), str(wheel))
    repaired = made(wheel, folder)
    with tempfile.TemporaryDirectory() as place:
        run("wheel", "unpack", "--dest", place, str(repaired))
        (root,) = Path(place).iterdir()
        for module in sorted(root.rglob("*.so")):
            use_the_cores_libomp(module, "../" * (len(module.relative_to(root).parts) - 1))
        run("wheel", "pack", "--dest-dir", str(folder), str(root))


def use_the_cores_libomp(module: Path, up: str) -> None:
    """Have a module look for libomp by name, in the folders of RPATHS."""
    linked = re.findall(r"^\s+(\S*libomp\.dylib) ", run("otool", "-L", str(module)), flags=re.MULTILINE)
    if not linked:
        return
    changes = [word for old in linked if old != "@rpath/libomp.dylib" for word in ("-change", old, "@rpath/libomp.dylib")]
    for rpath in RPATHS:
        changes += ["-add_rpath", rpath.format(up=up)]
    run("install_name_tool", *changes, str(module))
    run("codesign", "--force", "--sign", "-", str(module))  # a change ends the signature, without which ARM does not load it


def on_windows(wheel: Path, folder: Path) -> None:
    """Copy libomp.dll, which is beside clang-cl, into the wheel with delvewheel."""
    path = os.pathsep.join([os.environ.get("PATH", ""), os.environ.get("PROGRAMFILES", "C:/Program Files") + "/LLVM/bin"])
    compiler = shutil.which("clang-cl", path=path)
    run("delvewheel", "repair", *(["--add-path", str(Path(compiler).parent)] if compiler else []), "-w", str(folder), str(wheel))


def made(wheel: Path, folder: Path) -> Path:
    """Return the wheel of a folder that a tool made of another: name, version and Python stay, the platform may be called otherwise."""
    (found,) = folder.glob("-".join(wheel.name.split("-")[:-1]) + "-*.whl")
    return found


def main(wheel: Path, folder: Path) -> None:
    """Repair one wheel for the system that this runs on."""
    folder.mkdir(parents=True, exist_ok=True)
    if is_pure(wheel):
        shutil.copy(wheel, folder)
    elif sys.platform == "darwin":
        on_macos(wheel, folder)
    elif sys.platform == "win32":
        on_windows(wheel, folder)
    else:
        on_linux(wheel, folder)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("python scripts/repair_wheel.py WHEEL FOLDER")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
