"""Checks what the installation needs of the machine, before it begins; runs on any Python 3."""

import importlib.util
import os
import shutil
import sys
import sysconfig

version = "%d.%d.%d" % sys.version_info[:3]
problems = []
if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    problems.append(
        "Python 3.11, 3.12 or 3.13 is needed, found %s at %s; name another: make PYTHON=python3.12"
        % (version, sys.executable)
    )
else:
    if not all(importlib.util.find_spec(module) for module in ("venv", "ensurepip")):
        problems.append("Python's venv module is missing; on Debian: apt install python3-venv")
for problem in problems:
    print("error: " + problem, file=sys.stderr)
if not shutil.which(os.environ.get("CXX", "g++")):
    print(
        "warning: no g++: optical flow will be computed without compiled code, many times slower; "
        "on Debian: apt install g++",
        file=sys.stderr,
    )
if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
    print(
        "warning: no Python headers (Python.h): on a GPU optical flow will be computed by plain "
        "PyTorch, many times slower; on Debian: apt install python3-dev",
        file=sys.stderr,
    )
sys.exit(1 if problems else 0)
