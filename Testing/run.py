"""The README's commands: set up a virtual environment, then run a command in it.

    python3 Testing/run.py demo            segment the bundled sample CT with the bundled model
    python3 Testing/run.py setup           make the developers' environment, and print how to run one test
    python3 Testing/run.py check           ruff and mypy
    python3 Testing/run.py tests           ruff, mypy and the whole test suite
    python3 Testing/run.py nnunet          compare with the real nnU-Net: its models here, models fine-tuned here there
    python3 Testing/run.py ray             jobs on a Ray cluster of three nodes on this computer, one of which is killed
    python3 Testing/run.py torture         kills, damaged files, full disks, many scans, for --minutes N (Linux, macOS)
    python3 Testing/run.py study ACTION    run, list, choose or report a study (Testing/research/README.md)
    python3 Testing/run.py benchmark NAME  one of the slow measurements in Testing/research/benchmarks
    python3 Testing/run.py gpu NAME        one of the measurements on a GPU, in the Python that runs this

Only Python 3.11 or newer is needed beforehand. Outside the folder of the environment nothing is changed, with one
exception: on Debian and Ubuntu, run by root, ``setup`` and ``tests`` install the system's libraries that the test host
of the Slicer module needs; elsewhere they print which are missing. Further arguments are handed on, e.g.
``python3 Testing/run.py tests Testing/networks -x``.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: Pinned, because without a pin pip takes the newest torch and with it gigabytes of CUDA libraries.
RUNTIME = [
    "torch==2.13.0",
    "SimpleITK==2.5.7",
    "numpy==2.4.6",
    "scipy>=1.13,<2",
    "requests>=2.28,<3",
    "tqdm>=4.60,<5",
    "Pillow>=10.1,<14",
]
TESTS = [
    "pytest==9.2.0",
    "pytest-timeout==2.4.0",
    "pytest-xdist==3.8.0",
    "hypothesis>=6.100,<7",
    "h5py>=3.11,<4",
    "ruff==0.17.6",
    "mypy==2.4.1",
    # The host in which the Slicer module is tested; see Testing/slicerhost/README.md for the system's libraries.
    "slicer-core==5.13.31053.0",
    "PySide6-Essentials==6.8.3",
]
#: What draws the study's and the base model's curves, and reads Keras files.
RESEARCH = ["matplotlib>=3.8,<4", "h5py>=3.11,<4"]

#: The real nnU-Net. It asks for timm, only for one kind of network; timm brings a torchvision that does not fit a torch
#: without CUDA, so that nnU-Net would find no trainer. So both packages come alone, what else they ask for by name.
NNUNET_ALONE = ["nnunetv2==2.8.1", "dynamic-network-architectures==0.4.4"]
NNUNET = [
    "acvl-utils>=0.2.6,<0.3",
    "batchgenerators>=0.25.1",
    "batchgeneratorsv2>=0.3.2",
    "blosc2>=3.3.2",
    "einops",
    "graphviz",
    "imagecodecs",
    "matplotlib>=3.8,<4",
    "nibabel",
    "pandas",
    "scikit-image>=0.19.3",
    "scikit-learn",
    "seaborn",
    "tifffile",
    "yacs",
]

#: What the tests of jobs on a Ray cluster need beside the others, in an environment of its own: it takes 250 MB.
CLUSTER = ["ray==2.60.0"]

#: Benchmarks that run in the environment with the real nnU-Net.
WITH_NNUNET = {"compare_nnunet"}

#: What is checked without running anything, by name.
CHECKS = {"ruff": ["ruff", "check", "."], "format": ["ruff", "format", "--check", "."], "mypy": ["mypy"]}

#: What the test host needs of the system to draw without a display, by Debian's names.
LIBRARIES = ["libegl1", "libgl1", "libgl1-mesa-dri", "libxkbcommon0", "libdbus-1-3", "fonts-dejavu-core"]


def main() -> int:
    """Set up and run; returns the exit code of what was run."""
    if sys.version_info < (3, 11):  # noqa: UP036 - this file runs before anything is installed
        print("Python 3.11 or newer is needed.", file=sys.stderr)
        return 2
    commands = {
        "demo": demo,
        "setup": setup,
        "check": check,
        "tests": tests,
        "nnunet": nnunet,
        "ray": ray,
        "torture": torture,
        "study": study,
        "benchmark": benchmark,
        "gpu": gpu,
    }
    if len(sys.argv) < 2 or sys.argv[1] not in commands:
        print(__doc__)
        return 2
    return commands[sys.argv[1]](sys.argv[2:])


def demo(args: list[str]) -> int:
    """Segment the sample CT."""
    return subprocess.call([environment(RUNTIME, "demo"), "-m", "TransferSegLib", "demo", *args])


def setup(args: list[str]) -> int:
    """Make the environment with all that developing needs, and print how to use it."""
    python = environment(RUNTIME + TESTS, "tests")
    install_libraries()
    print(f"""Python with TransferSeg and its developers' tools: {python}

