"""Settings of Sphinx, and two directives that read the command line and the kernels: ``nox -s docs`` builds the pages.

Nothing is fetched while they are built: there is no intersphinx, and the theme brings its own files.
"""

from __future__ import annotations

import argparse
import ast
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

CLONE = Path(__file__).parents[1]
sys.path.insert(0, str(CLONE))

from hubmap_kit import __version__  # noqa: E402
from hubmap_kit.commands import full_parser  # noqa: E402

project = "hubmap-kit"
release = __version__
language = "en"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

html_theme = "furo"
html_title = f"hubmap-kit {release}"
html_static_path = ["style"]
html_css_files = ["pages.css"]
html_show_copyright = False
html_copy_source = False
html_theme_options = {"top_of_page_buttons": []}
smartquotes = False  # they would make a dash of the two hyphens of a flag

nitpicky = True
nitpick_ignore = [("py:class", "pathlib.Path")]
myst_heading_anchors = 3  # links to headings are those of GitHub
autodoc_mock_imports = ["cv2", "imagecodecs", "keras", "scipy", "sklearn", "tensorflow", "tifffile"]
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings name shapes, dtypes and units


class CommandLine(Directive):
    """Every command of ``hubmap-kit`` with its flags, from the parser itself."""

    def run(self) -> list[nodes.Node]:
        """Make a section for each command."""
        return [self._section(name, parser) for name, parser in commands(full_parser())]

    def _section(self, name: str, parser: argparse.ArgumentParser) -> nodes.section:
        section = nodes.section(ids=[name], names=[name])
        section += nodes.title("", name)
        about, _, example = (parser.description or "").partition("\n\n")
        section += nodes.paragraph("", about)
        section += nodes.literal_block("", textwrap.dedent(example), language="text", classes=["wrapped"])
        usage = parser.format_usage().removeprefix("usage: ")
        section += nodes.literal_block("", " ".join(usage.split()), language="text", classes=["wrapped"])
        for group in parser._action_groups:
            shown = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
            shown = [action for action in shown if not isinstance(action, argparse._HelpAction)]
            if not shown:
                continue
            if group.title and group.title != "arguments":
                section += nodes.rubric("", group.title)
            section += [self._flags(parser, shown)]
        if parser.epilog:
            section += nodes.paragraph("", parser.epilog)
        self.state.document.note_explicit_target(section)
        return section

    def _flags(self, parser: argparse.ArgumentParser, actions: list[argparse.Action]) -> nodes.definition_list:
        formatter = parser._get_formatter()
        items = nodes.definition_list()
        for action in actions:
            term = nodes.term("", "", nodes.literal("", formatter._format_action_invocation(action)))
            text = nodes.paragraph("", formatter._expand_help(action) if action.help else "")
            items += nodes.definition_list_item("", term, nodes.definition("", text))
        return items


def commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The commands of a parser, by name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


class KernelSettings(Directive):
    """A table of a kernel's settings: name, value, and the comment beside it in the kernel's file."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Make the table."""
        path = CLONE / self.arguments[0]
        self.state.document.settings.record_dependencies.add(str(path))
        source = path.read_text(encoding="utf-8")
        lines = source.splitlines()
        items = nodes.definition_list()
        for statement in ast.parse(source).body:
            if not isinstance(statement, ast.Assign) or not isinstance(target := statement.targets[0], ast.Name):
                continue
            code, _, comment = lines[statement.lineno - 1].partition("  # ")
            if not comment:
                continue  # no setting: the table of all settings
            term = nodes.term("", "", nodes.literal("", code), ids=[target.id.lower().replace("_", "-")])
            items += nodes.definition_list_item("", term, nodes.definition("", nodes.paragraph("", comment)))
        return [items]


def setup(app: Sphinx) -> None:
    """Register the directives."""
    app.add_directive("command-line", CommandLine)
    app.add_directive("kernel-settings", KernelSettings)
