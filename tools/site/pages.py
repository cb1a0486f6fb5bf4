"""Put the pages of the site together in one folder: docs, README.md, CONTRIBUTING.md and the help of each command.

python tools/site/pages.py build/docs
"""

import contextlib
import io
import os
import re
import shutil
import sys
from pathlib import Path

from rt1.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]
HOME = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md"}
LINK = re.compile(r"\[([^\]]+)\]\(([^):#\s]+)(#[^)\s]+)?\)")


def page(text: str, folder: Path, pages: dict[Path, str]) -> str:
    """Return Markdown whose links lead to the pages of the site.

    A link to another file of the repository becomes its text. A broken link stays, and Zensical refuses it.
    """

    def link(match: re.Match[str]) -> str:
        target = Path(os.path.normpath(folder / match[2]))
        if target not in pages:
            return match[1] if target.exists() else match[0]
        return f"[{match[1]}]({os.path.relpath(ROOT / 'docs' / pages[target], folder_on_site(folder))}{match[3] or ''})"

    return LINK.sub(link, text.replace('src="docs/', 'src="'))


def folder_on_site(folder: Path) -> Path:
    """Return where the pages of a folder lie: those of the root are in docs, too."""
    return ROOT / "docs" if folder == ROOT else folder


def command_page() -> str:
    """Return one section per command with what ``--help`` prints."""
    os.environ.update(COLUMNS="88", NO_COLOR="1", TERM="dumb")
    sections = ["# Commands"]
    for name in COMMANDS:
        text = io.StringIO()
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            main([*name.split(), "--help"])
        lines = [line.rstrip() for line in text.getvalue().strip().splitlines()]
        sections.append("\n".join([f"## rt1 {name}\n\n```text", *lines, "```"]))
    return "\n\n".join(sections) + "\n"


def write_pages(out: Path) -> None:
    """Write all pages and images below ``out``."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(ROOT / "docs", out)
    pages = {ROOT / name: target for name, target in HOME.items()}
    pages |= {path: path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*") if path.is_file()}
    for source, target in pages.items():
        if source.suffix == ".md":
            text = source.read_text(encoding="utf-8")
            (out / target).write_text(page(text, source.parent, pages), encoding="utf-8")
    (out / "commands.md").write_text(command_page(), encoding="utf-8")


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]))
