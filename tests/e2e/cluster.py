"""A cluster of its own for one end-to-end test: the real binaries, in a folder and with a context nobody else uses."""
import json
import os
import pathlib
import shutil
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
GODWIT = os.environ.get("GODWIT", str(ROOT / "build/bin/godwit"))
SECONDS = 180  # A command that takes longer has failed.


class Cluster:
    def __init__(self, plan=None):
        """`plan`: a cluster.toml; None: the default one."""
        self.plan = plan
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="godwit-e2e-"))
        self.state = self.folder / "cluster"
        self.environment = os.environ | {"XDG_CONFIG_HOME": str(self.folder / "config")}

    def __enter__(self):
        options = []
        if self.plan is not None:
            (self.folder / "plan.toml").write_text(self.plan)
            options = ["-f", str(self.folder / "plan.toml")]
        self.godwit("up", "--detach", "--state", str(self.state), *options)
        return self

    def __exit__(self, kind, value, trace):
        if kind is not None:
            for log in sorted(self.state.glob("*.log")):
                print(f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-20:]))
        self.godwit("down", "--state", str(self.state), expect=None)
        shutil.rmtree(self.folder, ignore_errors=True)

    def godwit(self, *arguments, expect=0):
        """Runs `godwit`; `expect` is the exit code it must have, None for any."""
        result = subprocess.run([GODWIT, *arguments], env=self.environment, capture_output=True, text=True, timeout=SECONDS)
        if expect is not None and result.returncode != expect:
            raise AssertionError(f"'godwit {' '.join(arguments)}': exit {result.returncode}, not {expect}\n{result.stdout}{result.stderr}")
        return result

    def items(self, kind, *name):
        return json.loads(self.godwit("get", kind, *name, "-o", "json").stdout)["items"]

    def record(self):
        return json.loads((self.state / "cluster.json").read_text())


def wasm(source, folder, *flags):
    """Compiles a C program to a WASI command, as users do, and returns its path."""
    base = os.path.join(folder, os.path.basename(source).split(".")[0])
    for command in (["clang-19", "--target=wasm32-wasi", "-O2", *flags, "-c", source, "-o", base + ".o"],
                    ["clang-19", "--target=wasm32-wasi", base + ".o", "-o", base + ".wasm", "-lm"]):
        subprocess.run(command, check=True)
    return base + ".wasm"
