"""A machine room for one end-to-end test: godwitd on machines that share nothing but a network.

Each machine is a network and a mount namespace of its own: one interface on the room's bridge, the file system
read-only but for a private tmpfs. The whole room is a PID namespace, so that it ends, whole, with the test.
"""
import http.client
import json
import os
import pathlib
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = ROOT / "build/bin"
GODWIT = os.environ.get("GODWIT", str(BUILD / "godwit"))
AARCH64 = ["qemu-aarch64-static", str(ROOT / "build-aarch64/bin/godwitd")]
X86_64 = [str(BUILD / "godwitd")]
HOME = "/srv"  # Where each machine has its tmpfs.
SECONDS = 60   # What takes longer has failed; CI machines are busy.


def enter_room():
    """Starts this test again inside of a room, or skips it where that cannot be."""
    if os.getpid() == 1:
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "br0", "type", "bridge")
        run("ip", "link", "set", "br0", "address", "02:00:00:00:00:01")
        run("ip", "address", "add", "10.77.0.1/24", "dev", "br0")
        run("ip", "link", "set", "br0", "up")
        run("mount", "--make-rprivate", "/")
        run("mount", "-t", "tmpfs", "tmpfs", HOME)
        return
    if os.geteuid() != 0:
        print("skipped: machines of their own need root (network and mount namespaces)")
        sys.exit(0)
    probe = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "ip", "link", "add", "br0", "type", "bridge"],
                           capture_output=True, text=True)
    if probe.returncode:
        print(f"skipped: this machine gives no namespaces with a bridge in them: {probe.stderr.strip()}")
        sys.exit(0)
    os.execvp("unshare", ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
                          sys.executable, *sys.argv])


def run(*command, **options):
    result = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, **options)
    assert result.returncode == 0, f"{' '.join(command)}: exit {result.returncode}\n{result.stdout}{result.stderr}"
    return result.stdout