One test file:  python3 Testing/run.py tests Testing/networks/test_unet.py
One test:       python3 Testing/run.py tests Testing/networks/test_unet.py -k padded
Style, types:   python3 Testing/run.py check
Everything:     python3 Testing/run.py tests
Before each commit, if you like: pip install pre-commit, then pre-commit install""")
    return 0


def check(args: list[str]) -> int:
    """Run ruff and mypy, or those that are named; returns the first exit code that is not 0."""
    python = environment(RUNTIME + TESTS, "tests")
    unknown = [name for name in args if name not in CHECKS]
    if unknown:
        print(f"There is no check {', '.join(unknown)}; there is {', '.join(CHECKS)}.", file=sys.stderr)
        return 2
    for name in args or CHECKS:
        print("$", *CHECKS[name], flush=True)
        code = subprocess.call([python, "-m", *CHECKS[name]], cwd=ROOT)
        if code:
            return code
    return 0


def tests(args: list[str]) -> int:
    """Run the tests; all of them after the checks, in several processes.

    The whole suite is shared among processes file by file, because one test seldom keeps two cores busy. Tests that are
    named run in one process, as pytest does by default.
    """
    python = environment(RUNTIME + TESTS, "tests")
    install_libraries()
    if args:
        return subprocess.call([python, "-m", "pytest", *args], cwd=ROOT)
    code = check([])
    if code:
        return code
    # One thread each: processes that all use every core wait for each other.
    one_thread = {"OMP_NUM_THREADS": "1"} | os.environ
    processes = str(min(os.cpu_count() or 1, 4))
    # In the order of Testing/conftest.py, not files with many tests first: one test may take a minute.
    shared = ["--numprocesses", processes, "--dist", "loadfile", "--no-loadscope-reorder"]
    command = [python, "-m", "pytest", *shared]
    return subprocess.call(command, cwd=ROOT, env=one_thread)


def nnunet(args: list[str]) -> int:
    """Compare with the real nnU-Net."""
    return run_module(nnunet_environment(), "Testing.nnunet_chain", args)


def nnunet_environment() -> str:
    """Make (or reuse) the environment with the real nnU-Net; returns its Python."""
    python = environment(RUNTIME + NNUNET, "nnunet", NNUNET_ALONE)
    # nnU-Net imports every trainer to find one; those of this folder need timm.
    for folder in Path(python).parents[1].glob("[Ll]ib/**/nnunetv2/training/nnUNetTrainer/primus"):
        shutil.rmtree(folder)
    return python


def ray(args: list[str]) -> int:
    """Run the tests of jobs on a Ray cluster."""
    python = environment(CLUSTER, "ray", upon=environment(RUNTIME + TESTS, "tests"))
    # One thread each, and nothing of this computer's use is sent anywhere.
    settings = {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"} | os.environ | {"TRANSFERSEG_RAY_TESTS": "1"}
    # What needs no cluster is in the whole suite.
    chosen = args or ["Testing/executors", "-k", "not local"]
    return subprocess.call([python, "-m", "pytest", *chosen], cwd=ROOT, env=settings)


def torture(args: list[str]) -> int:
    """Run the torture command."""
    python = environment(RUNTIME + TESTS, "tests")
    return subprocess.call([python, str(ROOT / "Testing" / "torture" / "main.py"), *args])


def study(args: list[str]) -> int:
    """Run or report a study."""
    return run_research("study.command", args)


def benchmark(args: list[str]) -> int:
    """Run one of the measurements, or list them."""
    names = sorted(file.stem for file in (ROOT / "Testing" / "research" / "benchmarks").glob("*.py"))
    if not args or args[0] not in names:
        print("python3 Testing/run.py benchmark NAME [--help | arguments], where NAME is one of", *names, sep="\n    ")
        return 2
    if args[0] in WITH_NNUNET:
        return run_module(nnunet_environment(), f"Testing.research.benchmarks.{args[0]}", args[1:])
    return run_research(f"benchmarks.{args[0]}", args[1:])


def gpu(args: list[str]) -> int:
    """Run one of the measurements on a GPU, or list them; in this Python, because it has the torch for the GPU."""
    names = ["inference", "step", "finetune", "train_base"]
    if not args or args[0] not in names:
        print("python3 Testing/run.py gpu NAME [--help | arguments], where NAME is one of", *names, sep="\n    ")
        return 2
    return run_module(sys.executable, f"Testing.research.gpu.{args[0]}", args[1:])


def run_research(module: str, args: list[str]) -> int:
    """Run a module of Testing/research in the environment that it needs, in the current folder."""
    return run_module(environment(RUNTIME + RESEARCH, "research"), f"Testing.research.{module}", args)


def run_module(python: str, module: str, args: list[str]) -> int:
    """Run a module of the checkout with an environment's Python, in the current folder."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.call([python, "-P", "-m", module, *args], env=env)


