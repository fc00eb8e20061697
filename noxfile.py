"""Sessions: ``nox -l`` lists them, ``nox`` alone runs lint and tests, ``nox -s NAME`` runs one.

Each makes its own environment below ``.nox`` with the Python that runs nox. None changes anything
outside the clone, except that ``push`` and ``submit`` change what is on Kaggle.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.default_venv_backend = "virtualenv"
nox.options.sessions = ["lint", "tests"]

# A user's settings for pip that must not make it install elsewhere than into a session's environment.
ELSEWHERE = ("target", "prefix", "root", "user", "require-virtualenv")
for name in ELSEWHERE:
    os.environ.pop(f"PIP_{name.upper().replace('-', '_')}", None)


def install(session: nox.Session, *arguments: str) -> None:
    """Install into a session's environment, with a user's settings for pip (index, proxy, certificate) but `ELSEWHERE`.

    Pip has no way to undo one setting of a configuration file, so all others are given in the environment.
    """
    listed = session.run_install("python", "-m", "pip", "config", "list", silent=True, log=False) or ""
    found = re.findall(r"^(?:global|install|:env:)\.([\w-]+)=(.+)$", str(listed), re.MULTILINE)
    kept = {name: ast.literal_eval(value) for name, value in found if name not in (*ELSEWHERE, "config-file")}
    environment = {f"PIP_{name.upper().replace('-', '_')}": value for name, value in kept.items()}
    session.install(*arguments, env={**environment, "PIP_CONFIG_FILE": os.devnull})


PROJECT = nox.project.load_toml("pyproject.toml")["project"]

# The requirements from which mypy reads types. TensorFlow, the largest by far, has none.
TYPED = ("imagecodecs", "jinja2", "matplotlib", "numpy", "opencv-python-headless", "pillow", "shtab", "tifffile")


def declared(*names: str) -> list[str]:
    """The project's requirements of these names, with their version bounds."""
    lines: list[str] = PROJECT["dependencies"]
    return [line for line in lines if re.split(r"[^\w.-]", line, maxsplit=1)[0].lower() in names]


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting, spelling, types and requirements; TensorFlow is not needed."""
    extras = PROJECT["optional-dependencies"]
    install(session, *extras["lint"], *extras["cluster"], *extras["notebooks"], *declared(*TYPED))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("codespell")
    session.run("mypy")
    session.run("pytest", "--quiet", "--noconftest", "-p", "no:cacheprovider", "tests/test_requirements.py")


@nox.session
def tests(session: nox.Session) -> None:
    """Test the built and installed package on all cores: nox -s tests -- [-m "not slow"] [other arguments of pytest].

    Without arguments all tests run, and coverage is measured.
    """
    shutil.rmtree("build", ignore_errors=True)  # else the wheel would still hold modules that were deleted
    install(session, ".[tests]")
    arguments = session.posargs or ["--cov"]
    session.run("python", "-P", "-m", "pytest", "--numprocesses=logical", "--dist=worksteal", *arguments)


@nox.session(default=False, reuse_venv=True)
def fuzz(session: nox.Session) -> None:
    """Fuzz the RLE parser, the tables and the TIFF reader: nox -s fuzz -- [--seconds 60] [--target rle|tables|tiff]."""
    install(
        session,
        "--quiet",
        "atheris>=3",
        *declared("imagecodecs", "numpy", "opencv-python-headless", "pandas", "tifffile"),
    )
    session.run("python", "tests/fuzz/fuzz.py", *session.posargs, env={"PYTHONPATH": "."})


@nox.session(default=False, reuse_venv=True)
def faults(session: nox.Session) -> None:
    """Try bad input and faults on every command: nox -s faults -- [--kills [COMMAND ...]].

    It writes docs/robustness.md.
    """
    install(session, "--quiet", "-e", ".[kaggle]", "hypothesis>=6.100", "psutil>=5.9", "pytest>=8")
    session.run("python", "tests/faults/table.py", *session.posargs, env={"PYTHONPATH": "tests"})


def oldest() -> list[str]:
    """The requirements of the project, its cluster and Kaggle's client, at the oldest versions that are allowed."""
    extras = PROJECT["optional-dependencies"]
    lines: list[str] = [*PROJECT["dependencies"], *extras["cluster"], *extras["kaggle"]]
    found = [re.match(r"([\w.-]+)>=([\w.]+)", line) for line in lines]
    return [f"{bound[1]}=={bound[2]}.*" for bound in found if bound]