def until(condition, what, seconds=SECONDS):
    """Waits for `condition`, and gives back what it returned."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.02)


class Daemon:
    """A process on a machine, with its log."""

    def __init__(self, machine, name, command):
        self.name, self.log = name, pathlib.Path(HOME) / f"{name}.log"
        self.out = open(self.log, "ab")
        self.process = subprocess.Popen([*machine.enter, *command], stdout=self.out, stderr=subprocess.STDOUT,
                                        stdin=subprocess.DEVNULL)

    def text(self, since=0):
        with open(self.log, errors="replace") as file:
            file.seek(since)
            return file.read()

    def size(self):
        return self.log.stat().st_size

    def running(self):
        return self.process.poll() is None

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.out.close()


class Machine:
    """One machine: enter it by prefixing a command with `enter`."""

    def __init__(self, name, number):
        self.name, self.address = name, f"10.77.0.{number}"
        # `sleep` holds the namespaces; entering them keeps a process's id, so that signals reach it.
        self.holder = subprocess.Popen(["unshare", "--net", "--mount", "--propagation", "private", "sleep", "infinity"])
        pid = str(self.holder.pid)
        mine = os.readlink("/proc/self/ns/net")
        until(lambda: pathlib.Path(f"/proc/{pid}/comm").read_text() == "sleep\n" and os.readlink(f"/proc/{pid}/ns/net") != mine,
              f"the namespaces of {name}")
        self.enter = ["nsenter", "--target", pid, "--net", "--mount", "--"]
        run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", pid)
        run("ip", "link", "set", name, "master", "br0", "up")
        self.run("sh", "-c", f"ip link set lo up && ip address add {self.address}/24 dev eth0 && ip link set eth0 up && "
                             f"umount -l {HOME} && for at in $(df --output=target / /tmp /dev/shm '{ROOT}' | tail -n +2 | sort -u); do "
                             f"mount -o remount,bind,ro $at; done && mount -t tmpfs tmpfs {HOME} && mkdir {HOME}/data")
        for shared in (ROOT, "/tmp", "/dev/shm"):
            assert self.command("test", "-w", str(shared)).returncode, f"{name} can write to {shared}, which others see"

    def command(self, *command):
        """Runs a command there to its end: CompletedProcess."""
        return subprocess.run([*self.enter, *command], capture_output=True, text=True, timeout=SECONDS)

    def run(self, *command):
        result = self.command(*command)
        assert result.returncode == 0, f"{self.name}: {' '.join(command)}: exit {result.returncode}\n{result.stdout}{result.stderr}"
        return result.stdout

    def write(self, name, text):
        path = f"{HOME}/{name}"
        subprocess.run([*self.enter, "tee", path], input=text, text=True, check=True, stdout=subprocess.DEVNULL)
        return path

    def start(self, *command):
        return Daemon(self, self.name, command)


class Cluster:
    """A controller and agents on machines, and the command line that talks to them from outside."""
    TOKEN = "a token of the test"

    def __init__(self, metadata="sqlite:", lease_ttl=4):
        self.metadata, self.lease_ttl = metadata, lease_ttl
        self.control = Machine("control", 10)
        self.url = f"http://{self.control.address}:7070"
        self.environment = os.environ | {"GODWIT_SERVER": self.url, "GODWIT_TOKEN": self.TOKEN, "HOME": HOME,
                                         "XDG_CONFIG_HOME": f"{HOME}/config", "XDG_CACHE_HOME": f"{HOME}/cache"}
        self.token = self.control.write("token", self.TOKEN + "\n")
        self.machines, self.agents, self.arguments = {}, {}, {}
        self.start_controller()

    def start_controller(self):
        self.controller = self.control.start(*X86_64, "controller", "--listen", f"{self.control.address}:7070", "--token-file",
                                             self.token, "--data", f"{HOME}/data", "--metadata", self.metadata,
                                             "--lease-ttl", str(self.lease_ttl))
        until(lambda: self.answers("/readyz") or not self.controller.running(), "the controller is ready")
        assert self.controller.running(), self.controller.text()

    def answers(self, path):
        connection = http.client.HTTPConnection(self.control.address, 7070, timeout=2)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {self.TOKEN}"})
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def add(self, name, *arguments, program=X86_64):
        machine = self.machines[name] = Machine(name, 11 + len(self.machines))
        machine.write("token", self.TOKEN + "\n")
        self.arguments[name] = [*program, "agent", "--name", name, "--join", self.url, "--token-file", f"{HOME}/token",
                                "--listen-http", f"{machine.address}:8080", "--listen-channel", f"{machine.address}:8081",
                                "--data", f"{HOME}/data", *arguments]
        self.start_agent(name)

    def start_agent(self, name):
        """Starts the agent, again if need be, and waits until the controller knows this life of it."""
        before = {device["boot_id"] for device in self.items("devices") if device["name"] == name}
        self.agents[name] = self.machines[name].start(*self.arguments[name])
        until(lambda: any(d["name"] == name and d["state"] == "ready" and d["boot_id"] not in before for d in self.items("devices")),
              f"the agent of {name} joins: {self.agents[name].text()[-500:]}")

    def gateway(self, name):
        return self.machines[name].address, 8080

    def godwit(self, *arguments, expect=0, **environment):
        result = subprocess.run([GODWIT, *arguments], env=self.environment | environment, capture_output=True, text=True, timeout=2 * SECONDS)
        if expect is not None and result.returncode != expect:
            raise AssertionError(f"'godwit {' '.join(arguments)}': exit {result.returncode}, not {expect}\n{result.stdout}{result.stderr}")
        return result

    def items(self, kind):
        return json.loads(self.godwit("get", kind, "-o", "json").stdout)["items"]

    def instance(self, service):
        return next((item for item in self.items("instances") if item["service"] == service), None)

    def deploy(self, service):
        self.godwit("apply", "-f", str(ROOT / f"services/{service}.toml"))
        until(lambda: (self.instance(service) or {}).get("state") == "Running", f"{service} runs")

    def migrate(self, service, target):
        return json.loads(self.godwit("migrate", service, "--to", target, "-o", "json").stdout)

    def show_logs(self):
        for daemon in [self.controller, *self.agents.values()]:
            print(f"--- {daemon.name}\n" + "\n".join(daemon.text().splitlines()[-25:]), flush=True)


def ask(gateway, method, target, body=None, seconds=SECONDS):
    """One request over a connection of its own: (status, headers, body)."""
    connection = http.client.HTTPConnection(*gateway, timeout=seconds)
    try:
        connection.request(method, target, body)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


class Writers:
    """Threads that write to the service `store` and read back, each its own key: what was acknowledged must be there.

    `wrong` are answers that contradict what was acknowledged before; `failed` requests that got no answer or an error.
    """

    def __init__(self, gateways, prefix="key", pause=0.01):
        self.wrong, self.failed, self.answered, self.longest = [], [], 0, 0.0
        self.acknowledged, self.uncertain = {}, {}  # key -> its value and version; -> values that may have been written since.
        self.lock, self.ending = threading.Lock(), threading.Event()
        self.pause = pause
        self.threads = [threading.Thread(target=self.work, args=(gateway, f"{prefix}{i}"), daemon=True) for i, gateway in enumerate(gateways)]
        for thread in self.threads:
            thread.start()

    def work(self, gateway, key):
        number = 0
        while not self.ending.is_set():
            number += 1
            self.write(gateway, key, f"{key} has {number}")
            self.read(gateway, key)
            time.sleep(self.pause)

    def request(self, gateway, method, key, body=None):
        begin = time.monotonic()
        try:
            status, headers, answer = ask(gateway, method, f"/store/{key}", body)
        except (OSError, http.client.HTTPException) as error:
            status, headers, answer = 0, {}, f"{type(error).__name__}: {error}".encode()
        with self.lock:
            self.longest = max(self.longest, time.monotonic() - begin)
            if status == 200:
                self.answered += 1
            else:
                self.failed.append(f"{method} {key}: {status} {answer[:300].decode(errors='replace')}")
        return status, headers, answer

    def write(self, gateway, key, value):
        status, _, answer = self.request(gateway, "PUT", key, value)
        if status != 200:
            self.uncertain.setdefault(key, []).append(value)
            return
        version = json.loads(answer)["version"]
        before, lost = self.acknowledged.get(key, (None, 0))[1], len(self.uncertain.get(key, []))
        if not before + 1 <= version <= before + 1 + lost:
            self.wrong.append(f"PUT {key}: version {version} after {before} and {lost} unanswered")
        self.acknowledged[key], self.uncertain[key] = (value, version), []

    def read(self, gateway, key):
        status, headers, answer = self.request(gateway, "GET", key)
        if status == 200:
            self.check(key, answer.decode())

    def check(self, key, value):
        wanted = [self.acknowledged[key][0]] if key in self.acknowledged else []
        if value not in wanted + self.uncertain.get(key, []):
            self.wrong.append(f"GET {key}: {value!r}, not {wanted + self.uncertain.get(key, [])}")

    def end(self):
        self.ending.set()
        for thread in self.threads:
            thread.join(2 * SECONDS)
            assert not thread.is_alive(), "a request hangs"

    def known(self):
        """key -> (value, version), of those that are certain."""
        return {key: known for key, known in self.acknowledged.items() if not self.uncertain.get(key)}

    def more_answers(self, count, what):
        begin = self.answered
        until(lambda: self.answered >= begin + count, f"{count} more answers {what}")

    def check_clean(self, what):
        assert not self.wrong, f"{what}: wrong answers: {self.wrong[:5]}"
        assert not self.failed, f"{what}: {len(self.failed)} requests failed: {self.failed[:5]}"
