"""Run a tutorial page as its reader does: write its files, change its settings, type its commands, see its output.

A titled block is a file, or the keys to change in a YAML file that exists. A `console` block is a session in
the terminal that its title names. A block whose last command is followed by one in another terminal leaves
that command running once the shown lines have appeared, and a later block of the terminal that begins without
a command shows more of its output. In shown lines `…` stands for any text, and a number or a digest for any.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import psutil
import pytest
import yaml

from deployments.core.settings import SERVE_YAML, load_serve_settings
from tests.support.doc_pages import TERMINAL, Block, blocks, session
from tests.support.prefect_stack import GraftStack

_END = "<<the command has ended>>"
_ANY_NUMBER = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\b[0-9a-f]{8,}\b|\d[\d.,:]*")


def plain(text: str) -> str:
    """A line without its spacing and with `#` for each number and digest."""
    return " ".join(_ANY_NUMBER.sub("#", text).split())


def missing_lines(shown: Sequence[str], output: Sequence[str]) -> list[str]:
    """The shown lines that no line of the output contains."""
    lines = [plain(line) for line in output]
    return [line for line in shown if line.strip(" …") and not any(_pattern(line).search(one) for one in lines)]


def _pattern(shown: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(plain(part)) for part in shown.split("…")))


class Terminal:
    """A shell with one command at a time.

    Args:
        root: its working directory.
        environment: its environment variables.
        limit_s: the longest time of a command, in seconds.
    """

    def __init__(self, root: Path, environment: Mapping[str, str], limit_s: float) -> None:
        self._limit_s = limit_s
        self._shell = subprocess.Popen(
            ["bash", "--norc"],
            cwd=root,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert self._shell.stdout is not None
        self._lines: list[str] = []
        self._shown: list[str] = []
        self._begun = False
        threading.Thread(target=self._read, args=(self._shell.stdout,), daemon=True).start()

    def _read(self, stdout: IO[str]) -> None:
        for line in stdout:
            self._lines.append(line.rstrip("\n"))

    def start(self, command: str) -> None:
        """Type a command, once the one before it has ended."""
        assert self._shell.stdin is not None
        if self._begun:
            self.finish()
        self._begun = True
        self._lines, self._shown = [], []
        self._shell.stdin.write(f"{{ {command}\n}} < /dev/null\nprintf '\\n{_END} %s\\n' $?\n")
        self._shell.stdin.flush()

    def see(self, shown: Sequence[str]) -> None:
        """Wait until these lines have appeared in the output of the command that runs."""
        self._shown += shown
        deadline = time.monotonic() + self._limit_s
        while missing := missing_lines(self._shown, self._lines):
            if time.monotonic() > deadline or self._status() is not None:
                output = "\n".join(self._lines)
                pytest.fail(f"the page shows these lines, and the command does not:\n{missing}\nOutput:\n{output}")
            time.sleep(0.2)

    def finish(self, shown: Sequence[str] = ()) -> str:
        """Wait for the command's end; its output has the shown lines, and it failed if they have an error's."""
        self._shown += shown
        deadline = time.monotonic() + self._limit_s
        while (status := self._status()) is None:
            assert time.monotonic() < deadline, "\n".join(self._lines)
            time.sleep(0.1)
        output = "\n".join(line for line in self._lines if not line.startswith(_END))
        missing = missing_lines(self._shown, self._lines)
        assert not missing, f"{output}\nThe page shows these lines, and the command does not:\n{missing}"
        self._begun = False
        assert (status != 0) == any(line.startswith("error: ") for line in self._shown), output
        return output

    def _status(self) -> int | None:
        found = [line for line in self._lines[-2:] if line.startswith(_END)]
        return int(found[-1].split()[-1]) if found else None

    def close(self) -> None:
        """End the shell and the command that it runs."""
        for process in (*psutil.Process(self._shell.pid).children(recursive=True), psutil.Process(self._shell.pid)):
            process.send_signal(signal.SIGKILL)
        self._shell.wait()


class Tutorial:
    """A page that is run in a copy of the repository.

    Args:
        page: the page.
        root: the copy.
        addresses: addresses in the page, and those of the copy's own stack.
        home: the home folder of the commands.
        instead: commands that the test replaces, since the copy is there and its environment is installed.
        before: functions to call before a command.
        limit_s: the longest time of a command, in seconds.
    """

    def __init__(
        self,
        page: Path,
        root: Path,
        addresses: Mapping[str, str],
        *,
        home: Path,
        instead: Mapping[str, str] = MappingProxyType({}),
        before: Mapping[str, Callable[[], None]] = MappingProxyType({}),
        limit_s: float = 400.0,
    ) -> None:
        self._page = page
        self._root = root
        self._addresses = addresses
        self._instead = dict(instead)
        self._before = dict(before)
        self._limit_s = limit_s
        own = {"HOME": str(home), "PYTHONPATH": str(root), "PYTHONUNBUFFERED": "1"}
        self._environment = {**os.environ, **own}
        self._terminals: dict[str, Terminal] = {}
        self.outputs: dict[str, str] = {}
        make_environment(root)

    def run(self) -> dict[str, str]:
        """Follow the page to its end; return the output of each command."""
        steps = [block for block in blocks(self._page) if block.kind == "console" or block.title]
        sessions = [block for block in steps if block.kind == "console"]
        try:
            for block in steps:
                if block.kind == "console":
                    place = sessions.index(block)
                    later = sessions[place + 1 :]
                    self._type(block, leave=bool(later) and later[0].title != block.title)
                else:
                    self._write(block)
        finally:
            for terminal in self._terminals.values():
                terminal.close()
        assert not self._instead | self._before, "the page does not have all of the commands that the test names"
        return self.outputs

    def _type(self, block: Block, *, leave: bool) -> None:
        assert not block.title or TERMINAL in block.title, f"{self._page}:{block.line}: {block.title}"
        above, commands = session(block.text)
        terminal = self._terminals.get(block.title)
        if terminal is None:
            terminal = self._terminals[block.title] = Terminal(self._root, self._environment, self._limit_s)
            terminal.start(". .venv/bin/activate")
            terminal.finish()
        if above:
            self._end(terminal, above, leave=leave and not commands)
        for number, command in enumerate(commands, 1):
            self._before.pop(command.text, lambda: None)()
            terminal.start(self._instead.pop(command.text, self._here(command.text)))
            output = self._end(terminal, command.shown, leave=leave and number == len(commands))
            self.outputs[command.text] = output

    @staticmethod
    def _end(terminal: Terminal, shown: Sequence[str], *, leave: bool) -> str:
        if leave:
            terminal.see(shown)
            return ""
        return terminal.finish(shown)

    def _here(self, text: str) -> str:
        for address, own in self._addresses.items():
            text = text.replace(address, own)
        return text

    def _write(self, block: Block) -> None:
        path = self._root / block.title
        text = self._here(block.text)
        if block.kind == "yaml" and path.is_file():
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            text = yaml.safe_dump(merged(content, yaml.safe_load(text)), sort_keys=False, allow_unicode=True)
        path.write_text(text.rstrip("\n") + "\n", encoding="utf-8")


def addresses(stack: GraftStack) -> dict[str, str]:
    """The addresses of a stack as they are in `deployments/*.yaml`, and those of a copy's stack."""
    http = load_serve_settings(stack.root / SERVE_YAML).http
    return {"127.0.0.1:4200": stack.api.url.removeprefix("http://"), "127.0.0.1:8000": f"{http.host}:{http.port}"}


def merged(content: Any, changes: Any) -> Any:
    """A YAML file's content with the keys of `changes` set, section by section."""
    if not (isinstance(content, dict) and isinstance(changes, dict)):
        return changes
    return {**content, **{key: merged(content.get(key), value) for key, value in changes.items()}}


def make_environment(root: Path) -> None:
    """The programs of `.venv/bin` that a reader uses, for a copy that shares the Python of the tests."""
    folder = root / ".venv/bin"
    folder.mkdir(parents=True, exist_ok=True)
    python = shlex.quote(sys.executable)
    for name, arguments in {
        "python": "",
        "graft": "-c 'from flows.cli import main; main()'",
        "dvc": "-m dvc",
    }.items():
        (folder / name).write_text(f'#!/bin/sh\nexec {python} {arguments} "$@"\n', encoding="utf-8")
        (folder / name).chmod(0o755)
    (folder / "activate").write_text(f"export PATH={shlex.quote(str(folder))}:$PATH\n", encoding="utf-8")