@nox.session(default=False, python=["3.11", "3.12", "3.13"])
@nox.parametrize("versions", ["oldest", "newest"])
def compatibility(session: nox.Session, versions: str) -> None:
    """Run the quick tests with the oldest and newest allowed dependencies; 2 GB each, removed afterwards.

    A Python that is not installed is skipped. The oldest versions are tried with the oldest Python only, as most of
    them were made before the newer ones.
    """
    if versions == "oldest" and session.python != "3.11":
        session.skip("the oldest versions are tried with Python 3.11")
    shutil.rmtree("build", ignore_errors=True)
    install(session, ".[tests]", *(oldest() if versions == "oldest" else ("--upgrade",)))
    session.run("python", "-m", "pip", "freeze")
    try:
        flags = ["-m", "not slow", "--no-cov", "-W", "default"]  # old versions warn of much that is fine
        session.run("python", "-P", "-m", "pytest", *flags, *session.posargs)
    finally:
        shutil.rmtree(session.virtualenv.location, ignore_errors=True)


@nox.session(default=False)
def rehearse(session: nox.Session) -> None:
    """Rehearse the competition offline with the kernels that Kaggle will run: nox -s rehearse -- [--run RUN ...]."""
    install(session, "-r", "kernels/kaggle-image.txt")
    session.run("python", "-m", "hubmap_kit", "rehearse", *session.posargs)


@nox.session(default=False)
def bundle(session: nox.Session) -> None:
    """Build the dataset hubmap-kit in dist/hubmap-kit, ready to upload."""
    session.run("python", "-m", "hubmap_kit", "bundle", *session.posargs)


def kaggle(session: nox.Session, command: str) -> None:
    """Run a command that talks to Kaggle, with the official client; its environment is kept between runs."""
    install(session, "--quiet", *declared("numpy", "pandas", "tqdm"), *PROJECT["optional-dependencies"]["kaggle"])
    session.run("python", "-m", "hubmap_kit", command, *session.posargs)


@nox.session(default=False, reuse_venv=True)
def push(session: nox.Session) -> None:
    """Push to Kaggle what was rehearsed, and run it: nox -s push -- [PART ...] [--notebook] [--dry-run]."""
    kaggle(session, "push")


@nox.session(default=False, reuse_venv=True)
def submit(session: nox.Session) -> None:
    """Submit the inference kernel's version and follow it until it is scored: nox -s submit -- [--dry-run]."""
    kaggle(session, "submit")


@nox.session(default=False, reuse_venv=True)
def data(session: nox.Session) -> None:
    """Download the competition's data from Kaggle to data, or: nox -s data -- OUT."""
    kaggle(session, "data")


@nox.session(default=False, reuse_venv=True)
def validate(session: nox.Session) -> None:
    """Check a submission: nox -s validate -- submission.csv [--data DATA]; DATA is data, where nox -s data puts it."""
    shutil.rmtree("build", ignore_errors=True)
    install(session, *declared("numpy", "pandas"))
    install(session, "--no-deps", ".")
    given = any(argument.startswith("--data") for argument in session.posargs)
    if not given and not Path("data").is_dir():
        session.error("there is no folder data: nox -s data downloads it; or name another with --data DATA")
    session.run("hubmap-kit", "validate", *session.posargs, *(() if given else ("--data", "data")))


@nox.session(default=False, reuse_venv=True)
def docs(session: nox.Session) -> None:
    """Build the pages of docs/ in dist/docs, offline; every warning is an error."""
    install(session, "--quiet", *declared("numpy", "pandas"), *PROJECT["optional-dependencies"]["docs"])
    session.run("python", "-m", "sphinx", "-q", "-W", "--keep-going", "docs", "dist/docs", *session.posargs)
    session.log("the pages: dist/docs/index.html")


@nox.session(default=False, reuse_venv=True)
def pictures(session: nox.Session) -> None:
    """Draw the pictures of README and docs anew, from a demo, in ten minutes; needs Chromium."""
    shutil.rmtree("build", ignore_errors=True)
    install(session, "--quiet", ".", "playwright>=1.50")
    session.run("python", "-P", "docs/pictures/draw.py", *session.posargs)


@nox.session(default=False, reuse_venv=True)
def notebooks(session: nox.Session) -> None:
    """Make the notebooks from their scripts, and run them on a small demo in dist/notebooks, which takes a minute."""
    shutil.rmtree("build", ignore_errors=True)
    shutil.rmtree("dist/notebooks", ignore_errors=True)
    install(session, "--quiet", ".[notebooks]")
    session.run("python", "notebooks/make.py", "--run", "dist/notebooks")


@nox.session(default=False, reuse_venv=True)
def bench(session: nox.Session) -> None:
    """Measure the kit against its peers: nox -s bench -- [--quick] [--only NAME ...]; results in dist/bench."""
    shutil.rmtree("build", ignore_errors=True)
    install(session, "--quiet", ".[bench]")
    session.run("python", "-m", "bench", *session.posargs)
