"""The evaluations' own prompts: files in `evals/prompts`, versioned, shared with no strategy."""

from __future__ import annotations

from importlib import resources

from veridical.strategies.prompting import Prompt


def wording(name: str) -> Prompt:
    """The prompt in `prompts/GROUP/NAME.md`."""
    return Prompt(name, package="veridical.evals")


def text(prompt: Prompt, **variables: object) -> str:
    """A prompt with its variables filled in."""
    (message,) = prompt(**variables).messages
    return str(message["content"])


def versions(*packages: str) -> dict[str, str]:
    """NAME → NAME@HASH of every prompt file of these packages."""
    found = {}
    for package in packages:
        folder = resources.files(package) / "prompts"
        for group in sorted(folder.iterdir(), key=lambda each: each.name):
            for file in sorted(group.iterdir(), key=lambda each: each.name) if group.is_dir() else ():
                prompt = Prompt(f"{group.name}/{file.name.removesuffix('.md')}", package)
                found[f"{package}:{prompt.name}"] = prompt.version
    return found
