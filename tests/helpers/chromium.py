"""Chromium for tests of pages, where the machine has one."""

import shutil

import pytest

PATH = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), "")
NEEDS_CHROMIUM = [pytest.mark.slow, pytest.mark.skipif(not PATH, reason="there is no Chromium on this machine")]
