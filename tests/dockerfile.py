"""A Dockerfile done without a container engine, as far as that goes: its steps, each in a scratch folder that
stands for `/`. The base image is this machine with its own Python; a layer's cache, the isolation by the
kernel, and a registry have no part in it. An instruction that is not known here is an error.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

#: The folders that are the image's own; every other absolute path is the base image's.
OWN = re.compile(r"(?<![\w./-])/(?=(?:app|source|state)\b)")
BUILD_S = 900


@dataclass
class Image:
    """A stage, or at the end the image: `root` stands for its `/`."""

    root: Path
    environment: dict[str, str]
    arguments: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: int = 0
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)

    def here(self, text: str) -> str:
        """A text with the image's own paths as they are on this machine."""
        return OWN.sub(f"{self.root}/", text)

    def variables(self) -> dict[str, str]:
        """What a process in it finds in its environment."""
        return {name: self.here(value) for name, value in self.environment.items()}

    def start(
        self, command: list[str], environment: dict[str, str], **options: object
    ) -> subprocess.Popen[bytes]:
        """A process in it, as its user where this machine lets us."""
        as_user = {"user": self.user, "group": self.user, "extra_groups": []} if os.getuid() == 0 else {}
        env = {**self.variables(), **environment}
        words = [shutil.which(command[0], path=env["PATH"]) or command[0], *command[1:]]
        return subprocess.Popen(words, env=env, cwd=self.here(self.workdir), **as_user, **options)


def steps(dockerfile: Path) -> list[tuple[str, str]]:
    """Its instructions and their words."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#")]
    whole = "\n".join(lines).replace("\\\n", " ")
    found = (line.partition(" ") for line in whole.splitlines() if line.strip())
    return [(instruction, words.strip()) for instruction, _, words in found]


def build(dockerfile: Path, context: Path, scratch: Path) -> Image:
    """Do what it says. Each stage lies in the same folder while it is made, so that paths stay right when
    another copies from it."""
    base, stages = _base(scratch), dict[str, Path]()
    given: dict[str, str] = {}
    image, name = Image(scratch / "image", base), ""
    for instruction, words in steps(dockerfile):
        if instruction == "FROM":
            if image.root.exists():
                stages[name] = image.root.rename(scratch / f"stage-{name}")
            name = words.partition(" AS ")[2]
            image = Image(scratch / "image", dict(base), dict(given))
            image.root.mkdir()
        elif instruction == "ARG" and not image.root.exists():
            given |= [words.split("=", 1)]
        else:
            _do(image, instruction, words, context, stages)
    return image


def _base(scratch: Path) -> dict[str, str]:
    """The environment that the base image gives: a `python`, and how this machine reaches packages."""
    python = _python(scratch / "own-python")
    # Beside a copy, and not elsewhere: from there an interpreter looks for its library.
    programs = python.parent if python.is_relative_to(scratch) else scratch / "base"
    programs.mkdir(exist_ok=True)
    if not (programs / "python").exists():
        (programs / "python").symlink_to(python)
    kept = {name: value for name, value in os.environ.items() if re.match(r"(?i)pip_|ssl_|.*_proxy$", name)}
    libraries = {"LD_LIBRARY_PATH": str(python.parent.parent / "lib")}
    return {**kept, **libraries, "PATH": f"{programs}:/usr/bin:/bin", "HOME": str(scratch)}


def _python(place: Path) -> Path:
    """This machine's Python; a copy of it where other users cannot reach it, such as in root's home."""
    found = Path(sys._base_executable).resolve()
    if all(folder.stat().st_mode & 0o001 for folder in found.parents):
        return found
    library = f"lib/python{sys.version_info.major}.{sys.version_info.minor}"
    left_out = shutil.ignore_patterns("site-packages", "__pycache__", "test", "config-*")
    shutil.copytree(Path(sys.base_prefix, library), place / library, ignore=left_out)
    for shared in Path(sys.base_prefix, "lib").glob("libpython*.so*"):
        shutil.copy2(shared, place / "lib")
    (place / "bin").mkdir()
    return Path(shutil.copy2(found, place / "bin"))


def _do(image: Image, instruction: str, words: str, context: Path, stages: dict[str, Path]) -> None:
    known = {**image.arguments, **image.environment}
    if instruction not in ("RUN", "HEALTHCHECK"):
        words = re.sub(r"\$\{?(\w+)\}?", lambda found: known[found[1]], words)
    match instruction:
        case "ARG":
            image.arguments |= [words.split("=", 1)]
        case "ENV":
            image.environment |= (each.split("=", 1) for each in shlex.split(words))
        case "WORKDIR":
            image.workdir = words
            Path(image.here(words)).mkdir(parents=True, exist_ok=True)
        case "COPY":
            _copy(image, shlex.split(words), context, stages)
        case "RUN":
            _run(image, words)
        case _:
            _note(image, instruction, words)


def _run(image: Image, words: str) -> None:
    environment = {**image.variables(), **image.arguments}
    command = ["sh", "-ec", image.here(words)]
    subprocess.run(command, cwd=image.here(image.workdir), env=environment, check=True, timeout=BUILD_S)


def _note(image: Image, instruction: str, words: str) -> None:
    """What says only how the image is to be run."""
    match instruction:
        case "USER":
            image.user = int(words.partition(":")[0])
        case "ENTRYPOINT":
            image.entrypoint = json.loads(words)
        case "CMD":
            image.command = json.loads(words)
        case "HEALTHCHECK":
            image.health = json.loads(words.partition(" CMD ")[2])
        case "VOLUME" | "EXPOSE" | "STOPSIGNAL":
            pass
        case _:
            raise ValueError(f"{instruction} is not known here")


def _copy(image: Image, words: list[str], context: Path, stages: dict[str, Path]) -> None:
    start = context
    if words[0].startswith("--from="):
        start = stages[words.pop(0).removeprefix("--from=")]
    *sources, target = words
    place = Path(image.here(target)) if target.startswith("/") else Path(image.here(image.workdir), target)
    for source in (start / each.lstrip("/") for each in sources):
        if source.is_dir():
            shutil.copytree(
                source, place, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, place)