def environment(packages: list[str], name: str, alone: Sequence[str] = (), upon: str = "") -> str:
    """Make (or reuse) the virtual environment for these packages; returns its Python.

    Of the packages ``alone`` the dependencies are not installed. ``upon`` is the Python of another environment, whose
    packages this one has, too. The environment lies in the checkout, e.g. in
    ``.venv-tests``, or below TRANSFERSEG_VENV where that is set.
    """
    folder = Path(os.environ.get("TRANSFERSEG_VENV", ROOT)) / f".venv-{name}"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    wanted = hashlib.sha256("\n".join([sys.version, *packages, *alone, *filter(None, [upon])]).encode()).hexdigest()
    stamp = folder / "installed"
    if not (python.exists() and stamp.exists() and stamp.read_text(encoding="ascii") == wanted):
        print(f"Setting up {folder} ...", file=sys.stderr, flush=True)
        venv.create(folder, with_pip=True, clear=True)
        if upon:
            (own,), (other,) = (tuple(place.glob("[Ll]ib/**/site-packages")) for place in (folder, folder_of(upon)))
            (own / "upon.pth").write_text(f"{other}\n", encoding="utf-8")
        install(python, packages)
        if alone:
            install(python, ["--no-deps", *alone])
        # The project itself, in place: its dependencies are there already.
        install(python, ["--no-deps", "--editable", str(ROOT)])
        stamp.write_text(wanted, encoding="ascii")
    return str(python)


def folder_of(python: str) -> Path:
    """Return the folder of the environment of a Python."""
    return Path(python).parents[1]


def install(python: Path, arguments: Sequence[str]) -> None:
    """Install packages with an environment's pip; a failure ends the command and tells what it was about."""
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    code = subprocess.call(command)
    if code:
        print("$", *command, file=sys.stderr)
        print(
            f"Setting up {python.parents[1]} failed: pip could not install these packages (exit code {code}), "
            "see its message above. Is the package index reachable? The next run starts the set-up again.",
            file=sys.stderr,
        )
        raise SystemExit(code)


def install_libraries() -> None:
    """Install the system's libraries of the test host where that is possible, or say which are missing.

    Where none is known to be missing (not Debian), the tests of the module find out and say what they need.
    """
    if shutil.which("dpkg") is None:
        return
    missing = [name for name in LIBRARIES if subprocess.run(["dpkg", "-s", name], capture_output=True).returncode]
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        print(f"For the tests of the Slicer module install: {' '.join(missing)}", flush=True)
        return
    print("Installing", *missing, flush=True)
    for args in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *missing]):
        if subprocess.call(["apt-get", *args]):
            print(f"apt-get {args[0]} failed: the tests of the Slicer module may not start.", file=sys.stderr)
            return


if __name__ == "__main__":
    sys.exit(main())
