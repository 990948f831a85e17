"""Fixtures shared by all tests."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # `from zoo import tiny_model` in any test


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real third-party data (REDPENCIL_DATA, default ../shared/data), or skip."""
    folder = Path(os.environ.get("REDPENCIL_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data not found at {folder}; set REDPENCIL_DATA")
    return folder
