"""The real PyTorch, where somebody has one: it takes 5 GiB, so no set-up brings it.

ARMITAGE_PYTORCH names a Python that has it, anywhere but below /tmp, which actions have for
themselves.
"""

from __future__ import annotations

import os
import subprocess

from executor.options import ExecutorOptions

PYTHON = os.environ.get("ARMITAGE_PYTORCH", "")
MISSING = "" if PYTHON else "ARMITAGE_PYTORCH names no Python with PyTorch"
SAVE_MODEL = """
import torch
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(64, 128), torch.nn.GELU(), torch.nn.Linear(128, 8)
        )
    def forward(self, x):
        return torch.softmax(self.layers(x), dim=-1)
torch.manual_seed(0)
where = "cuda" if torch.cuda.is_available() else "cpu"
model, example = Model().eval().to(where), (torch.randn(4, 64, device=where),)
torch.export.save(torch.export.export(model, example), "model.pt2")
"""


def toolchain() -> tuple[str, ...]:
    """What actions see of the host by default, and this Python."""
    ask = "import sys; print(sys.prefix); print(sys.base_prefix)"
    told = subprocess.run([PYTHON, "-c", ask], capture_output=True, text=True, check=True)
    return tuple(dict.fromkeys((*ExecutorOptions().toolchain, *told.stdout.split())))


def version() -> str:
    """PyTorch's own word for it."""
    ask = "import torch; print(torch.__version__)"
    told = subprocess.run([PYTHON, "-c", ask], capture_output=True, text=True, check=True)
    return told.stdout.strip()
