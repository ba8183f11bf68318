"""Warnings that litellm ignores itself when it is imported; pytest takes its filters back after each test."""

import pytest

AT_IMPORT = pytest.mark.filterwarnings("ignore:.*`ReadOnly` qualifier")
AT_CALLS = pytest.mark.filterwarnings("ignore:Accessing the .* attribute on the instance is deprecated")
