"""What every test can rely on: names for the examples, every device there is, the same cases at every run."""

import os
from typing import Any

import hypothesis
import pytest
import torch

import scb_nb

DEVICES = {"cpu": True, "cuda": torch.cuda.is_available()}

hypothesis.settings.register_profile("ci", derandomize=True, deadline=None)
hypothesis.settings.load_profile("ci")

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the workers share the cores already


def pytest_report_header() -> str:
    return "devices: " + ", ".join(f"{name} {'present' if here else 'absent'}" for name, here in DEVICES.items())


@pytest.fixture(params=[name for name, here in DEVICES.items() if here])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device of this machine in turn."""
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def names_for_examples(doctest_namespace: dict[str, Any]) -> None:
    """Put what the docstrings' examples use within their reach."""
    doctest_namespace["torch"] = torch
    for name in scb_nb.__all__:
        doctest_namespace[name] = getattr(scb_nb, name)
