"""The public surface is exact."""

import subprocess
import sys
from pathlib import Path

import pytest

import redpencil


def test_all_is_sorted_complete_and_documented():
    assert redpencil.__all__ == sorted(redpencil.__all__)
    for name in redpencil.__all__:
        value = getattr(redpencil, name)
        if callable(value):
            assert value.__doc__, name


def test_a_misspelled_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="dpo_los"):
        redpencil.dpo_los  # noqa: B018


def test_import_and_help_do_not_wait_for_torch():
    code = (
        "import sys, redpencil.cli.main as c\n"
        "try:\n c.main(['dpo', '--help'])\nexcept SystemExit:\n pass\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_version_is_in_the_changelog():
    changelog = Path(__file__).resolve().parent.parent / "CHANGELOG.md"
    assert f"## {redpencil.__version__}" in changelog.read_text(encoding="utf-8")
